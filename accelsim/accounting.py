"""What a timed run cost: cycles, operations and energy of each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from accelsim.compiler import compile_graph
from accelsim.config import Hardware
from accelsim.energy import EnergyReport, EnergyTable, LayerCounts, evaluate, memory_capacities
from accelsim.ir import IntegerGraph, Mac, MatMul
from accelsim.machine import Accelerator, Issued
from accelsim.pipeline import Outcome
from accelsim.timing import Counts, OpKey


@dataclass(frozen=True)
class Cost:
    """What one run of a batch takes: cycles of the run and of each layer, by name, and the energy report."""

    cycles: int
    layers: dict[str, int]
    energy: EnergyReport


def cost(graph: IntegerGraph, hardware: Hardware, table: EnergyTable, batch: int = 1) -> Cost:
    """Compile a graph and time it without values.

    Raises:
        InputError: it does not fit the machine, or the table has no entry for an operation that occurs.
    """
    program = compile_graph(graph, hardware, batch)
    machine = Accelerator(program)
    outcome = Outcome(program, machine, machine.run(values=False))
    cycles = layer_cycles(outcome)
    names = [layer.name for layer in program.layers]
    return Cost(sum(cycles), dict(zip(names, cycles, strict=True)), price(outcome, graph, table))


def layer_counts(outcome: Outcome) -> list[Counts]:
    """Operations of each layer, idle PE-cycles among them."""
    program = outcome.program
    counts = outcome.machine.counts()
    pes = program.hardware.array.rows * program.hardware.array.columns
    result: list[Counts] = [Counter(counts.get(label, Counter())) for label in range(len(program.layers))]
    available = [cycles * pes for cycles in layer_cycles(outcome)]
    for layer, idle in zip(result, idle_cycles(available, [count_of(layer, "mul") for layer in result]), strict=True):
        layer[OpKey("idle", 1)] = idle
    return result


def layer_cycles(outcome: Outcome) -> list[int]:
    """Cycles of each layer: its completion minus that of what precedes it in the program; they sum to the total.

    A batch run in groups of images passes through the layers once a group; a layer's passes are added up.
    """
    cycles = [0] * len(outcome.program.layers)
    for label, first, last in layer_passes(outcome.timed.timeline):
        cycles[label] += last - first + 1
    return cycles


def layer_passes(timeline: Iterable[Issued]) -> list[tuple[int, int, int]]:
    """(label, first cycle, last cycle) of each pass through a layer, in program order.

    They follow one another without a gap from cycle 0 to the run's last. A pass that ends before the one it follows
    has no cycles (docs/microarchitecture.md, section 4): it is left out, and if its neighbours are of one layer, they
    are one.
    """
    spans: list[tuple[int, int, int]] = []
    completion = -1
    for label, passed in groupby(sorted(timeline, key=lambda issued: issued.index), key=lambda issued: issued.label):
        last = max(issued.done for issued in passed)
        if last > completion:
            first = spans.pop()[1] if spans and spans[-1][0] == label else completion + 1
            spans.append((label, first, last))
            completion = last
    return spans


def idle_cycles(available: list[int], used: list[int]) -> list[int]:
    """PE-cycles without a product, by layer; they sum to those of the whole run.

    A layer that overlaps the one before it may have fewer PE-cycles of its own than products; what is missing is taken
    from the layers after it, then from those before.

    >>> idle_cycles([100, 10, 50], [20, 30, 40])
    [70, 0, 0]
    """
    idle, debt = [], 0
    for have, need in zip(available, used, strict=True):
        left = have - need - debt
        idle.append(max(left, 0))
        debt = max(-left, 0)
    for label in reversed(range(len(idle))):
        paid = min(idle[label], debt)
        idle[label] -= paid
        debt -= paid
    return idle


def price(outcome: Outcome, graph: IntegerGraph, table: EnergyTable) -> EnergyReport:
    """Energy of each layer of the timed batch."""
    hardware = outcome.program.hardware
    layers = []
    for layer, counts in zip(outcome.program.layers, layer_counts(outcome), strict=True):
        node = graph.by_name[layer.name]
        width = node.accumulator_width_bits if isinstance(node, Mac | MatMul) else None
        layers.append(
            LayerCounts(
                name=layer.name,
                op=layer.op,
                counts=counts,
                outputs=layer.outputs,
                accumulator_bits=width or hardware.accumulator.width_bits,
            )
        )
    return evaluate(table, layers, memory_capacities(hardware))


def count_of(counts: Counts, op: str) -> int:
    """Operations of one type, whatever their widths."""
    return sum(n for key, n in counts.items() if key.op == op)
