"""The preset `onnx` against onnxruntime: QLinearConv, QLinearMatMul and MatMulInteger, every code equal.

onnxruntime's kernels for uint8 x int8 may add two products in 16 bits on processors without VNNI, so weights stay in
-64..64 where products matter: then no pair can saturate, on any processor.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from accelsim.config import load_quantization
from accelsim.ir import (
    Conv2d,
    FloatActivation,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMaxPool2d,
    IntegerGraph,
    Linear,
    Mac,
    evaluate,
    quantize_input,
)
from accelsim.numerics import Arithmetic, IntFormat, requantize, to_output
from accelsim.quantization import quantize

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper, TensorProto = onnx.helper, onnx.TensorProto

ONNX = load_quantization("onnx").requantization.numerics()
ARITHMETIC = Arithmetic(
    psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=8, dataflow="ws"
)
INT8, UINT8 = IntFormat(8), IntFormat(8, signed=False)
TYPES = {
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int32): TensorProto.INT32,
}


def run(nodes, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], output: str) -> np.ndarray:
    """One small model, run by onnxruntime without rewriting it."""
    described = [helper.make_tensor_value_info(name, TYPES[x.dtype], x.shape) for name, x in inputs.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        described,
        [onnx.ValueInfoProto(name=output)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([output], inputs)[0]


def real_multiplier(x_scale: float, w_scale: np.ndarray, y_scale: float) -> np.ndarray:
    """x_scale * w_scale / y_scale in float32, as `ComputeOutputScale` of qlinearconv.cc forms it."""
    return np.float32(x_scale) * w_scale.astype(np.float32) / np.float32(y_scale)


def ours(acc: np.ndarray, multiplier: np.ndarray, zero_point: int, form: IntFormat) -> np.ndarray:
    """The preset's result of each accumulator value with the multiplier beside it."""
    pairs = np.array([ONNX.derive(float(m)) for m in multiplier], dtype=np.int64)
    scaled = requantize(acc.astype(np.int64), pairs[:, 0], pairs[:, 1], ONNX)
    return to_output(scaled, zero_point, form.limits, form, ONNX.output_overflow)


def theirs(acc: np.ndarray, x_scale: float, w_scale: np.ndarray, y_scale: float, zero_point: int, dtype) -> np.ndarray:
    """QLinearConv on an input of zeros: each channel's sum is its int32 bias, so any value can be had."""
    channels = len(acc)
    constants = {
        "xs": np.float32(x_scale),
        "xz": dtype(0),
        "w": np.ones((channels, 1, 1, 1), np.int8),
        "ws": w_scale.astype(np.float32),
        "wz": np.zeros(channels, np.int8),
        "ys": np.float32(y_scale),
        "yz": dtype(zero_point),
        "b": acc.astype(np.int32),
    }
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"])
    return run([node], {"x": np.zeros((1, 1, 1, 1), dtype)}, constants, "y").ravel()


def ends(count: int, rng: np.random.Generator) -> np.ndarray:
    """int32 values: both ends, around zero, and random at every magnitude."""
    fixed = [-(2**31), -(2**31) + 1, 2**31 - 1, 2**31 - 2, 2**24 + 1, -(2**24) - 1, 2**25 + 2, -1, 0, 1]
    sized = rng.integers(-(2**31), 2**31, count) >> rng.integers(0, 31, count)
    return np.concatenate([fixed, sized])


@pytest.mark.parametrize("dtype, zero_point", [(np.int8, 0), (np.int8, -128), (np.int8, 37), (np.uint8, 128)])
def test_requantisation_is_onnxruntime_s_over_random_values_and_multipliers(dtype, zero_point):
    rng = np.random.default_rng(abs(zero_point))
    acc = ends(20_000, rng)
    x_scale, y_scale = 0.0173, 0.0311
    # Half of the sums land inside the format, so that rounding decides and not saturation.
    aimed = rng.uniform(-300, 300, len(acc))
    real = np.where(rng.random(len(acc)) < 0.5, np.abs(aimed / np.where(acc == 0, 1, acc)), rng.uniform(0, 1, len(acc)))
    w_scale = (np.maximum(real, 1e-9) * y_scale / x_scale).astype(np.float32)
    form = INT8 if dtype is np.int8 else UINT8
    expected = theirs(acc, x_scale, w_scale, y_scale, zero_point, dtype)
    found = ours(acc, real_multiplier(x_scale, w_scale, y_scale), zero_point, form)
    assert np.array_equal(found, expected)
    assert len(np.unique(expected)) == 256  # every code occurs


def test_ties_and_limits_are_onnxruntime_s():
    """M = k / 2**s with exact products: every tie of both signs, and the codes about both limits."""
    acc, w_scale, exact = [], [], []
    for shift in (1, 2, 5, 11):
        for half in range(-263, 264):  # half / 2 is an integer or a tie, beyond both limits
            for odd in (1, 3, 5):
                if (half << (shift - 1)) % odd == 0:
                    acc.append((half << (shift - 1)) // odd)
                    w_scale.append(odd / 2**shift)
                    exact.append(Fraction(half, 2))
    found = ours(np.array(acc), np.array(w_scale), 0, INT8)
    expected = theirs(np.array(acc), 1.0, np.array(w_scale), 1.0, 0, np.int8)
    assert np.array_equal(found, expected)
    by_hand = [min(max(round(value), -128), 127) for value in exact]  # Python rounds fractions half to even
    assert found.tolist() == by_hand
    assert sum(value.denominator == 2 for value in exact) > 1500


def test_multiplier_in_float64_would_differ_from_onnxruntime():
    """Why `multiplier_arithmetic` exists: products of float32 scales, rounded once instead of twice, move codes."""
    rng = np.random.default_rng(8)
    w_scale = rng.uniform(1e-6, 1e-5, 20_000).astype(np.float32)
    x_scale, y_scale = np.float32(0.0173), np.float32(0.0311)
    in_float32 = real_multiplier(x_scale, w_scale, y_scale)
    in_float64 = np.float64(x_scale) * w_scale.astype(np.float64) / np.float64(y_scale)
    # The sum nearest to a tie of each multiplier: there a last bit of M decides.
    acc = np.rint((rng.integers(-100, 100, len(w_scale)) + 0.5) / in_float64)
    expected = theirs(acc, x_scale, w_scale, y_scale, 0, np.int8)
    assert np.array_equal(ours(acc, in_float32, 0, INT8), expected)
    assert not np.array_equal(ours(acc, in_float64, 0, INT8), expected)


def test_qlinear_matmul_of_both_types_is_ours():
    rng = np.random.default_rng(3)
    for dtype, form, a_zero, y_zero in ((np.int8, INT8, -11, 5), (np.uint8, UINT8, 131, 120)):
        a = rng.integers(*form.limits, (64, 50), dtype=dtype, endpoint=True)
        a[0], a[1] = form.limits
        b = rng.integers(-64, 65, (50, 40)).astype(np.int8)
        b[:, 0], b[:, 1] = 64, -64
        for y_scale in (0.09, 0.5, 2.0**-3):
            scales = {"as": np.float32(0.02), "bs": np.float32(0.004), "ys": np.float32(y_scale)}
            constants = {
                "as": scales["as"], "az": dtype(a_zero), "b": b, "bs": scales["bs"], "bz": np.int8(0),
                "ys": scales["ys"], "yz": dtype(y_zero),
            }  # fmt: skip
            node = helper.make_node("QLinearMatMul", ["a", *constants], ["y"])
            expected = run([node], {"a": a}, constants, "y")
            acc = (a.astype(np.int64) - a_zero) @ b.astype(np.int64)
            multiplier = np.full(40, scales["as"] * scales["bs"] / scales["ys"], np.float32)
            assert np.array_equal(ours(acc, multiplier, y_zero, form), expected), (dtype, y_scale)


# --- whole networks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> tuple[IntegerGraph, np.ndarray]:
    """conv, ReLU, max pool, strided padded conv, ReLU, linear under the preset, weights in -64..64; input codes."""
    rng = np.random.default_rng(11)

    def conv(name, source, channels, inputs, size, stride, padding):
        weight = rng.normal(0, 0.4, (channels, inputs, 3, 3)) * rng.uniform(0.1, 3, (channels, 1, 1, 1))
        return FloatConv2d(
            name=name, inputs=(source,), shape=(channels, size, size), weight=weight, bias=rng.normal(0, 0.5, channels),
            stride=(stride, stride), padding=(padding,) * 4, dilation=(1, 1), groups=1,
        )  # fmt: skip

    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    graph = FloatGraph(
        "net",
        (
            FloatInput(name="x", inputs=(), shape=(3, 14, 14)),
            conv("c1", "x", 8, 3, 12, 1, 0),
            FloatActivation(name="r1", inputs=("c1",), shape=(8, 12, 12), kind="relu"),
            FloatMaxPool2d(name="p1", inputs=("r1",), shape=(8, 6, 6), **pool),
            conv("c2", "p1", 16, 8, 3, 2, 1),
            FloatFlatten(name="flat", inputs=("c2",), shape=(144,)),
            FloatLinear(
                name="fc",
                inputs=("flat",),
                shape=(10,),
                weight=rng.normal(0, 0.3, (10, 144)),
                bias=rng.normal(0, 1, 10),
            ),
        ),
        "fc",
    )
    images = rng.normal(0.3, 1, (64, 3, 14, 14))
    quantized = quantize(graph, images, load_quantization("onnx", ["weight.bits=7"]))
    return quantized, quantize_input(quantized, images)


def test_scales_of_the_preset_are_float32_and_so_is_every_product(network):
    graph, _ = network
    for node in graph.nodes:
        assert float(np.float32(node.output.scale)) == node.output.scale
        if isinstance(node, Mac):
            assert np.array_equal(node.multiplier.real, node.multiplier.real.astype(np.float32))
            assert np.array_equal(node.multiplier.m0, node.multiplier.real.astype(np.float32).view(np.int32))


def test_every_layer_of_a_network_is_onnxruntime_s(network):
    graph, codes = network
    found = evaluate(graph, codes, ARITHMETIC).tensors
    compared = 0
    for node in graph.nodes:
        if not isinstance(node, Mac):
            continue
        source = graph.by_name[node.inputs[0]].output
        values = np.moveaxis(found[node.inputs[0]], 3, 1)
        if isinstance(node, Conv2d):
            weight = np.moveaxis(node.weight, 3, 1)
        else:
            assert isinstance(node, Linear)
            weight = node.weight.reshape(-1, source.height, source.width, source.channels)
            weight = np.moveaxis(weight, 3, 1)
        # onnxruntime subtracts the zero point itself: take what was folded out of the bias again.
        bias = node.bias + source.zero_point * node.weight.reshape(node.out_channels, -1).sum(axis=1)
        # Scales that give M: x_scale and y_scale are the graph's; w_scale is found among the float32 near M*y/x.
        w_scale = weight_scales(node, source.scale)
        constants = {
            "xs": np.float32(source.scale), "xz": np.int8(source.zero_point), "w": weight.astype(np.int8),
            "ws": w_scale, "wz": np.zeros(node.out_channels, np.int8), "ys": np.float32(node.output.scale),
            "yz": np.int8(node.output.zero_point), "b": bias.astype(np.int32),
        }  # fmt: skip
        pads = [*(node.padding[i] for i in (0, 2, 1, 3))] if isinstance(node, Conv2d) else [0] * 4
        strides = list(node.stride) if isinstance(node, Conv2d) else [1, 1]
        op = helper.make_node("QLinearConv", ["x", *constants], ["y"], pads=pads, strides=strides)
        result = run([op], {"x": values.astype(np.int8)}, constants, "y")
        expected = np.clip(np.moveaxis(result, 1, 3), *node.clip)
        assert np.array_equal(found[node.name], expected), node.name
        compared += expected.size
    assert compared == 64 * (12 * 12 * 8 + 3 * 3 * 16 + 10)


def weight_scales(node: Mac, x_scale: float) -> np.ndarray:
    """float32 S_w with x_scale * S_w / y_scale = M in float32."""
    y_scale = node.output.scale
    guess = (node.multiplier.real * y_scale / x_scale).astype(np.float32)
    for steps in range(-4, 5):
        moved = (guess.view(np.int32) + steps).view(np.float32)
        hits = real_multiplier(x_scale, moved, y_scale) == node.multiplier.real.astype(np.float32)
        guess = np.where(hits, moved, guess)
    assert np.array_equal(real_multiplier(x_scale, guess, y_scale), node.multiplier.real.astype(np.float32))
    return guess


def test_matmul_integer_is_the_accumulator(network):
    """Sums before requantisation: MatMulInteger on what the linear layer reads."""
    graph, codes = network
    found = evaluate(graph, codes, ARITHMETIC).tensors
    node = graph.by_name["fc"]
    assert isinstance(node, Linear)
    a = found["c2"].reshape(64, -1).astype(np.int8)
    zero = graph.by_name["c2"].output.zero_point
    constants = {"b": node.weight.T.astype(np.int8), "az": np.int8(zero), "bz": np.int8(0)}
    sums = run([helper.make_node("MatMulInteger", ["a", *constants], ["y"])], {"a": a}, constants, "y")
    assert sums.dtype == np.int32
    bias = node.bias + zero * node.weight.sum(axis=1)
    scaled = requantize(sums.astype(np.int64) + bias, node.multiplier.m0, node.multiplier.shift, ONNX)
    expected = to_output(scaled, node.output.zero_point, node.clip, INT8, "saturate")
    assert np.array_equal(found["fc"].reshape(64, 10), expected)
