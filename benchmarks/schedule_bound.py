"""How near a network's schedule comes to a lower bound that knows nothing of the compiler.

    python benchmarks/schedule_bound.py [--workload resnet18] [--hardware tpu_like_32x32] [--set KEY=VALUE ...]

For each layer the bound is the larger of two figures. Array: the weight-stationary stream of every chunk of K against
every block of N output channels, chunks * ceil(N / C) * max(M, R) cycles. DRAM: weights, input and output moved once,
at the full bandwidth and without latency. Layers without products have the second alone. A layer's cycles are those of
the report; a layer beyond the limit is listed with the unit that its critical cycles belong to.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass

from accelsim.compiler import compile_graph
from accelsim.config import Hardware, load_hardware
from accelsim.ir import Conv2d, IntegerGraph, Linear, Node
from accelsim.isa import Program
from accelsim.sources import find_workload
from accelsim.timing import Schedule, longest_path

LIMIT = 1.15


@dataclass(frozen=True)
class Bound:
    """Least cycles of one node on array and DRAM."""

    array: int
    dram: int

    @property
    def cycles(self) -> int:
        return max(self.array, self.dram)


def bound(graph: IntegerGraph, node: Node, hardware: Hardware) -> Bound:
    """The lower bound of one node, from shapes alone, for one image."""
    rows, columns = hardware.array.rows, hardware.array.columns
    moved = node.output.size + sum(graph.by_name[name].output.size for name in node.inputs)
    array = 0
    if isinstance(node, Conv2d):
        channels, kernel_h, kernel_w, per_group = node.weight.shape
        words = node.output.height * node.output.width
        if per_group == 1 and node.groups == channels:
            tiles = kernel_h * kernel_w * -(-channels // min(rows, columns))
        else:
            # A kernel row's positions are one run of consecutive bytes only where nothing lies between them.
            packed = node.groups == 1 and node.dilation[1] == 1
            runs, length = (kernel_h, kernel_w * per_group) if packed else (kernel_h * kernel_w, per_group)
            tiles = runs * -(-length // rows) * node.groups * -(-(channels // node.groups) // columns)
        array = tiles * max(words, rows)
        moved += node.weight.size
    elif isinstance(node, Linear):
        channels, inner = node.weight.shape
        array = -(-inner // rows) * -(-channels // columns) * max(1, rows)
        moved += node.weight.size
    return Bound(array, -(-moved // hardware.dram.bandwidth_bytes_per_cycle))


def layer_cycles(program: Program, schedule: Schedule) -> list[int]:
    """Cycles of each layer: its completion minus that of the one before (batch 1, every layer once)."""
    last: Counter[int] = Counter()
    for instruction, done in zip(program.instructions, schedule.done, strict=True):
        last[instruction.label] = max(last[instruction.label], done + 1)
    ends, cycles = 0, []
    for label in range(len(program.layers)):
        cycles.append(max(last[label] - ends, 0))
        ends = max(ends, last[label])
    return cycles


def blamed(program: Program, schedule: Schedule, label: int) -> str:
    """The unit that most of a layer's cycles on the critical path belong to."""
    path = schedule.critical_path()
    spent: Counter[str] = Counter()
    for index, following in zip(path, [*path[1:], None], strict=True):
        instruction = program.instructions[index]
        until = schedule.done[index] + 1 if following is None else schedule.issue[following]
        if instruction.label == label:
            spent[instruction.UNIT.name] += until - schedule.issue[index]
    return spent.most_common(1)[0][0] if spent else "none: hidden behind other layers"


def main() -> int:
    """Print the table; exits with 1 where the sum is beyond the limit."""
    parser = argparse.ArgumentParser(description="A schedule beside its lower bound.")
    parser.add_argument("--workload", default="resnet18")
    parser.add_argument("--hardware", default="tpu_like_32x32")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    hardware = load_hardware(arguments.hardware, arguments.set)
    graph = find_workload(arguments.workload, quantization=None, data="digits").graph
    program = compile_graph(graph, hardware)
    schedule = longest_path(program.instructions, hardware)
    total = least = 0
    beyond = []
    print(f"{arguments.workload} on {hardware.name}: {len(program.instructions):,} instructions")
    print(f"{'layer':24} {'cycles':>10} {'array':>10} {'DRAM':>10} {'over bound':>10}")
    for label, (layer, cycles) in enumerate(zip(program.layers, layer_cycles(program, schedule), strict=True)):
        low = bound(graph, graph.by_name[layer.name], hardware)
        total, least = total + cycles, least + low.cycles
        ratio = cycles / low.cycles
        print(f"{layer.name:24} {cycles:10,} {low.array:10,} {low.dram:10,} {100 * (ratio - 1):+9.1f}%")
        if ratio > LIMIT:
            beyond.append(
                f"{layer.name}: {ratio:.2f} of its bound; on the critical path: {blamed(program, schedule, label)}"
            )
    print(
        f"{'sum':24} {total:10,} {'':10} {least:10,} {100 * (total / least - 1):+9.1f}%  ({schedule.cycles:,} in all)"
    )
    print("\n".join(["", f"more than {100 * (LIMIT - 1):.0f} % over their own bound:", *beyond]) if beyond else "")
    return int(total > LIMIT * least)


if __name__ == "__main__":
    sys.exit(main())
