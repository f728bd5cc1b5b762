"""Why a layer takes its cycles, and what would help: where they go, what limits it, and what changes really bring."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from accelsim.compiler import compile_graph
from accelsim.errors import InputError, did_you_mean, printable
from accelsim.explore.changes import CHANGES, RELIEF, Change, Subject
from accelsim.explore.measured import Bound, LayerTime, Measured, measure
from accelsim.ir import IntegerGraph
from accelsim.isa import Compute, Instruction, Load, Post, Program, Unit
from accelsim.machine import Accelerator, Issued

WORTH_NAMING = 0.01
"""Share of a layer's cycles below which a change is not said to help it."""


@dataclass
class WhatIf:
    """One change, tried.

    Attributes:
        keys: of `CHANGES`; two where they were made together.
        title: for readers.
        change: exactly what was changed.
        recompiled: the workload was compiled again.
        smaller: it takes something away.
        batch: times as many images as the program's.
        layers: the layers' times, by the label they have in the program; those of the changed batch.
        run: the whole run's.
        impossible: why it could not be tried; None where it was.
    """

    keys: tuple[str, ...]
    title: str
    change: str
    recompiled: bool
    smaller: bool = False
    batch: int = 1
    layers: list[LayerTime] = field(default_factory=list)
    run: LayerTime | None = None
    impossible: str | None = None

    def cycles(self, label: int | None = None) -> float:
        """Of a layer, or the run, for as many images as the program's."""
        time = self.run if label is None else self.layers[label]
        assert time is not None
        return time.cycles / self.batch if time.cycles % self.batch else time.cycles // self.batch


@dataclass
class UnitTime:
    """What one unit does for a layer.

    Attributes:
        instructions: how many.
        busy: cycles in which at least one of them executes.
        stalls: cycles in which one of them could have issued but for a token, by the unit waited for.
    """

    instructions: int = 0
    busy: int = 0
    stalls: Counter[Unit] = field(default_factory=Counter)


@dataclass
class Explanation:
    """Why a program takes its cycles.

    Attributes:
        program: what is explained.
        measured: its times.
        units: by label, what each unit does.
        ahead: by label, cycles by which a layer's first instruction issues before the layer's own cycles begin.
        alike: by label, instructions of equal cycles: the first one's index and how many there are.
        what_ifs: all that were tried, in the order of `CHANGES`; then combinations.
        why_not_compiled: why changes that need another compilation were not tried; None where they were.
        mismatch: the first time in which the SimPy machine and the longest path differ, or None.
    """

    program: Program
    measured: Measured
    units: list[dict[Unit, UnitTime]]
    ahead: list[int]
    alike: list[list[tuple[int, int]]]
    what_ifs: list[WhatIf]
    why_not_compiled: str | None
    mismatch: str | None = None

    def time(self, label: int | None = None) -> LayerTime:
        """Of a layer, or the run."""
        return self.measured.run if label is None else self.measured.layers[label]

    def saved(self, what_if: WhatIf, label: int | None = None) -> float:
        """Cycles of a layer, or of the run, that a change saves."""
        return self.time(label).cycles - what_if.cycles(label)

    def best(self, label: int | None = None, keys: tuple[str, ...] | None = None) -> WhatIf | None:
        """The single change to the machine that saves a layer, or the run, most cycles, without costing the run any.

        A larger batch is none: it makes a run longer, and only images per second more.

        Args:
            label: the layer, or None for the run.
            keys: of the changes to choose from; None for all.
        Returns:
            None where none saves a hundredth. Of equals, the one that saves the run more, then the first.
        """
        tried = [
            what_if
            for what_if in self.what_ifs
            if what_if.impossible is None
            and len(what_if.keys) == what_if.batch == 1
            and not what_if.smaller
            and (keys is None or what_if.keys[0] in keys)
            and self.saved(what_if) >= 0
        ]
        found = max(tried, key=lambda one: (self.saved(one, label), self.saved(one)), default=None)
        enough = found is not None and self.saved(found, label) >= max(WORTH_NAMING * self.time(label).cycles, 0.5)
        return found if enough else None


def explain(
    program: Program,
    graph: IntegerGraph | None,
    *,
    layer: int | None = None,
    why_not_compiled: str | None = None,
    progress: Callable[[int, int], object] = lambda *_: None,
) -> Explanation:
    """Explain a program: its layers' cycles, and what changes would bring.

    Every time, of the program and of each change, is the longest path's and is simulated too.

    Args:
        program: any that the static check accepts.
        graph: what it was compiled from; None where changes that need another compilation are not to be tried.
        layer: the label of the one layer that is asked for: changes that help it only together are tried too.
        why_not_compiled: the reason, where `graph` is None.
        progress: called with the number of changes tried and to try.
    Raises:
        InputError: the static check refuses the program.
    """
    measured = measure(program, paths=True)
    machine = Accelerator(program)
    run = machine.run(values=False)
    found = Explanation(
        program=program,
        measured=measured,
        units=_units(run.timeline, len(program.layers)),
        ahead=_ahead(program, measured),
        alike=_alike(program),
        what_ifs=[],
        why_not_compiled=why_not_compiled,
    )
    for issued in run.timeline:
        path = (measured.schedule.issue[issued.index], measured.schedule.done[issued.index])
        if path != (issued.issue, issued.done) and found.mismatch is None:
            found.mismatch = (
                f"instruction {issued.index}: the machine has it in cycles {issued.issue}..{issued.done}, the longest "
                f"path in {path[0]}..{path[1]}"
            )
    subject = Subject(program, graph)
    for number, change in enumerate(CHANGES):
        progress(number, len(CHANGES))
        _try(found, subject, (change,))
    if layer is not None:
        _try_together(found, subject, layer)
    progress(len(CHANGES), len(CHANGES))
    return found


def find_layer(program: Program, name: str) -> int:
    """The label of a layer, named by its own name or by that of a node fused into it.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    for label, layer in enumerate(program.layers):
        if name == layer.name:
            return label
    for label, layer in enumerate(program.layers):
        if name in layer.nodes:
            return label
    names = [layer.name for layer in program.layers]
    shown = printable(", ".join(names[:MOST_NAMES])) + (
        f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    )
    nodes = [node for layer in program.layers for node in layer.nodes]
    raise InputError(
        f"--layer {printable(name)}: {printable(program.name)} has no such layer"
        f"{did_you_mean(name, [*names, *nodes])}; layers: {shown}"
    )


MOST_NAMES = 30
"""Layers an error message lists."""


def compiles_to(graph: IntegerGraph, program: Program) -> bool:
    """Whether a graph, compiled as it is now, gives just this program, so that changed programs compare with it."""
    try:
        again = compile_graph(graph, program.hardware, program.batch)
    except InputError:
        return False
    return again.instructions == program.instructions and again.layers == program.layers


# What-ifs -----------------------------------------------------------------------------------------------------


def _try(found: Explanation, before: Subject, changes: tuple[Change, ...]) -> None:
    """Make changes one after the other, time the result and add it; nothing where one of them changes nothing."""
    what_if = WhatIf(
        keys=tuple(change.key for change in changes),
        title=" and ".join(change.title for change in changes),
        change="",
        recompiled=False,
        smaller=any(change.smaller for change in changes),
        batch=math.prod(change.batch for change in changes),
    )
    after = before
    try:
        for change in sorted(changes, key=lambda change: change.rewrite is not None):  # compiling would undo it
            says = change.says(after)
            again = change.needs_compilation(after.program.hardware)
            if says is None or (again and before.graph is None):
                return
            what_if.change += f"; {says}" if what_if.change else says
            what_if.recompiled |= again
            after = change.apply(after)
        measured = measure(after.program)
        simulated = Accelerator(after.program).run(values=False).cycles
    except InputError as error:
        what_if.impossible = str(error)
        found.what_ifs.append(what_if)
        return
    if simulated != measured.schedule.cycles and found.mismatch is None:
        found.mismatch = (
            f"{what_if.title}: the machine takes {simulated:,} cycles, the longest path {measured.schedule.cycles:,}"
        )
    what_if.run = measured.run
    again = what_if.recompiled
    what_if.layers = _as_before(before.program, after.program, measured) if again else measured.layers
    found.what_ifs.append(what_if)


def _try_together(found: Explanation, subject: Subject, label: int) -> None:
    """Relief of the bound and of the one that then takes its place: what is nearly as long shows only then."""
    first = _relief(found, label, RELIEF[found.time(label).bound])
    if first is None:
        return
    then = first.layers[label].bound
    second = _relief(found, label, tuple(key for key in RELIEF[then] if key not in first.keys))
    if second is None or then is Bound.FILLING:  # one shape undoes another
        return
    by_key = {change.key: change for change in CHANGES}
    _try(found, subject, (by_key[first.keys[0]], by_key[second.keys[0]]))


def _relief(found: Explanation, label: int, keys: tuple[str, ...]) -> WhatIf | None:
    """The best of some changes, or the first that could be tried where none helps alone."""
    possible = (one for one in found.what_ifs if one.keys[0] in keys and one.impossible is None)
    return found.best(label, keys) or next(possible, None)


def _as_before(before: Program, after: Program, measured: Measured) -> list[LayerTime]:
    """Times of a changed program's layers under the old labels.

    Another machine may fuse other nodes: a layer's time goes to the old layer that its first node belonged to.
    """
    label_of = {node: label for label, layer in enumerate(before.layers) for node in layer.nodes}
    times = [LayerTime(measured.run.pes) for _ in before.layers]
    for layer, time in zip(after.layers, measured.layers, strict=True):
        times[label_of[layer.name]].add(time)
    return times


# What happened ------------------------------------------------------------------------------------------------


def _units(timeline: list[Issued], layers: int) -> list[dict[Unit, UnitTime]]:
    """What each unit does for each layer; cycles in which two COMPUTEs overlap count once, for the earlier."""
    found: list[dict[Unit, UnitTime]] = [{} for _ in range(layers)]
    free = dict.fromkeys(Unit, 0)
    for issued in sorted(timeline, key=lambda one: one.index):
        unit = found[issued.label].setdefault(issued.unit, UnitTime())
        unit.instructions += 1
        unit.busy += max(issued.done + 1 - max(issued.issue, free[issued.unit]), 0)
        free[issued.unit] = max(free[issued.unit], issued.done + 1)
        for source, cycles in issued.stalls:
            unit.stalls[source] += cycles
    return found


def _ahead(program: Program, measured: Measured) -> list[int]:
    first: dict[int, int] = {}
    for instruction, issue in zip(program.instructions, measured.schedule.issue, strict=True):
        first[instruction.label] = min(issue, first.get(instruction.label, issue))
    return [
        max(time.passes[0][0] - first.get(label, 0), 0) if time.passes else 0
        for label, time in enumerate(measured.layers)
    ]


def _alike(program: Program) -> list[list[tuple[int, int]]]:
    groups: list[dict[tuple[object, ...], tuple[int, int]]] = [{} for _ in program.layers]
    for index, instruction in enumerate(program.instructions):
        group = groups[instruction.label]
        key = _shape_of(instruction)
        first, count = group.get(key, (index, 0))
        group[key] = (first, count + 1)
    return [sorted(group.values(), key=lambda pair: program.instructions[pair[0]].UNIT) for group in groups]


def _shape_of(instruction: Instruction) -> tuple[object, ...]:
    """What an instruction's cycles depend on."""
    match instruction:
        case Compute():
            loop = (instruction.r_count, instruction.s_count, instruction.run_bytes, instruction.lanes)
            modes = (instruction.output_stationary, instruction.diagonal, instruction.serial, bool(instruction.start))
            return (instruction.UNIT, instruction.words, *loop, *modes)
        case Post():
            records = (instruction.lanes, instruction.residual_on, instruction.broadcast)
            return (instruction.UNIT, *records, instruction.words, instruction.window, instruction.source)
        case Load():
            return (instruction.UNIT, instruction.memory, instruction.rows, instruction.row_bytes)
    raise TypeError(f"{type(instruction).__name__} is not an instruction")
