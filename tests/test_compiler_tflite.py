"""tflite_double takes int32 sums; what may exceed them is refused before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.errors import InputError
from accelsim.ir import Linear
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import run_checked

TFLITE = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.TFLITE_DOUBLE)


def graph_with_bias(bias: int):
    maker = GraphMaker(np.random.default_rng(1), TFLITE)
    maker.input(1, 1, 4)
    maker.linear("input", 2)
    linear = maker.nodes[1]
    assert isinstance(linear, Linear)
    fields = {name: getattr(linear, name) for name in linear.__dataclass_fields__}
    weight = np.array([[100, 100, 100, 100], [1, 1, 1, 1]])  # |sum| <= 400 * 128 = 51,200
    maker.nodes[1] = Linear(**{**fields, "name": "sum", "weight": weight, "bias": np.array([bias, 0])})
    return maker.graph()


def test_a_sum_and_bias_within_int32_run():
    graph = graph_with_bias(2**31 - 1 - 51_200)
    outcome = run_checked(compile_graph(graph, load_hardware()), graph, np.full((1, 1, 1, 4), -128))
    assert outcome.mismatch is None


def test_a_sum_and_bias_beyond_int32_are_refused():
    with pytest.raises(InputError) as error:
        compile_graph(graph_with_bias(2**31 - 51_200), load_hardware())
    assert str(error.value) == (
        "layer sum: sums may reach 2147483648, beyond the int32 that rounding = 'tflite_double' takes; "
        "use accumulator.width_bits <= 32 with bias_at = 'accumulator', or another rounding"
    )
