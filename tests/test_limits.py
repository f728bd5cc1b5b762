"""Tensors with codes of their own inside a container: every evaluation stays in them, and nobody exceeds a bound."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from graphs import GraphMaker, random_graph, random_hardware
from refusals import refusal
from test_second_machine import compare

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.ir import (
    IntegerGraph,
    Mac,
    TensorType,
    evaluate,
    graph_digest,
    largest_sum,
    load_graph,
    proved_overflow_free,
    quantize_input,
    width_bounds,
)
from accelsim.isa import Compute, Program, load_program
from accelsim.numerics import Arithmetic, IntFormat, Requantization, Rounding, Scheme
from accelsim.pipeline import run_checked, save_compiled, simulate
from accelsim.timing import instruction_counts

HOW = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
SEEDS = range(30)


@pytest.mark.parametrize("seed", SEEDS)
def test_machine_engine_and_reference_agree_and_no_code_leaves_its_limits(seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng, limits=True)
    graph = maker.graph()
    hardware = random_hardware(rng, graph, str(rng.choice(["ws", "os"])))
    codes = maker.codes(3)
    assert run_checked(compile_graph(graph, hardware, 2), graph, codes).mismatch is None
    expected = evaluate(graph, codes, hardware.arithmetic()).tensors
    found = execute(graph, codes, hardware.arithmetic(), nodes=[node.name for node in graph.nodes])
    for name, tensor in expected.items():
        low, high = graph.limits_of(name)
        assert low <= tensor.min() <= tensor.max() <= high, (seed, name)
        np.testing.assert_array_equal(found[name], tensor, err_msg=f"seed {seed}, node {name}")


def test_the_random_graphs_have_limits_of_every_kind():
    kinds = set()
    for seed in SEEDS:
        graph = random_graph(np.random.default_rng(seed), limits=True).graph()
        least, most = graph.activation.limits
        for node in graph.nodes:
            low, high = graph.limits_of(node.name)
            signed = "signed" if low < 0 else "unsigned"
            kinds |= {
                (node.op, "none" if node.output.limits is None else "own"),
                "restricted" if (low, high) == (least + 1, most) else "",
                f"{signed} in {'signed' if graph.activation.signed else 'unsigned'}"
                if (low, high) != (least, most)
                else "",
            }
    operations = {"conv2d", "linear", "max_pool2d", "avg_pool2d", "add", "clip", "table", "input"}
    assert {(op, "own") for op in operations} <= kinds
    assert {"restricted", "signed in signed", "unsigned in signed", "unsigned in unsigned"} <= kinds


@pytest.mark.parametrize("seed", range(4))
def test_the_machine_written_from_the_pages_agrees(seed, tmp_path):
    rng = np.random.default_rng(100 + seed)
    maker = random_graph(rng, limits=True)
    graph = maker.graph()
    program = compile_graph(graph, random_hardware(rng, graph, "ws"), 1)
    save_compiled(program, graph, maker.codes(1), tmp_path)
    compare(tmp_path)


# --- one layer --------------------------------------------------------------------------------------------------------


def layer(
    weight: list[list[int]], limits: tuple[int, int] | None, *, zero: int = 0, zero_points: str = "folded"
) -> IntegerGraph:
    """A linear layer whose input has the limits."""
    maker = GraphMaker(np.random.default_rng(0), HOW, zero_points=zero_points)
    maker.input(1, 1, len(weight[0]), zero)
    maker.nodes[0] = replace(maker.nodes[0], output=replace(maker.nodes[0].output, limits=limits))
    maker.linear("input", len(weight))
    maker.nodes[1] = replace(maker.nodes[1], weight=np.array(weight), bias=np.zeros(len(weight), np.int64))
    return maker.graph()


def reach(graph: IntegerGraph) -> int:
    """The largest magnitude of any sum of products, over every input and every prefix."""
    node = graph.nodes[1]
    assert isinstance(node, Mac)
    low, high = graph.limits_of("input")
    zero = graph.input.output.zero_point if graph.zero_points == "subtracted" else 0
    inputs = np.array(list(itertools.product(range(low, high + 1), repeat=node.weight.shape[1]))) - zero
    return int(np.abs(np.cumsum(inputs[:, None, :] * node.weight, axis=2)).max())


@pytest.mark.parametrize("limits", [(-8, 7), (0, 15), (-7, 7), (-1, 0), (3, 5), None])
@pytest.mark.parametrize("zero_points", ["folded", "subtracted"])
def test_bounds_hold_for_every_input_and_are_those_of_its_limits(limits, zero_points):
    zero = 3 if limits != (-1, 0) else 0
    graph = layer([[3, -5], [7, 2]], limits, zero=zero, zero_points=zero_points)
    node = graph.nodes[1]
    assert isinstance(node, Mac)
    assert reach(graph) <= largest_sum(graph, node)
    lone = layer([[-5]], limits, zero=zero, zero_points=zero_points)
    assert reach(lone) == largest_sum(lone, lone.nodes[1])  # with one product the bound is reached
    bits = width_bounds(graph, node).l1
    assert bits <= width_bounds(layer([[3, -5], [7, 2]], None, zero=zero, zero_points=zero_points), node).l1
    for width in range(8, 24):
        how = Arithmetic(
            psum_bits=width, width_bits=width, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws"
        )
        assert proved_overflow_free(graph, node, how) == (width >= bits)


def test_the_widths_of_a_4_bit_layer_by_hand():
    # 8 products of at most 8 * 127 are 8,128: 14 bits, 15 for weights of -128; those of 128 * 127 need 18, and 19.
    weight = [[127] * 8]
    four, eight = layer(weight, (-8, 7)), layer(weight, None)
    assert [width_bounds(graph, graph.nodes[1]) for graph in (four, eight)] == [(14, 15), (18, 19)]


def test_inputs_are_clamped_to_the_limits_by_graph_and_program():
    graph = layer([[1, 2]], (-7, 7))
    images = np.array([[-100.0, 100.0], [0.05, -0.15]], np.float32)
    assert quantize_input(graph, images).reshape(2, 2).tolist() == [[-7, 7], [1, -3]]
    program = compile_graph(graph, load_hardware("edge_8x8"), 2)
    assert program.input.limits == (-7, 7)
    clamped = np.array([[-0.35, 0.35], [0.05, -0.15]], np.float32)
    np.testing.assert_array_equal(simulate(program, images).outputs, simulate(program, clamped).outputs)


@pytest.mark.parametrize("take", ["reference", "engine", "program"])
def test_input_codes_beyond_the_limits_are_refused(take):
    graph, codes = layer([[1, 2]], (-7, 7)), np.array([[[[0, -8]]]])
    arithmetic = load_hardware("edge_8x8").arithmetic()
    calls = {
        "reference": lambda: evaluate(graph, codes, arithmetic),
        "engine": lambda: execute(graph, codes, arithmetic),
        "program": lambda: compile_graph(graph, load_hardware("edge_8x8")).with_input(codes),
    }
    with pytest.raises(InputError, match=r"-7\.\.7$"):
        calls[take]()


# --- files ------------------------------------------------------------------------------------------------------------


def test_limits_are_part_of_the_saved_graph_and_of_its_digest(tmp_path):
    graph = random_graph(np.random.default_rng(3), limits=True).graph()
    graph.save(tmp_path)
    again = load_graph(tmp_path)
    assert [node.output for node in again.nodes] == [node.output for node in graph.nodes]
    assert any(node.output.limits for node in graph.nodes)
    four, five = layer([[1, 2]], (-8, 7)), layer([[1, 2]], (-16, 15))
    assert graph_digest(four) != graph_digest(five)


def test_limits_are_part_of_the_saved_program(tmp_path):
    program = compile_graph(layer([[1, 2]], (-8, 7)), load_hardware("edge_8x8"))
    program.save(tmp_path)
    again: Program = load_program(tmp_path)
    assert (again.input, again.output) == (program.input, program.output)
    replace(program, input=replace(program.input, limits=(-8, 200))).save(tmp_path)
    assert "limits (-8, 200) are not inside (-128, 127)" in refusal(load_program, tmp_path)


# --- operand widths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits, bits",
    [((-8, 7), 4), ((0, 15), 4), ((-7, 7), 4), ((0, 16), 5), ((-1, 0), 1), ((0, 0), 1), ((-127, 127), 8)],
)
def test_a_product_counts_with_the_bits_its_input_needs(limits, bits):
    hardware = load_hardware("edge_8x8")
    program = compile_graph(layer([[1, 2]], limits), hardware)
    (compute,) = [one for one in program.instructions if isinstance(one, Compute)]
    assert compute.activation_bits == (bits if bits < 8 else 0)
    counts = instruction_counts(compute, hardware, program.modes)
    assert {(key.bits, key.by_bits) for key in counts if key.op == "mul"} == {(bits, 8)}
    assert {key.bits for key in counts if key.op == "register.activation"} == {bits}


# --- legality ---------------------------------------------------------------------------------------------------------


def changed(graph: IntegerGraph, name: str, **changes: object) -> IntegerGraph:
    output = {key: changes.pop(key) for key in ("limits", "zero_point") if key in changes}

    def one(node):
        return replace(node, output=replace(node.output, **output), **changes) if node.name == name else node

    return replace(graph, nodes=tuple(map(one, graph.nodes)))


@pytest.fixture
def every_operation() -> IntegerGraph:
    maker = GraphMaker(np.random.default_rng(1), HOW, activation=IntFormat(4))
    maker.zero_point = lambda: 0  # type: ignore[method-assign]
    node = maker.conv(maker.input(4, 4, 1), 2, (1, 1))
    node = maker.pool(maker.clip(maker.sum(node, node)), "max", (2, 2), (2, 2))
    maker.table(node)
    return changed(maker.graph(), "table5", entries=np.arange(-8, 8))


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("input", {"limits": (-9, 7)}, "limits (-9, 7) must lie in -8..7, the container's, low to high"),
        ("input", {"limits": (3, 2)}, "limits (3, 2) must lie in -8..7, the container's, low to high"),
        ("input", {"limits": (1, 7), "zero_point": 0}, "zero_point = 0 is outside 1..7"),
        ("conv1", {"limits": (-3, 3), "clip": (-3, 4)}, "clip (-3, 4) must lie in -3..3, low to high"),
        ("add2", {"limits": (0, 5), "clip": (-1, 5)}, "clip (-1, 5) must lie in 0..5, low to high"),
        ("clip3", {"limits": (-8, 6), "clip": (0, 6)}, "clip keeps the limits of its input, (-8, 7)"),
        ("max4", {"limits": (-8, 6)}, "max_pool2d keeps the limits of its input, (-8, 7)"),
        ("table5", {"limits": (-2, 2)}, "a table entry is outside -2..2"),
    ],
)
def test_illegal_limits_are_refused_by_the_nodes_name(every_operation, name, changes, message):
    said = refusal(lambda: changed(every_operation, name, **changes))
    assert said == f"integer graph random: node {name}: {message}"


def test_a_wrapping_output_has_no_limits_of_its_own(every_operation):
    wrap = replace(HOW, output_overflow="wrap")
    assert replace(every_operation, requantization=wrap)
    narrow = changed(every_operation, "conv1", limits=(-7, 7), clip=(0, 7))
    assert refusal(lambda: replace(narrow, requantization=wrap)) == (
        "integer graph random: node conv1: limits (-7, 7) need output_overflow = 'saturate', because wrapping keeps "
        "the low 4 bits of the container; saturate, or give every tensor the container's format"
    )
    same = changed(every_operation, "conv1", limits=(-8, 7))  # the container's, said aloud
    assert replace(same, requantization=wrap)
    assert TensorType(height=1, width=1, channels=1, scale=1.0).limits_in(IntFormat(4)) == (-8, 7)


def test_gradients_pass_between_the_limits_of_input_and_output():
    torch = pytest.importorskip("torch")
    from accelsim.training.gradient import float_operation, input_operation

    graph = changed(layer([[1]], (-8, 7)), "linear1", limits=(-2, 3), zero_point=0, clip=(-2, 3))
    step_x, step_y = (node.output.scale for node in graph.nodes)
    x = torch.tensor([-8.6, -8.4, 7.4, 7.6]).double().mul(step_x).reshape(4, 1, 1, 1).requires_grad_()
    input_operation(graph, x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 0]
    y = torch.tensor([-2.6, -2.4, 3.4, 3.6]).double().mul(step_y).reshape(4, 1, 1, 1).requires_grad_()
    parameters = (torch.ones(1, 1).double(), torch.zeros(1).double())
    float_operation(graph, graph.nodes[1], [y], parameters).sum().backward()
    assert y.grad.flatten().tolist() == [0, 1, 1, 0]
