"""Every operation of an integer graph has values, cycles, counts and energy; one that nobody knows has none of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.accounting import count_of, layer_counts, layer_cycles, price
from accelsim.compiler import compile_graph
from accelsim.compiler.allocation import DramImage
from accelsim.compiler.compilation import cut
from accelsim.compiler.emission import Emitter
from accelsim.compiler.lowering import Operation
from accelsim.config import load_hardware
from accelsim.energy import load_energy
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.ir import OP_NAMES, Conv2d, Dequantize, Input, IntegerGraph, Node, Quantize, evaluate
from accelsim.machine import Accelerator
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import Outcome

ON_THE_HOST = {"quantize", "dequantize"}
"""Refused by the compiler by name (tests/importers): no machine runs them, so no report can leave them out."""


def one_of_each() -> IntegerGraph:
    """A graph in which every operation of the machine stands alone: no table or clip is part of the one before."""
    maker = GraphMaker(np.random.default_rng(3), Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR))
    source = maker.input(8, 8, 4)
    conv = maker.conv(source, 4, (3, 3), padding=(1, 1, 1, 1))
    maker.nodes[-1] = replace(maker.last(), output=replace(maker.last().output, zero_point=0), clip=(-128, 127))
    product = maker.matmul(conv, conv, 2, "channels")
    product = maker.matmul(product, conv, 2, "tokens")
    total = maker.sum(product, conv)
    clipped = maker.clip(total)
    level = maker.pool(clipped, "avg", (2, 1), (1, 1))
    pooled = maker.pool(level, "max", (3, 3), (2, 2), (1, 1, 1, 1))
    mean = maker.pool(pooled, "avg", (3, 3), (1, 1))
    table = maker.table(maker.table(mean))  # the first becomes part of the pool
    depthwise = maker.conv(table, 4, (1, 1), groups=4)
    maker.linear(depthwise, 5)
    return maker.graph()


@pytest.fixture(scope="module")
def run():
    graph = one_of_each()
    program = compile_graph(graph, load_hardware("rtl_4x4", ["activation.memory_bytes=8192"]))
    machine = Accelerator(program)
    outcome = Outcome(program, machine, machine.run(values=False))
    return graph, outcome, price(outcome, graph, load_energy("horowitz_45nm"))


def test_the_graph_has_every_operation_of_the_machine(run):
    graph, _, _ = run
    assert {node.op for node in graph.nodes} == set(OP_NAMES.values()) - ON_THE_HOST


def test_every_operation_has_cycles_counts_and_energy(run):
    graph, outcome, priced = run
    program = outcome.program
    cycles, counts = layer_cycles(outcome), layer_counts(outcome)
    alone = [layer for layer in program.layers if len(layer.nodes) == 1]
    assert {layer.op for layer in alone} >= set(OP_NAMES.values()) - ON_THE_HOST - {"input"}
    for label, layer in enumerate(program.layers):
        assert cycles[label] > 0, layer.name
        # Whatever it is, its result is written, and something was read for it.
        assert count_of(counts[label], "write.activation") >= layer.outputs > 0, layer.name
        assert count_of(counts[label], "read.activation") > 0, layer.name
        node = graph.by_name[layer.name]
        assert count_of(counts[label], "mul") == layer.macs == graph.macs(node)
        assert (layer.macs > 0) == (layer.op in ("conv2d", "linear", "matmul"))
        assert priced.layers[label].energy > 0, layer.name


def test_macs_are_those_of_a_loop_over_the_definition(run):
    graph, _, _ = run
    macs = {node.name: graph.macs(node) for node in graph.nodes}
    convolution, depthwise = (node for node in graph.nodes if isinstance(node, Conv2d))
    assert macs[convolution.name] == 8 * 8 * 4 * (3 * 3 * 4)
    assert macs[depthwise.name] == 2 * 2 * 4 * 1
    first, second = (node for node in graph.nodes if node.op == "matmul")
    assert macs[first.name] == macs[second.name] == 2 * 64 * 64 * 2
    assert macs[graph.output] == 5 * 16
    assert sum(macs.values()) == 9216 + 16 + 2 * 16384 + 80


# --- what nobody knows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Unknown(Node):
    """An operation that was added to the graph and to nothing else."""


@pytest.fixture
def unknown(monkeypatch) -> IntegerGraph:
    """A graph with it, for which every check of legality has been told that it is fine."""
    graph = one_of_each()
    nodes = (*graph.nodes[:2], Unknown(name="new", inputs=("input",), output=graph.nodes[0].output))
    with pytest.raises(InputError, match="node new: unknown operation Unknown"):
        replace(graph, nodes=nodes, output="new", output_shape=(4, 8, 8))
    monkeypatch.setitem(OP_NAMES, Unknown, "unknown")
    monkeypatch.setattr("accelsim.ir.integer_graph.check_integer_graph", lambda graph: None)
    return replace(graph, nodes=nodes, output="new", output_shape=(4, 8, 8))


def test_an_unknown_operation_has_no_macs(unknown):
    with pytest.raises(TypeError, match="Unknown: its multiply-accumulates cannot be counted"):
        unknown.macs(unknown.by_name["new"])


def test_an_unknown_operation_has_no_value(unknown):
    codes = np.zeros((1, 8, 8, 4), dtype=np.int64)
    arithmetic = load_hardware("rtl_4x4").arithmetic()
    with pytest.raises(TypeError, match="Unknown has no reference evaluation"):
        evaluate(unknown, codes, arithmetic)
    with pytest.raises(TypeError, match="Unknown has no evaluation in the engine"):
        execute(unknown, codes, arithmetic, threads=1)


def test_an_unknown_operation_has_no_instructions(unknown):
    hardware = load_hardware("rtl_4x4")
    emitter = Emitter(unknown, hardware, DramImage())
    with pytest.raises(TypeError, match="Unknown has no instructions"):
        cut(emitter, Operation(label=0, head=unknown.by_name["new"]))
    with pytest.raises(TypeError, match="Unknown"):
        compile_graph(unknown, hardware)


def test_every_kind_of_node_is_counted(run):
    """`macs` knows each class of OP_NAMES: a new one fails here until it is added there."""
    graph, _, _ = run
    for kind in OP_NAMES:
        nodes = [node for node in graph.nodes if type(node) is kind]
        if kind in (Quantize, Dequantize):
            one = np.ones(1)
            nodes = [
                kind(name="q", inputs=("input",), output=graph.nodes[0].output, scales=one, zero_points=one.astype(int))
            ]
        assert nodes, kind
        assert all(graph.macs(node) >= 0 for node in nodes)
    assert graph.macs(next(node for node in graph.nodes if isinstance(node, Input))) == 0
