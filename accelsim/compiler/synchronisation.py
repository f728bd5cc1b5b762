"""Tokens: from instructions in a serial order that is right, to units that overlap as far as their data allow.

Each instruction is compared with earlier ones of the other units. Where two touch the same bytes, one writing, and
nothing yet orders them, the earlier signals and the later waits. Only the latest such instruction of a unit matters,
because a unit finishes in order; gives and takes of one FIFO therefore come out in the same order, and balanced.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from accelsim.config import ElementBytes
from accelsim.isa import Instruction, Unit, accesses
from accelsim.isa.check import first_overlap
from accelsim.isa.walker import BYTES, Access


def synchronise(instructions: list[Instruction], elements: ElementBytes = BYTES) -> tuple[Instruction, ...]:
    """Return the instructions with wait and signal masks that make every execution equal the serial one."""
    touched = [accesses(instruction, elements) for instruction in instructions]
    queues: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    done_before = np.zeros((len(instructions), len(Unit)), dtype=np.int64)
    clocks = {unit: np.zeros(len(Unit), dtype=np.int64) for unit in Unit}
    positions: list[int] = []
    waits, signals = [0] * len(instructions), [0] * len(instructions)
    for index, instruction in enumerate(instructions):
        unit = instruction.UNIT
        clock = clocks[unit]
        if unit is not Unit.COMPUTE:
            clock[unit] = len(queues[unit])
        # The unit whose instruction comes latest in the serial order first: its token tends to imply the others.
        found = [
            (earlier, other)
            for other in Unit
            if other != unit
            for earlier in _latest_conflict(touched, queues[other], int(clock[other]), index)
        ]
        for earlier, other in sorted(found, reverse=True):
            position = positions[earlier]
            if position < clock[other]:  # implied by a token just taken
                continue
            waits[index] |= 1 << other
            signals[earlier] |= 1 << unit
            np.maximum(clock, done_before[earlier], out=clock)
            clock[other] = max(int(clock[other]), position + 1)
        done_before[index] = clock
        positions.append(len(queues[unit]))
        queues[unit].append(index)
    return tuple(
        replace(instruction, wait=wait, signal=signal)
        for instruction, wait, signal in zip(instructions, waits, signals, strict=True)
    )


def _latest_conflict(touched: list[list[Access]], queue: list[int], known: int, index: int) -> list[int]:
    """The latest instruction of `queue`, not among its `known` first, that conflicts with `index`, if there is one."""
    for position in range(len(queue) - 1, known - 1, -1):
        if _conflict(touched[queue[position]], touched[index]):
            return [queue[position]]
    return []


def _conflict(a: list[Access], b: list[Access]) -> bool:
    return any(
        x.space == y.space
        and (x.write or y.write)
        and x.low < y.high
        and y.low < x.high
        and first_overlap(x, y) is not None
        for x in a
        for y in b
    )
