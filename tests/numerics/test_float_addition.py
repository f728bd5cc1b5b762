"""The float32 addition against exact fractions and against onnxruntime, at every pair of codes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from accelsim.numerics import add_rounded_once, fused_multiply_add

FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)


def nearest_float32(exact: Fraction) -> np.float32:
    """Ties to even, by comparing with the neighbours of a first guess."""
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(near, key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(np.int32)) & 1))


@given(FLOATS, FLOATS, FLOATS)
def test_a_fused_multiply_add_rounds_once(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert fused_multiply_add(np.float32(a), np.float32(b), np.float32(c)) == nearest_float32(exact)


def test_it_rounds_once_where_two_roundings_would_not():
    # 1 + 2^-24 is a tie of float32, 2^-60 above it; float64 drops the 2^-60, and the tie would go to even, 1.
    a, b, c = np.float32(1 + 2.0**-12), np.float32(2.0**-24), np.float32(1)
    assert fused_multiply_add(a, b, c) == np.float32(1 + 2.0**-23)
    tiny = np.float32(2.0**-60)
    assert fused_multiply_add(tiny, np.float32(1), np.float32(1 + 2.0**-23)) == np.float32(1 + 2.0**-23)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_every_pair_of_codes_is_added_as_onnxruntime_does(dtype):
    limits, kind = np.iinfo(dtype), helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    codes = np.arange(limits.min, limits.max + 1)
    a, b = (one.ravel().astype(dtype)[None] for one in np.meshgrid(codes, codes))
    rng = np.random.default_rng(0)
    for _ in range(12):
        zeros = [int(zero) for zero in rng.integers(limits.min, limits.max + 1, 3)]
        scales = rng.uniform(0.01, 0.1, 3).astype(np.float32)
        total = add_rounded_once((a, b), (zeros[0], zeros[1], zeros[2]), (scales[0] / scales[2], scales[1] / scales[2]))
        found = _onnxruntime_add(kind, zeros, scales, a, b)
        np.testing.assert_array_equal(np.clip(total, limits.min, limits.max), found)


def _onnxruntime_add(kind, zeros, scales, a, b):
    shape = [1, a.size]
    constants = [helper.make_tensor(f"z{i}", kind, [], [zero]) for i, zero in enumerate(zeros)]
    constants += [helper.make_tensor(f"s{i}", TensorProto.FLOAT, [], [scale]) for i, scale in enumerate(scales)]
    node = helper.make_node("QLinearAdd", ["a", "s0", "z0", "b", "s1", "z1", "s2", "z2"], ["c"], domain="com.microsoft")
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name in "ab"]
    graph = helper.make_graph([node], "add", inputs, [helper.make_tensor_value_info("c", kind, shape)], constants)
    opsets = [
        onnx.OperatorSetIdProto(domain="", version=13),
        onnx.OperatorSetIdProto(domain="com.microsoft", version=1),
    ]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"a": a, "b": b})[0]
