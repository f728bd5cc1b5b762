"""Which cause each cycle of a critical path has: the phases of instructions along the path that decided a cycle.

`Schedule.cause` names what decided an issue. A weight-stationary COMPUTE has a second start to decide, that of its
stream (T of docs/microarchitecture.md, section 4.2), which waits for its own weights or for the stream before it; the
walk here follows both, so that a LOAD whose result lay waiting is not blamed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from accelsim.config import Hardware
from accelsim.isa import Compute, Instruction, Load, Memory, Post, Store
from accelsim.timing.additions import product_cycle
from accelsim.timing.cycles import ArrayShape, os_duration, os_period, tile_count, ws_period
from accelsim.timing.longest_path import Schedule


class Cause(StrEnum):
    """What a cycle of a path goes to."""

    DRAM_LATENCY = "dram_latency"
    """A LOAD or STORE waits for its first beat."""
    DRAM_TRANSFER = "dram_transfer"
    """Beats of a transfer, weights excepted."""
    WEIGHT_TRANSFER = "weight_transfer"
    """Beats of a LOAD of weights."""
    WEIGHT_FILL = "weight_fill"
    """No word streams, because weights are still on their way from the weight buffer into the array."""
    ARRAY_STREAM = "array_stream"
    """A word enters the array."""
    ARRAY_DRAIN = "array_drain"
    """The last words cross the array and are written; in os also the start values' way in."""
    POST = "post"
    """A POST reads records, reads words, or empties its pipeline."""


class Step(NamedTuple):
    """One instruction's part of a path: cycles first..last, inclusive."""

    instruction: int
    first: int
    last: int

    @property
    def cycles(self) -> int:
        """How many."""
        return self.last - self.first + 1


class Attribution:
    """The paths of one schedule, and what their cycles go to.

    Args:
        instructions, hardware: what `longest_path` was given.
        schedule: what it found.
        weights: the LOADs that bring weights; None takes those into the weight buffer.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        hardware: Hardware,
        schedule: Schedule,
        weights: frozenset[int] | None = None,
    ):
        self._instructions = instructions
        self._latency = hardware.dram.latency_cycles
        self._shape = ArrayShape.of(hardware)
        self._schedule = schedule
        if weights is None:
            weights = frozenset(
                index
                for index, x in enumerate(instructions)
                if isinstance(x, Load) and not isinstance(x, Store) and x.memory == Memory.WEIGHT
            )
        self._weights = weights
        self._compute_before: dict[int, int] = {}
        before = -1
        for index, instruction in enumerate(instructions):
            if isinstance(instruction, Compute):
                self._compute_before[index] = before
                before = index

    def path(self, instruction: int, begin: int) -> list[Step]:
        """What decided that an instruction is done when it is, back to cycle `begin`.

        Returns:
            Steps, first to last, that tile the cycles `begin`..done of the instruction exactly.
        """
        schedule = self._schedule
        steps: list[Step] = []
        index, end = instruction, schedule.done[instruction]
        while end >= begin and index >= 0:
            start, decided_by = self._start(index)
            if start <= end:
                steps.append(Step(index, max(start, begin), end))
            index, end = decided_by, start - 1
        return steps[::-1]

    def _start(self, index: int) -> tuple[int, int]:
        """From which cycle on an instruction decides its own end, and the instruction that decided that cycle.

        A weight-stationary stream that began later than its own weights were there began when the one before ended. And
        where a COMPUTE issued as soon as the one before let it, its weights enter while that one's last words stream:
        those cycles are the stream's.
        """
        instruction = self._instructions[index]
        issue, cause = self._schedule.issue[index], self._schedule.cause[index]
        if isinstance(instruction, Compute) and not instruction.output_stationary:
            before, first_word = self._compute_before[index], self.first_word(index)
            if first_word > issue + self._shape.rows:
                return first_word, before
            if cause == before >= 0:
                return max(issue, min(self._stream_end(before), first_word)), before
        return issue, cause

    def _stream_end(self, index: int) -> int:
        """The cycle after a COMPUTE's last word."""
        compute = self._instructions[index]
        assert isinstance(compute, Compute)
        stream = stream_of(compute, self._shape)
        return self.first_word(index) + (stream.tiles - 1) * stream.period + stream.last

    def first_word(self, index: int) -> int:
        """The cycle in which a COMPUTE streams its first word."""
        compute = self._instructions[index]
        assert isinstance(compute, Compute)
        return product_cycle(compute, self._shape, self._schedule.done[index], word=0, lane=0, k=0)

    def causes(self, step: Step) -> Counter[Cause]:
        """Cycles of a step by cause; they sum to the step's."""
        instruction = self._instructions[step.instruction]
        match instruction:
            case Compute():
                counts = self._compute_causes(instruction, step)
            case Post():
                counts = Counter({Cause.POST: step.cycles})
            case Load():
                transfer = Cause.WEIGHT_TRANSFER if step.instruction in self._weights else Cause.DRAM_TRANSFER
                first_beat = self._schedule.issue[step.instruction] + self._latency
                waiting = min(max(first_beat - step.first, 0), step.cycles)
                counts = Counter({Cause.DRAM_LATENCY: waiting, transfer: step.cycles - waiting})
            case _:
                raise TypeError(f"{type(instruction).__name__} is not an instruction")
        return +counts

    def _compute_causes(self, compute: Compute, step: Step) -> Counter[Cause]:
        first_word = self.first_word(step.instruction)
        before = min(max(first_word - step.first, 0), step.cycles)
        stream = stream_of(compute, self._shape)
        counts = stream.causes(step.last + 1 - first_word)
        counts.subtract(stream.causes(step.first - first_word))
        counts[Cause.ARRAY_DRAIN if compute.output_stationary else Cause.WEIGHT_FILL] += before
        return counts


class Stream(NamedTuple):
    """How a COMPUTE's tiles follow one another from its first word on.

    Attributes:
        tiles: how many; of an os COMPUTE, tiles of R words.
        streaming: cycles of a tile in which words stream.
        period: cycles from one tile's first word to the next one's.
        last: cycles in which the last tile streams.
        gap_drain: of the cycles of a period in which nothing streams, those the drain takes (serial); the others wait
            for weights.
    """

    tiles: int
    streaming: int
    period: int
    last: int
    gap_drain: int

    @property
    def cycles(self) -> int:
        """All cycles in which words stream."""
        return (self.tiles - 1) * self.streaming + self.last

    def causes(self, cycles: int) -> Counter[Cause]:
        """What the first `cycles` cycles from the first word on go to."""
        if cycles <= 0:
            return Counter()
        whole = min(cycles // self.period, self.tiles - 1)
        rest = cycles - whole * self.period
        ended = whole == self.tiles - 1
        streamed = min(rest, self.last if ended else self.streaming)
        idle = rest - streamed
        drained = idle if ended else min(idle, self.gap_drain)
        return Counter(
            {
                Cause.ARRAY_STREAM: whole * self.streaming + streamed,
                Cause.ARRAY_DRAIN: whole * self.gap_drain + drained,
                Cause.WEIGHT_FILL: whole * (self.period - self.streaming - self.gap_drain) + idle - drained,
            }
        )


def stream_of(compute: Compute, shape: ArrayShape) -> Stream:
    """The tiles of a COMPUTE, by the closed forms of docs/microarchitecture.md, sections 4.2 to 4.4."""
    tiles = tile_count(compute, shape.rows)
    if compute.output_stationary:
        slots, period = tiles * shape.rows * shape.step, os_period(compute, shape)
        return Stream(-(-compute.words // shape.rows), slots, period, os_duration(compute, shape), period - slots)
    streaming, period = compute.words * shape.mac_interval, ws_period(compute, shape)
    return Stream(tiles, streaming, period, streaming, period - streaming - shape.rows if compute.serial else 0)
