"""The ways to form a layer's sums: each forced, each equal to the additions one by one wherever it may be taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.engine.evaluation import to_lanes
from accelsim.engine.layer import Layer, fit_sums, form_sums, lane_type
from accelsim.ir import mac_chunks
from accelsim.ir.reference import _operands
from accelsim.numerics import Arithmetic, Requantization, Rounding, Scheme, accumulate, fit

HOW = Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN)


def arithmetic(**changes: object) -> Arithmetic:
    plain = Arithmetic(psum_bits=16, width_bits=16, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
    return dataclasses.replace(plain, **changes)


def layer_of(rng: np.random.Generator, how: Arithmetic, *, weights: int = 127, **options: object):
    """A 3x3 convolution on 6x6x3 codes of 5 images, its layer in the engine, its sums by `numerics.accumulate`."""
    maker = GraphMaker(rng, HOW, bias_at=str(options.pop("bias_at", "ppu")))
    maker.input(6, 6, 3, 7)
    maker.conv("input", 5, (3, 3), padding=(1, 0, 0, 1))
    weight = rng.integers(-weights, weights + 1, maker.nodes[1].weight.shape)
    maker.nodes[1] = node = dataclasses.replace(maker.nodes[1], weight=weight, bias=rng.integers(-300, 300, 5))
    graph, codes = maker.graph(), maker.codes(5)
    values, operands = _operands(graph, node, codes, 7)
    start = node.bias if graph.bias_at == "accumulator" else None
    expected = accumulate(
        values.reshape(-1, values.shape[-1]), operands[0], mac_chunks(graph, node, how), how, start=start
    )
    expected = np.moveaxis(expected.reshape(5, -1, 5), 0, 2)  # (image, position, channel) to (position, channel, image)
    return Layer(graph, node, how), to_lanes(codes), expected


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("bias_at", ["ppu", "accumulator"])
@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("width, psum", [(20, 20), (16, 16), (13, 11), (9, 9)])
def test_additions_one_by_one_in_lanes_equal_those_in_integers(kind, bias_at, dataflow, width, psum):
    how = arithmetic(width_bits=width, psum_bits=psum, dataflow=dataflow)
    layer, source, expected = layer_of(np.random.default_rng(width), how, bias_at=bias_at)
    np.testing.assert_array_equal(layer.clamped(source, kind, how), expected)
    np.testing.assert_array_equal(form_sums(layer, source, how), expected)


@pytest.mark.parametrize("bias_at", ["ppu", "accumulator"])
def test_chunks_by_matrix_product_equal_additions_where_no_chunk_can_saturate(bias_at):
    # A chunk of 4 products of at most 128 * 15 stays below 2**13; nine chunks do not.
    how = arithmetic(width_bits=14, psum_bits=14)
    layer, source, expected = layer_of(np.random.default_rng(3), how, weights=15, bias_at=bias_at)
    reach = layer.reach(-128, 127, layer.start(how))
    assert reach.chunk[1] < 1 << 13 <= reach.memory[1]
    assert np.abs(expected).max() >= (1 << 13) - 1, "the case must clamp in the memory"
    np.testing.assert_array_equal(layer.by_chunk(source, np.float32, how), expected)


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("width, psum", [(12, 12), (12, 9), (20, 8)])
def test_sums_that_wrap_do_not_depend_on_the_order_inside_a_chunk(dataflow, width, psum):
    how = arithmetic(width_bits=width, psum_bits=psum, overflow="wrap", dataflow=dataflow)
    layer, source, expected = layer_of(np.random.default_rng(4), how, bias_at="accumulator")
    np.testing.assert_array_equal(form_sums(layer, source, how), expected)


def test_the_additions_are_taken_one_by_one_exactly_where_something_can_clamp(monkeypatch):
    taken: list[str] = []

    def noted(way: str):
        inner = getattr(Layer, way)
        return lambda self, *operands: taken.append(way) or inner(self, *operands)

    for way in ("exact", "by_chunk", "clamped"):
        monkeypatch.setattr(Layer, way, noted(way))
    # A chunk of 4 reaches at most 4 * 128 * 127 < 2**16, which 17 bits hold; the whole sum needs 18 or 19 bits.
    cases = [
        (arithmetic(width_bits=20, psum_bits=20), "exact"),
        (arithmetic(width_bits=17, psum_bits=17), "clamped"),  # chunks fit, but are too short for products of their own
        (arithmetic(width_bits=12, psum_bits=12, overflow="wrap"), "exact"),
        (arithmetic(width_bits=12, psum_bits=10, overflow="wrap"), "by_chunk"),
        (arithmetic(width_bits=12, psum_bits=12, saturate_at="end"), "exact"),
        (arithmetic(width_bits=12, psum_bits=12, overflow="wrap", dataflow="os"), "exact"),
        (arithmetic(width_bits=12, psum_bits=12, dataflow="os"), "clamped"),
        (arithmetic(width_bits=20, psum_bits=20, dataflow="os"), "exact"),
    ]
    for how, way in cases:
        layer, source, expected = layer_of(np.random.default_rng(6), how)
        taken.clear()
        np.testing.assert_array_equal(form_sums(layer, source, how), expected)
        assert taken == [way], how


def test_reach_is_attained_and_never_exceeded():
    """One output channel, one chunk of weights 3, -2, 5: codes -4..6 reach -4*3 - 2*6 - 4*5 and 6*3 + 2*4 + 6*5."""
    maker = GraphMaker(np.random.default_rng(0), HOW)
    maker.input(1, 1, 3)
    maker.linear("input", 1)
    maker.nodes[1] = node = dataclasses.replace(maker.nodes[1], weight=np.array([[3, -2, 5]]))
    reach = Layer(maker.graph(), node, arithmetic()).reach(-4, 6, np.array([100]))
    assert reach.chunk == (-44, 56)
    assert reach.memory == (56, 156)
    assert reach.running == (56, 156)
    assert reach.magnitude == 100 + 6 * (3 + 2 + 5)


def test_reach_counts_padding_as_an_operand():
    """Folded, padding feeds Z_x = 100 past codes of 0..1, so a weight of 2 reaches 200."""
    maker = GraphMaker(np.random.default_rng(0), HOW)
    maker.input(1, 1, 1, 100)
    maker.conv("input", 1, (1, 2), padding=(0, 0, 1, 0))
    maker.nodes[1] = node = dataclasses.replace(maker.nodes[1], weight=np.array([[[[2], [0]]]]))
    layer = Layer(maker.graph(), node, arithmetic())
    assert layer.reach(0, 1, np.array([0])).chunk == (0, 200)


def test_lanes_are_float64_from_2_to_the_24_on():
    assert lane_type((1 << 24) - 1) is np.float32
    assert lane_type(1 << 24) is np.float64
    with pytest.raises(OverflowError, match=r"beyond the engine's 2\*\*53"):
        lane_type(1 << 53)


@pytest.mark.parametrize("bits", [8, 12, 24, 64])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_fitting_in_floating_point_equals_fitting_integers(bits, overflow):
    values = np.array([-(2**40), -129, -128, -1, 0, 127, 128, 255, 2**23, 2**40 + 1])
    np.testing.assert_array_equal(fit_sums(values.astype(np.float64), bits, overflow), fit(values, bits, overflow))
