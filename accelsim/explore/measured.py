"""A program's time, layer by layer: cycles, what they go to along the path that decided them, and the bound that is.

Cycles are those of docs/microarchitecture.md, section 4: a layer's passes end one after the other, each pass has the
cycles between the end before and its own, and the path that decided its end is followed back over exactly those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby

from accelsim.isa import Compute, Load, Memory, Program, Store, Unit
from accelsim.timing import Schedule, longest_path
from accelsim.timing.attribution import Attribution, Cause, Step, stream_of
from accelsim.timing.cycles import ArrayShape

POORLY_FILLED = 0.5
"""Share of PEs with a product, over the cycles an array needs for words, below which it is called poorly filled."""


class Bound(StrEnum):
    """What limits a layer."""

    ARRAY = "array-bound"
    FILLING = "poorly filled array"
    DRAM = "DRAM-bound"
    WEIGHTS = "weight-load-bound"
    POST = "POST-bound"
    LATENCY = "latency-bound"
    NOTHING = "hidden"
    """No cycle is the layer's own: it is done before what precedes it."""


CAUSES_OF = {
    Bound.ARRAY: (Cause.ARRAY_STREAM, Cause.ARRAY_DRAIN),
    Bound.FILLING: (Cause.ARRAY_STREAM, Cause.ARRAY_DRAIN),
    Bound.DRAM: (Cause.DRAM_TRANSFER, Cause.WEIGHT_TRANSFER),
    Bound.WEIGHTS: (Cause.WEIGHT_TRANSFER, Cause.WEIGHT_FILL),
    Bound.POST: (Cause.POST,),
    Bound.LATENCY: (Cause.DRAM_LATENCY,),
    Bound.NOTHING: (),
}
"""The causes whose cycles a bound stands for."""


@dataclass
class LayerTime:
    """Where the cycles of one layer, or of the whole run, go.

    Attributes:
        cycles: of its passes.
        causes, units: cycles by cause, and by the unit whose instruction had the cause; each sums to `cycles`.
        filled: PE-cycles with a product over the cycles that `Bound.ARRAY` stands for, in units of one PE.
        pes: of the array.
        passes: (first, last) cycle of each pass that has any.
        path: steps of the longest pass; kept where asked for.
    """

    pes: int
    cycles: int = 0
    causes: Counter[Cause] = field(default_factory=Counter)
    units: Counter[Unit] = field(default_factory=Counter)
    filled: float = 0.0
    passes: list[tuple[int, int]] = field(default_factory=list)
    path: list[Step] = field(default_factory=list)

    def add(self, other: LayerTime) -> None:
        """Count another layer's time as this one's too."""
        self.cycles += other.cycles
        self.causes += other.causes
        self.units += other.units
        self.filled += other.filled
        self.passes += other.passes

    @property
    def array_cycles(self) -> int:
        """Cycles the array takes to stream words and to drain."""
        return sum(self.causes[cause] for cause in CAUSES_OF[Bound.ARRAY])

    @property
    def fill(self) -> float | None:
        """Share of PEs with a product over `array_cycles`; None where there are none."""
        return self.filled / (self.pes * self.array_cycles) if self.array_cycles else None

    @property
    def bound(self) -> Bound:
        """What most of the cycles go to.

        Transfers of weights count for the DRAM and for the weights; of the two, the name is that of the one with more
        cycles of its own. Where two bounds have as many cycles, the order of `Bound` decides.
        """
        if not self.cycles:
            return Bound.NOTHING
        own = {bound: self.cycles_of(bound) for bound in Bound}
        family = max(own[Bound.DRAM], own[Bound.WEIGHTS])
        weights_first = own[Bound.WEIGHTS] >= self.causes[Cause.DRAM_TRANSFER]
        found = max(
            (own[Bound.ARRAY], Bound.FILLING if (self.fill or 0) < POORLY_FILLED else Bound.ARRAY),
            (family, Bound.WEIGHTS if weights_first else Bound.DRAM),
            (own[Bound.POST], Bound.POST),
            (own[Bound.LATENCY], Bound.LATENCY),
            key=lambda pair: pair[0],
        )
        return found[1]

    def cycles_of(self, bound: Bound) -> int:
        """Cycles that a bound stands for."""
        return sum(self.causes[cause] for cause in CAUSES_OF[bound])


@dataclass(frozen=True)
class Measured:
    """A program's schedule, and where its cycles go.

    Attributes:
        layers: by label.
        run: all of them together.
    """

    schedule: Schedule
    attribution: Attribution
    layers: list[LayerTime]
    run: LayerTime


def weight_memory(program: Program) -> Memory:
    """The memory that weights are loaded into: the activation buffer where operands are swapped (is)."""
    return Memory.ACTIVATION if program.input.layout == "columns" else Memory.WEIGHT


def weight_loads(program: Program) -> frozenset[int]:
    """The LOADs that bring weights: constants, for the array to hold or, where operands are swapped, to stream.

    What a STORE writes, or the input, is an operand of a product of two activation tensors, wherever it is loaded to.
    """
    memory = weight_memory(program)
    written = [(program.input.address, program.input.address + program.input.size)]
    written += [_dram_bytes(x) for x in program.instructions if isinstance(x, Store)]
    merged: list[tuple[int, int]] = []
    for low, high in sorted(written):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    found = []
    for index, x in enumerate(program.instructions):
        if isinstance(x, Load) and not isinstance(x, Store) and x.memory == memory:
            low, high = _dram_bytes(x)
            before = bisect_left(merged, (high, 0)) - 1  # the last that begins below its end
            if before < 0 or merged[before][1] <= low:
                found.append(index)
    return frozenset(found)


def _dram_bytes(transfer: Load) -> tuple[int, int]:
    """From the first byte to behind the last that a transfer touches in DRAM."""
    last_row = transfer.dram_address + (transfer.rows - 1) * transfer.dram_step
    return min(transfer.dram_address, last_row), max(transfer.dram_address, last_row) + transfer.row_bytes


def measure(program: Program, *, paths: bool = False) -> Measured:
    """Time a program by its longest path, and attribute every cycle of every layer to one cause; linear in its size.

    Args:
        program: any that the static check accepts.
        paths: keep `LayerTime.path`.
    """
    instructions, hardware = program.instructions, program.hardware
    _ = program.order  # the static check, which the longest path relies on
    schedule = longest_path(instructions, hardware)
    attribution = Attribution(instructions, hardware, schedule, weight_loads(program))
    shape = ArrayShape.of(hardware)
    pes = shape.rows * shape.columns
    layers = [LayerTime(pes) for _ in program.layers]
    run = LayerTime(pes)
    end = -1
    for label, passed in groupby(range(len(instructions)), key=lambda index: instructions[index].label):
        last = max(passed, key=lambda index: schedule.done[index])
        if schedule.done[last] <= end:
            continue
        begin, end = end + 1, schedule.done[last]
        path = attribution.path(last, begin)
        layer = layers[label]
        layer.passes.append((begin, end))
        if paths and end - begin + 1 > sum(step.cycles for step in layer.path):
            layer.path = path
        for total in (layer, run):
            total.cycles += end - begin + 1
        for step in path:
            causes = attribution.causes(step)
            instruction = instructions[step.instruction]
            filled = 0.0
            if isinstance(instruction, Compute) and causes[Cause.ARRAY_STREAM]:
                filled = causes[Cause.ARRAY_STREAM] * products(instruction) / stream_of(instruction, shape).cycles
            for total in (layer, run):
                total.causes += causes
                total.units[instruction.UNIT] += step.cycles
                total.filled += filled
    if end >= 0:
        run.passes.append((0, end))
    return Measured(schedule, attribution, layers, run)


def products(compute: Compute) -> int:
    """Products of a COMPUTE, padding included."""
    each = 1 if compute.diagonal else compute.lanes
    return compute.words * compute.r_count * compute.s_count * compute.run_bytes * each
