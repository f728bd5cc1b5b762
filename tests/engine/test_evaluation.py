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
