"""A program on the SimPy machine and on the RTL: bits, cycles, stalls and operation counts, or where they part."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from accelsim.isa import Program, Store, Unit, to_text
from accelsim.machine import Accelerator, Issued, Run
from accelsim.rtl.build import Build, Simulator, build
from accelsim.rtl.parameters import Parameters
from accelsim.rtl.simulation import COUNTERS, RtlRun, run_rtl
from accelsim.rtl.support import check_supported

JITTER_SLOWDOWN = 40
"""How much longer than the model a DRAM that delays at random may keep the RTL busy before it counts as stuck."""


@dataclass(frozen=True)
class Difference:
    """The first difference: what of, its place, and both values. `expected` is the model's, `got` the RTL's."""

    what: str
    place: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.what}, {self.place}: model {self.expected}, RTL {self.got}"


@dataclass(frozen=True)
class Cosimulation:
    """Both runs of one program.

    Attributes:
        difference: the first one in time, or else in the final DRAM image, or else in the counters; None if none.
        instructions: compared.
    """

    model: Run
    rtl: RtlRun
    difference: Difference | None
    instructions: int


def cosimulate(
    program: Program,
    simulator: Simulator = "verilator",
    *,
    built: Build | None = None,
    jitter: int = 0,
) -> Cosimulation:
    """Run a program, with the input its DRAM image holds, on both, and compare.

    Args:
        program: checked statically as the machine does.
        simulator: what runs the RTL; built if the cache does not hold it.
        built: a build to use in place of the program's own machine: one with wider accumulators or larger memories.
        jitter: a seed other than 0 makes the RTL's DRAM refuse and delay beats at random: then bits and counts are
            compared, and no cycles.
    Raises:
        InputError: the RTL does not implement what the program asks for; the simulator is missing or fails; the static
            check refuses the program.
    """
    check_supported(program)
    machine = Accelerator(program)
    model = machine.run()
    assert model.cycles is not None
    made = built or build(Parameters.of(program.hardware), simulator)
    limit = (1000 + 2 * model.cycles) * (JITTER_SLOWDOWN if jitter else 1)
    rtl = run_rtl(program, made, limit=limit, jitter=jitter)
    return Cosimulation(model, rtl, compare(program, machine, model, rtl, cycles=not jitter), len(program.instructions))


def compare(
    program: Program, machine: Accelerator, model: Run, rtl: RtlRun, *, cycles: bool = True
) -> Difference | None:
    """The first difference between two runs of one program.

    Args:
        cycles: compare cycles and stalls too.
    """
    if rtl.surplus is not None:
        extra = rtl.surplus
        count = sum(extra.unit == i.UNIT for i in program.instructions)
        return Difference(extra.what, extra.unit.name, f"{count} instructions", f"one more, in cycle {extra.cycle}")
    if cycles and (found := _first_in_time(program, model, rtl)):
        return found
    if rtl.stuck is not None or len(rtl.timeline) < len(program.instructions):
        done = {issued.index for issued in rtl.timeline}
        first = next(n for n in range(len(program.instructions)) if n not in done)
        return Difference("instruction", _name(program, first), "done", f"not done in cycle {rtl.stuck}")
    if cycles and model.cycles != rtl.cycles:
        return Difference("total cycles", program.name, str(model.cycles), str(rtl.cycles))
    return _first_byte(program, model, rtl) or _first_count(machine, rtl)


def _first_in_time(program: Program, model: Run, rtl: RtlRun) -> Difference | None:
    """Issues and dones in the model's order of time, stalls with the issue."""
    started = {issued.index: (issued.issue, issued.stalls) for issued in rtl.timeline} | rtl.started
    done = {issued.index: issued.done for issued in rtl.timeline}
    events = sorted((cycle, issued.index, what, issued) for issued in model.timeline for cycle, what in _events(issued))
    for cycle, index, what, issued in events:
        if index not in (started if what == "issue" else done):
            continue  # not issued or not done: told if nothing before it differs
        where = _name(program, index)
        here = started[index][0] if what == "issue" else done[index]
        if here != cycle:
            return Difference(f"{what} cycle", where, str(cycle), str(here))
        if what == "issue" and issued.stalls != started[index][1]:
            stalls = _stalls(issued.stalls), _stalls(started[index][1])
            return Difference(f"stalls before cycle {cycle}", where, *stalls)
    return None


def _events(issued: Issued) -> tuple[tuple[int, str], tuple[int, str]]:
    return (issued.issue, "issue"), (issued.done, "done")


def _stalls(stalls: tuple[tuple[Unit, int], ...]) -> str:
    return ", ".join(f"{unit.name} {cycles}" for unit, cycles in stalls) or "none"


def _first_byte(program: Program, model: Run, rtl: RtlRun) -> Difference | None:
    """The first differing byte of the final image, and the STORE that wrote it last."""
    assert model.dram is not None
    assert rtl.dram is not None
    different = np.flatnonzero(model.dram != rtl.dram)
    if not different.size and rtl.unknown is None:
        return None
    address = int(different[0]) if rtl.unknown is None else rtl.unknown
    region = program.output
    where = f"byte {address}"
    if region.address <= address < region.address + region.size:
        where += f", byte {address - region.address} of output {region.node}"
    writers = [n for n, i in enumerate(program.instructions) if isinstance(i, Store) and _writes(i, address)]
    if writers:
        where += f", written by {_name(program, writers[-1])}"
    more = f" ({different.size} bytes differ)"
    expected, got = int(model.dram[address]), int(rtl.dram[address])
    shown = f"0x{got:02x}{more}" if rtl.unknown is None else "X, a value that was never set"
    return Difference("DRAM", where, f"0x{expected:02x}", shown)


def _writes(store: Store, address: int) -> bool:
    starts = store.dram_address + np.arange(store.rows) * store.dram_step
    return bool(((starts <= address) & (address < starts + store.row_bytes)).any())


def _first_count(machine: Accelerator, rtl: RtlRun) -> Difference | None:
    expected: Counter[str] = Counter()
    for counts in machine.counts().values():
        for key, number in counts.items():
            expected[key.op] += number
    for op in COUNTERS:
        if expected[op] != rtl.counts[op]:
            return Difference("operations", op, str(expected[op]), str(rtl.counts[op]))
    return None


def _name(program: Program, index: int) -> str:
    instruction = program.instructions[index]
    label = instruction.label
    layer = f" of {program.layers[label].name}" if label < len(program.layers) else ""
    return f"instruction {index}{layer} ({' '.join(to_text(instruction).split())})"
