"""Statistics of every addition: against the reference's extremes, and against Python integers one by one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from graphs import GraphMaker, random_graph, random_hardware

from accelsim.engine import telemetry as telemetry_module
from accelsim.engine import uniform, watch
from accelsim.engine.evaluation import to_lanes
from accelsim.engine.layer import Layer
from accelsim.ir import IntegerGraph, Linear, evaluate
from accelsim.numerics import Arithmetic, Requantization, Rounding, Scheme

FIELDS = ("additions", "overflows", "minimum", "maximum", "total", "squares", "histogram")


@pytest.mark.parametrize("seed", range(60))
def test_extremes_and_overflows_are_the_references(seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    arithmetic = random_hardware(rng, graph, str(rng.choice(["ws", "os"]))).arithmetic()
    codes = maker.codes(int(rng.integers(1, 9)))
    seen = watch(graph, codes, uniform(graph, arithmetic), threads=int(rng.integers(1, 3)), memory_bytes=1 << 14)
    for name, expected in evaluate(graph, codes, arithmetic).partial_sums.items():
        found = seen.layers[name].layer()
        assert (found.minimum[0], found.maximum[0], found.overflows[0]) == (
            expected.minimum,
            expected.maximum,
            expected.overflows,
        ), f"seed {seed}, layer {name}"
        assert (name in seen.overflowing) == (expected.overflows > 0)


@pytest.mark.parametrize("seed", range(12))
def test_the_compiled_loop_counts_what_python_integers_count(seed, monkeypatch):
    rng = np.random.default_rng(100 + seed)
    maker = random_graph(rng)
    graph = maker.graph()
    scenario = uniform(graph, random_hardware(rng, graph, str(rng.choice(["ws", "os"]))).arithmetic())
    codes = maker.codes(2)
    fast = watch(graph, codes, scenario)
    monkeypatch.setattr(telemetry_module, "watch_layer", telemetry_module._watch_wide)
    slow = watch(graph, codes, scenario)
    for name, found in fast.layers.items():
        for key in FIELDS:
            np.testing.assert_array_equal(getattr(found, key), getattr(slow.layers[name], key), err_msg=f"{name} {key}")


def dot(weights: list[int], activations: list[int], **changes: object) -> tuple[IntegerGraph, np.ndarray, Arithmetic]:
    """One linear layer of one output, and its arithmetic: 8 bits, R = 2, saturating."""
    maker = GraphMaker(
        np.random.default_rng(0),
        Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN),
        bias_at=str(changes.pop("bias_at", "ppu")),
    )
    maker.input(1, 1, len(weights))
    maker.linear("input", 1)
    linear = maker.nodes[1]
    assert isinstance(linear, Linear)
    bias = np.array([int(changes.pop("bias", 0))])
    maker.nodes[1] = dataclasses.replace(linear, weight=np.array([weights]), bias=bias)
    how = Arithmetic(psum_bits=8, width_bits=8, overflow="saturate", saturate_at="every_add", rows=2, dataflow="ws")
    return maker.graph(), np.array(activations).reshape(1, 1, 1, -1), dataclasses.replace(how, **changes)


def test_the_worked_case_of_the_microarchitecture_page():
    """docs/microarchitecture.md, 9.10. ws adds 100, 200 -> 127, memory 127, -100, -200 -> -128, memory -1."""
    graph, codes, how = dot([10, 10, -10, -10], [10, 10, 10, 10])
    found = watch(graph, codes, uniform(graph, how)).layers["linear1"]
    sums = [100, 200, 127, -100, -200, -1]
    assert (found.additions[0], found.overflows[0]) == (6, 2)
    assert (found.minimum[0], found.maximum[0]) == (-200, 200)
    assert (found.total[0], found.squares[0]) == (sum(sums), sum(s * s for s in sums))
    assert found.mean[0] == sum(sums) / 6
    assert found.deviation[0] == math.sqrt(sum(s * s for s in sums) / 6 - (sum(sums) / 6) ** 2)
    # -1 needs 1 bit, 100, 127 and -100 need 8, 200 and -200 need 9.
    assert {bits: int(n) for bits, n in enumerate(found.histogram[0]) if n} == {1: 1, 8: 3, 9: 2}


def test_at_the_end_only_the_result_that_was_fitted_is_an_overflow():
    graph, codes, how = dot([10, 10, 10, -10], [10, 10, 10, 10], saturate_at="end")
    found = watch(graph, codes, uniform(graph, how)).layers["linear1"]
    assert (found.overflows[0], found.maximum[0]) == (1, 200)  # 100 + 100 + 100 - 100 = 200 leaves 8 bits, once


def test_a_bias_that_sums_start_from_is_among_the_extremes_and_no_addition():
    graph, codes, how = dot([1, 1], [1, 1], bias=-100, bias_at="accumulator", dataflow="os")
    found = watch(graph, codes, uniform(graph, how)).layers["linear1"]
    assert (found.additions[0], found.minimum[0], found.maximum[0]) == (2, -100, -98)
    assert found.total[0] == -99 - 98


def test_sums_too_large_for_the_compiled_loop_are_counted_in_python_integers(monkeypatch):
    """A bias of 2**30 starts sums that int32 lanes and squares in int64 do not hold."""
    taken: list[int] = []
    wide = telemetry_module._watch_wide
    monkeypatch.setattr(telemetry_module, "_watch_wide", lambda *a: taken.append(1) or wide(*a))
    graph, codes, how = dot(
        [1, 1], [100, 27], bias=1 << 30, bias_at="accumulator", dataflow="os", width_bits=40, psum_bits=40
    )
    found = watch(graph, codes, uniform(graph, how)).layers["linear1"]
    assert taken == [1]
    assert found.squares[0] == (2**30 + 100) ** 2 + (2**30 + 127) ** 2
    assert found.histogram[0, 32] == 2


def test_statistics_of_two_sets_of_images_add_up():
    maker = random_graph(np.random.default_rng(3))
    graph, codes = maker.graph(), maker.codes(9)
    how = Arithmetic(psum_bits=12, width_bits=20, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
    scenario = uniform(graph, how)
    whole, first, rest = (watch(graph, part, scenario).layers for part in (codes, codes[:4], codes[4:]))
    for name in whole:
        for key in FIELDS:
            np.testing.assert_array_equal(getattr(whole[name], key), getattr(first[name] + rest[name], key))


def test_a_layer_is_its_channels_together():
    maker = GraphMaker(np.random.default_rng(3), Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN))
    maker.input(5, 5, 2)
    maker.conv("input", 3, (2, 2))
    how = Arithmetic(psum_bits=12, width_bits=12, overflow="wrap", saturate_at="every_add", rows=4, dataflow="os")
    codes = to_lanes(maker.codes(4))
    found = telemetry_module.watch_layer(Layer(maker.graph(), maker.nodes[1], how), how, codes)
    together = found.layer()
    assert len(found.additions) == 3
    # 16 positions, 4 images, K = 8, in each of 3 channels.
    assert together.additions[0] == 3 * 16 * 4 * 8 == together.histogram.sum()
    assert together.minimum[0] == found.minimum.min()
    assert together.squares[0] == sum(found.squares)


def test_squares_of_many_large_sums_are_kept_exactly():
    """12,000 products of 127 * 127 sum to 1.9 * 10**8; the squares of its prefixes pass 2**63 after some hundreds."""
    graph, codes, how = dot([127] * 12_000, [127] * 12_000, dataflow="os", width_bits=32, psum_bits=32)
    found = watch(graph, codes, uniform(graph, how)).layers["linear1"]
    count, product = 12_000, 127 * 127
    assert found.total[0] == product * count * (count + 1) // 2
    assert found.squares[0] == product**2 * count * (count + 1) * (2 * count + 1) // 6
    assert found.squares[0] > 1 << 63


def test_a_scenario_without_a_layer_is_refused():
    graph, codes, _ = dot([1], [1])
    with pytest.raises(ValueError, match="no arithmetic for layer 'linear1'"):
        watch(graph, codes, {})
