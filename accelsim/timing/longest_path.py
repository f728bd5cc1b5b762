"""Total cycles without simulation: the longest path over queue order and token edges, and which path that is.

A third oracle beside the SimPy machine and the RTL: no processes, no event queue, only the rules of
docs/microarchitecture.md, sections 3 and 4, as a recurrence over instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelsim.config import Hardware
from accelsim.isa import Compute, Instruction, Load, Post, Unit
from accelsim.timing.cycles import (
    ArrayShape,
    ComputeState,
    compute_free,
    compute_times,
    post_cycles,
)
from accelsim.timing.dram import ChannelState, transfer_times


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cycles of every instruction, in program order.

    Attributes:
        issue, done: inclusive cycles.
        cause: the instruction whose end (a token) or whose occupation of the unit decided the issue; -1 for the start.
    """

    issue: tuple[int, ...]
    done: tuple[int, ...]
    cause: tuple[int, ...]

    @property
    def cycles(self) -> int:
        """Total: last done + 1."""
        return max(self.done, default=-1) + 1

    def critical_path(self) -> list[int]:
        """Instructions that decide the total, first to last."""
        path = [max(range(len(self.done)), key=lambda index: self.done[index])] if self.done else []
        while path and self.cause[path[-1]] >= 0:
            path.append(self.cause[path[-1]])
        return path[::-1]


def longest_path(instructions: Sequence[Instruction], hardware: Hardware) -> Schedule:
    """Return the schedule of a program that the static check has accepted.

    The k-th token that unit A gives unit B pairs with the k-th that B takes, so every wait has one known giver.
    """
    queues = {unit: [i for i, x in enumerate(instructions) if x.UNIT is unit] for unit in Unit}
    givers: list[list[int]] = [[] for _ in instructions]
    for a in Unit:
        for b in Unit:
            gives = [i for i in queues[a] if b in instructions[i].signals()]
            takes = [i for i in queues[b] if a in instructions[i].waits()]
            for giver, taker in zip(gives, takes, strict=True):
                givers[taker].append(giver)
    issue, done, cause = ([-1] * len(instructions) for _ in range(3))
    shape = ArrayShape.of(hardware)
    state: ComputeState | None = None
    channels: dict[Unit, ChannelState | None] = {Unit.LOAD: None, Unit.STORE: None}
    heads = dict.fromkeys(Unit, 0)
    left = len(instructions)
    while left:
        unit = next(
            u for u in Unit if heads[u] < len(queues[u]) and all(done[g] >= 0 for g in givers[queues[u][heads[u]]])
        )
        index = queues[unit][heads[unit]]
        instruction = instructions[index]
        before = queues[unit][heads[unit] - 1] if heads[unit] else -1
        bounds = [(done[giver] + 1, giver) for giver in givers[index]]
        if isinstance(instruction, Compute):
            bounds.append((compute_free(instruction, state), before))
        else:
            bounds.append((done[before] + 1 if before >= 0 else 0, before))
        issue[index], cause[index] = max(bounds)
        match instruction:
            case Compute():
                times = compute_times(instruction, shape, state, issue[index])
                done[index], state = times.done, times.state
            case Post():
                done[index] = issue[index] + post_cycles(instruction, records=not hardware.is_float) - 1
            case Load():
                done[index], channels[unit] = transfer_times(instruction, hardware, channels[unit], issue[index])
        heads[unit] += 1
        left -= 1
    return Schedule(tuple(issue), tuple(done), tuple(cause))
