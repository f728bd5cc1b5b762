"""How full each memory is, cycle by cycle: the bytes that are live, read off the program and its timeline.

A byte (of the accumulator memory: a word) is *live* from the issue of the instruction that writes it to the done of
the last instruction that reads that value, both included. What is never read is never live, nor is what was never
written (all memories read zero after reset). A value ends at the latest where the next one's writer issues, so that
a word which a chain of COMPUTEs accumulates into counts once. Within an instruction no finer time is told: a byte
that a POST writes last is live from the POST's first cycle on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from accelsim.config import RECORD_BYTES
from accelsim.isa import Compute, Instruction, Program, accesses
from accelsim.isa.walker import Space
from accelsim.machine import Issued

Int64 = npt.NDArray[np.int64]
Change = tuple[int, int]
"""(cycle, what is live from that cycle on)."""


def memory_sizes(program: Program) -> dict[Space, int]:
    """Bytes of each buffer, words of the accumulator memory."""
    hardware = program.hardware
    return {
        "activation": hardware.activation.memory_bytes,
        "weight": hardware.weight.memory_bytes,
        "parameter": hardware.parameter.memory_bytes,
        "table": hardware.table.memory_bytes,
        "accumulator": hardware.accumulator_depth,
    }


def occupancy(program: Program, timeline: Iterable[Issued]) -> dict[Space, list[Change]]:
    """What is live in each memory, wherever that changes: cycles ascend, and each amount differs from the one before.

    Args:
        program: what ran; it has passed the static check, so that no two accesses to one byte depend on arbitration.
        timeline: its cycles.
    Returns:
        For each memory its changes, bytes or accumulator words; the first is at cycle 0.
    """
    memories = {space: _Memory(size) for space, size in memory_sizes(program).items()}
    for issued in sorted(timeline, key=lambda issued: issued.issue):
        touched = _touched(program.instructions[issued.index])
        for space, write, where in touched:
            if not write:
                memories[space].read(where, issued.done)
        for space, write, where in touched:
            if write:
                memories[space].write(where, issued.issue)
    return {space: memory.changes() for space, memory in memories.items()}


class _Memory:
    """One memory's values, by address: when each was written, and until when it has been read."""

    def __init__(self, size: int):
        self._born = np.zeros(size, dtype=np.int64)  # 1 + the writer's issue; 0: nothing was written
        self._end = np.zeros(size, dtype=np.int64)  # 1 + the last reader's done; 0: nobody has read it
        self._steps: Counter[int] = Counter()  # cycle -> how many more are live from there on

    def read(self, where: slice | Int64, done: int) -> None:
        self._end[where] = np.maximum(self._end[where], done + 1)

    def write(self, where: slice | Int64, issue: int) -> None:
        self._retire(self._born[where], np.minimum(self._end[where], issue))
        self._born[where] = issue + 1
        self._end[where] = 0

    def changes(self) -> list[Change]:
        """All values' lives added up; nothing may be written afterwards."""
        self._retire(self._born, self._end)
        live, found = 0, [(0, 0)]
        for cycle in sorted(self._steps):
            if self._steps[cycle]:
                live += self._steps[cycle]
                found.append((cycle, live))
        return found[1:] if len(found) > 1 and found[1][0] == 0 else found

    def _retire(self, born: Int64, end: Int64) -> None:
        """Count the lives of values that are gone: equal neighbours together, because most were written together."""
        changed = np.ones(born.size, dtype=bool)
        changed[1:] = (born[1:] != born[:-1]) | (end[1:] != end[:-1])
        heads = np.flatnonzero(changed)
        begins, ends = born[heads] - 1, end[heads]
        lived = (begins >= 0) & (ends > begins)
        counts = np.diff(heads, append=born.size)[lived]
        for begin, stop, count in zip(begins[lived].tolist(), ends[lived].tolist(), counts.tolist(), strict=True):
            self._steps[begin] += count
            self._steps[stop] -= count


Touched = list[tuple[Space, bool, slice | Int64]]


def _touched(instruction: Instruction) -> Touched:
    """(memory, whether written, addresses) of an instruction's accesses; DRAM is none of these memories."""
    if not isinstance(instruction, Compute):
        return [(a.space, a.write, _addresses(*a.merged)) for a in accesses(instruction) if a.space != "dram"]
    # Many COMPUTEs of a layer walk alike from other addresses, and walking is the work.
    alike = replace(
        instruction,
        **dict.fromkeys(("act_base", "weight_base", "acc_base", "param"), 0),
        **dict.fromkeys(("wait", "signal", "label", "z_x", "z_w", "last", "serial", "activation_bits"), 0),
    )
    base = {
        "activation": instruction.act_base,
        "weight": instruction.weight_base,
        "accumulator": instruction.acc_base,
        "parameter": instruction.param * RECORD_BYTES,
    }
    return [
        (space, write, _addresses(starts + base[space], stops + base[space]))
        for space, write, starts, stops in _walk(alike)
    ]


@lru_cache(maxsize=256)
def _walk(compute: Compute) -> list[tuple[Space, bool, Int64, Int64]]:
    return [(access.space, access.write, *access.merged) for access in accesses(compute)]


def _addresses(starts: Int64, stops: Int64) -> slice | Int64:
    """Disjoint, sorted intervals as what indexes an array."""
    if starts.size == 1:
        return slice(int(starts[0]), int(stops[0]))
    lengths = stops - starts
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within
