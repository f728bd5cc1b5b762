"""The engine against the reference evaluation: every tensor of random graphs, whatever threads and memory it has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from graphs import GraphMaker, random_graph, random_hardware

from accelsim.engine import evaluation as engine_evaluation
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, evaluate
from accelsim.numerics import Arithmetic, Requantization, Rounding, Scheme

WIDE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")


def names(graph: IntegerGraph) -> list[str]:
    return [node.name for node in graph.nodes]


@pytest.mark.parametrize("seed", range(120))
def test_every_tensor_equals_the_reference_in_every_mode(seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    arithmetic = random_hardware(rng, graph, str(rng.choice(["ws", "os"]))).arithmetic()
    codes = maker.codes(int(rng.integers(1, 8)))
    found = execute(graph, codes, arithmetic, nodes=names(graph), threads=int(rng.integers(1, 3)))
    for name, expected in evaluate(graph, codes, arithmetic).tensors.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=f"seed {seed}, node {name}, {arithmetic}")


@pytest.mark.parametrize("rounding", [mode for mode in Rounding if mode is not Rounding.TFLITE_DOUBLE])
@pytest.mark.parametrize("scheme", [Scheme.FIXED_POINT, Scheme.POWER_OF_TWO])
def test_the_compiled_output_stage_rounds_ties_of_either_sign_as_the_reference(scheme, rounding):
    maker = GraphMaker(np.random.default_rng(1), Requantization(scheme=scheme, rounding=rounding))
    maker.input(1, 1, 1)
    maker.linear("input", 4)
    # Products of -128..127 with 1, 2, 3 and 8, divided by 1, 2, 4 and 16: ties, both signs, and a shift by nothing.
    real = np.array([1.0, 0.5, 0.25, 1 / 16])
    maker.nodes[1] = dataclasses.replace(
        maker.nodes[1],
        weight=np.array([[1], [2], [3], [8]]),
        bias=np.array([0, 1, -1, 0]),
        multiplier=maker.fixed(real),
        clip=(-128, 127),
    )
    graph = maker.graph()
    codes = np.arange(-128, 128).reshape(-1, 1, 1, 1)
    expected = evaluate(graph, codes, WIDE).tensors[graph.output]
    np.testing.assert_array_equal(execute(graph, codes, WIDE)[graph.output], expected)


def test_results_do_not_depend_on_slices_or_threads():
    maker = random_graph(np.random.default_rng(5))
    graph, codes = maker.graph(), maker.codes(37)
    whole = execute(graph, codes, WIDE, threads=1)[graph.output]
    for threads in (1, 2, 5):
        for memory_bytes in (1, 100_000, 1 << 40):  # slices of one image, of a few, of all
            again = execute(graph, codes, WIDE, threads=threads, memory_bytes=memory_bytes)[graph.output]
            np.testing.assert_array_equal(again, whole)


def test_memory_bounds_the_slices_and_progress_counts_the_images():
    maker = random_graph(np.random.default_rng(5))
    graph, codes = maker.graph(), maker.codes(10)
    small = engine_evaluation.slice_images(graph, 2, 100_000)
    assert 1 <= small < engine_evaluation.slice_images(graph, 1, 100_000)
    seen: list[int] = []
    execute(graph, codes, WIDE, threads=2, memory_bytes=1, progress=seen.append)
    assert seen == list(range(1, 11))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda c: c[:0],
            "input: shape (0, 5, 5, 2) is not (N, H, W, C) with (H, W, C) = (5, 5, 2) and N of at least 1",
        ),
        (lambda c: c[..., :1], "input: shape (3, 5, 5, 1) is not (N, H, W, C) with (H, W, C) = (5, 5, 2)"),
        (lambda c: c + 200, "input: codes must be integers in -128..127"),
        (lambda c: c.astype(float), "input: codes must be integers in -128..127"),
    ],
)
def test_codes_that_are_no_input_are_refused(change, message):
    maker = GraphMaker(np.random.default_rng(0), Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN))
    maker.input(5, 5, 2)
    maker.conv("input", 3, (2, 2))
    with pytest.raises(InputError) as refused:
        execute(maker.graph(), change(np.full((3, 5, 5, 2), 100)), WIDE)
    assert str(refused.value).startswith(message)


def wide_sums(weight: np.ndarray, bias: int, bias_at: str) -> GraphMaker:
    """One linear layer whose codes are the low bits of its sums: any wrong sum shows."""
    how = Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN, output_overflow="wrap")
    maker = GraphMaker(np.random.default_rng(0), how, bias_at=bias_at)
    maker.input(1, 1, weight.shape[1])
    maker.linear("input", len(weight))
    maker.nodes[1] = dataclasses.replace(
        maker.nodes[1],
        output=dataclasses.replace(maker.nodes[1].output, zero_point=0),
        weight=weight,
        bias=np.full(len(weight), bias),
        multiplier=maker.fixed(np.ones(len(weight))),
        clip=(-128, 127),
    )
    return maker


@pytest.mark.parametrize("saturate_at", ["every_add", "end"])
def test_products_beyond_float32_are_exact_though_the_bias_brings_their_sum_back(saturate_at):
    """2,000 products of about -100 * 100 are -20 million, beyond 2**24; 16 million of bias make the sum small."""
    rng = np.random.default_rng(1)
    maker = wide_sums(-rng.integers(60, 128, (4, 2000)), 16_000_000, "accumulator")
    codes = rng.integers(60, 128, (50, 1, 1, 2000))
    how = dataclasses.replace(WIDE, rows=16, saturate_at=saturate_at)
    graph = maker.graph()
    expected = evaluate(graph, codes, how).tensors[graph.output]
    np.testing.assert_array_equal(execute(graph, codes, how)[graph.output], expected)


def test_chunks_that_wrap_may_sum_to_more_than_exact_chunks():
    """Chunks of 64 products: about 64 * 69 * 124, which wraps at 20 bits, and -64 * 62 * 124: then all are negative."""
    rng = np.random.default_rng(2)
    positive = np.arange(3712) // 64 % 2 == 0
    weight = np.where(positive, rng.integers(69, 71, (4, 3712)), -rng.integers(62, 64, (4, 3712)))
    maker = wide_sums(weight, 0, "ppu")
    codes = rng.integers(121, 128, (20, 1, 1, 3712))
    how = dataclasses.replace(WIDE, psum_bits=20, overflow="wrap", rows=64)
    graph = maker.graph()
    reference = evaluate(graph, codes, how)
    assert reference.partial_sums["linear1"].minimum < -(1 << 24)
    np.testing.assert_array_equal(execute(graph, codes, how)[graph.output], reference.tensors[graph.output])


@pytest.mark.parametrize(
    "options, message",
    [({"threads": 0}, "threads = 0"), ({"threads": -1}, "threads = -1"), ({"memory_bytes": 0}, "memory_bytes = 0")],
)
def test_threads_and_memory_are_at_least_one(options, message):
    maker = random_graph(np.random.default_rng(5))
    with pytest.raises(InputError, match=rf"^{message} must be at least 1$"):
        execute(maker.graph(), maker.codes(1), WIDE, **options)


def test_a_long_k_makes_slices_smaller():
    """60,000 operands of one image as float64 are half a megabyte; a slice of 512 images would need 245."""
    maker = wide_sums(np.ones((1, 60_000), dtype=np.int64), 0, "ppu")
    assert engine_evaluation.slice_images(maker.graph(), 1, 16 << 20) < 40


def test_an_unknown_node_is_refused():
    maker = random_graph(np.random.default_rng(5))
    with pytest.raises(InputError, match=r"^graph random: has no node 'nothing'$"):
        execute(maker.graph(), maker.codes(1), WIDE, nodes=["nothing"])


def test_a_sum_that_the_scheme_does_not_take_names_the_node():
    maker = GraphMaker(
        np.random.default_rng(0), Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.TFLITE_DOUBLE)
    )
    maker.input(1, 1, 1)
    maker.linear("input", 1)
    maker.nodes[1] = dataclasses.replace(maker.nodes[1], weight=np.array([[127]]), bias=np.array([2**31 - 1]))
    with pytest.raises(InputError, match=r"^node linear1: tflite_double takes int32 values"):
        execute(maker.graph(), np.full((1, 1, 1, 1), 100), WIDE)
