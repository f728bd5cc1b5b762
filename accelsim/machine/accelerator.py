"""The accelerator: four SimPy processes, one for each unit, that share tokens, memories and a clock.

One SimPy time unit is one clock cycle; every delay is an int. A token given in cycle d can be taken from d + 1, so
units hand over through events only, and neither bits nor cycles depend on the order the processes are started in.
Inside a unit, an instruction's cycles are closed form (`timing`) and its values NumPy, computed at its issue; the
static check has shown that no other unit touches those bytes meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import simpy

from accelsim.errors import InputError
from accelsim.isa import Compute, Instruction, Load, Post, Program, Unit
from accelsim.machine import compute as compute_unit
from accelsim.machine import dma, floats
from accelsim.machine import post as post_unit
from accelsim.machine.memories import Memories
from accelsim.machine.observer import Issued, Observer
from accelsim.numerics import PsumStatistics
from accelsim.timing import (
    TIMING_VERSION,
    ArrayShape,
    ChannelState,
    ComputeState,
    Counts,
    compute_free,
    compute_times,
    instruction_counts,
    post_cycles,
    transfer_times,
)


@dataclass(kw_only=True)
class Run:
    """What one run of a program did.

    Attributes:
        output: codes int64 (batch, H, W, C), or None where values were not computed.
        dram: the final DRAM image, or None.
        cycles: last done + 1, or None without a clock.
        timeline: every instruction's cycles in order of issue; empty without a clock.
        statistics: partial-sum figures by layer label, where asked for.
        events: SimPy events processed.
    """

    output: npt.NDArray[np.int64] | None = None
    dram: npt.NDArray[np.uint8] | None = None
    cycles: int | None = None
    timeline: list[Issued] = field(default_factory=list)
    statistics: dict[int, PsumStatistics] = field(default_factory=dict)
    events: int = 0


class Accelerator:
    """A machine with a program loaded: checked once, run any number of times.

    Raises:
        InputError: the program assumes another timing contract, or breaks a rule of the static check.
    """

    def __init__(self, program: Program):
        if program.timing_version != TIMING_VERSION:
            raise InputError(
                f"program {program.name}: timing contract {program.timing_version} is not this machine's "
                f"{TIMING_VERSION}; compile it again"
            )
        self.program = program
        self.order = program.order
        self._shape = ArrayShape.of(program.hardware)
        self._counts: dict[int, Counts] | None = None

    def counts(self) -> dict[int, Counts]:
        """Operations by layer label: static functions of the program, summed over its instructions."""
        if self._counts is None:
            self._counts = {}
            for instruction in self.program.instructions:
                counts = instruction_counts(instruction, self.program.hardware, self.program.modes)
                self._counts.setdefault(instruction.label, Counter()).update(counts)
        return {label: Counter(counts) for label, counts in self._counts.items()}

    def run(
        self,
        codes: npt.NDArray[np.int64] | None = None,
        *,
        clock: bool = True,
        values: bool = True,
        telemetry: bool = False,
        observer: Observer | None = None,
        start_order: tuple[Unit, ...] = tuple(Unit),
    ) -> Run:
        """Execute the program once.

        Args:
            codes: the input, int64 (batch, H, W, C), written to its region; None leaves what the image holds.
            clock: False executes in token order without time.
            values: False runs time without values.
            telemetry: collect partial-sum figures for each layer.
            observer: is told of writes and cycles.
            start_order: order in which the SimPy processes are started; changes nothing, as tests show.
        """
        result = Run()
        watch = observer or Observer()
        memories = self._memories(codes) if values else None

        def execute(index: int, instruction: Instruction) -> None:
            if memories is None:
                return
            statistics = result.statistics.setdefault(instruction.label, PsumStatistics()) if telemetry else None
            match instruction:
                case Compute():
                    watch.computing(index, instruction, memories)
                    self._compute(instruction, memories, statistics)
                case Post():
                    watch.post_wrote(index, instruction, self._post(instruction, memories))
                case Load():
                    dma.execute(instruction, memories)

        if clock:
            _Clockwork(self, execute, result, watch).run(start_order)
        else:
            for index in self.order.sequence:
                execute(index, self.program.instructions[index])
        if memories is not None:
            region = self.program.output
            data = memories.dram[region.slice()]
            result.dram = memories.dram
            result.output = region.unpack(data, self.program.modes.activation)
        return result

    def _compute(self, instruction: Compute, memories: Memories, statistics: PsumStatistics | None) -> None:
        hardware = self.program.hardware
        if hardware.is_float:
            floats.compute(instruction, memories, hardware)
        else:
            compute_unit.execute(instruction, memories, hardware, self.program.modes, statistics)

    def _post(self, instruction: Post, memories: Memories) -> npt.NDArray[np.int64]:
        if self.program.hardware.is_float:
            return floats.post(instruction, memories)
        return post_unit.execute(instruction, memories, self.program.modes)

    def _memories(self, codes: npt.NDArray[np.int64] | None) -> Memories:
        memories = Memories(self.program.hardware, self.program.dram)
        if codes is None:
            return memories
        region = self.program.input
        data = region.pack(codes, self.program.modes.activation)
        memories.dram[region.slice()] = data
        return memories


class _Clockwork:
    """One run in time: a SimPy process for each unit and a token container for each ordered pair."""

    def __init__(self, machine: Accelerator, execute: Callable[[int, Instruction], None], result: Run, watch: Observer):
        self.machine = machine
        self.instructions = machine.program.instructions
        self.execute = execute
        self.result = result
        self.watch = watch
        self.env = simpy.Environment()
        self.tokens = {(a, b): simpy.Container(self.env) for a in Unit for b in Unit if a != b}
        self.last_done = -1

    def run(self, start_order: tuple[Unit, ...]) -> None:
        for unit in start_order:
            queue = self.machine.order.queues[unit]
            self.env.process(self._compute(queue) if unit is Unit.COMPUTE else self._in_order(unit, queue))
        env = self.env
        events = 0
        try:
            while True:
                env.step()
                events += 1
        except simpy.core.EmptySchedule:
            pass
        self.result.events = events
        self.result.cycles = self.last_done + 1

    def _take(self, unit: Unit, instruction: Instruction) -> Generator[simpy.Event, None, tuple[tuple[Unit, int], ...]]:
        """Process: take one token from each unit waited for, in unit order; returns the cycles each was missing.

        A cycle without several tokens counts for the first missing unit in that order.
        """
        stalls = []
        for source in instruction.waits():
            asked = self.env.now
            yield self.tokens[source, unit].get(1)
            if self.env.now > asked:
                stalls.append((source, int(self.env.now - asked)))
        return tuple(stalls)

    def _record(self, issued: Issued) -> None:
        self.last_done = max(self.last_done, issued.done)
        self.result.timeline.append(issued)
        self.watch.executed(issued)

    def _give(self, instruction: Instruction, _event: simpy.Event | None = None) -> None:
        for target in instruction.signals():
            self.tokens[instruction.UNIT, target].put(1)

    def _in_order(self, unit: Unit, queue: list[int]) -> Generator[simpy.Event, None, None]:
        """Process of LOAD, POST or STORE: the next issues after the previous is done."""
        hardware = self.machine.program.hardware
        channel: ChannelState | None = None
        for index in queue:
            instruction = self.instructions[index]
            stalls = yield from self._take(unit, instruction)
            issue = int(self.env.now)
            self.execute(index, instruction)
            if isinstance(instruction, Post):
                done = issue + post_cycles(instruction, records=not hardware.is_float) - 1
            else:
                assert isinstance(instruction, Load)
                done, channel = transfer_times(instruction, hardware, channel, issue)
            self._record(Issued(index, unit, instruction.label, issue, done, stalls))
            yield self.env.timeout(done + 1 - issue)
            self._give(instruction)

    def _compute(self, queue: list[int]) -> Generator[simpy.Event, None, None]:
        """Process of COMPUTE: the next issues when its first load is legal, while the previous still drains."""
        state: ComputeState | None = None
        for index in queue:
            instruction = self.instructions[index]
            assert isinstance(instruction, Compute)
            free = compute_free(instruction, state)
            if free > self.env.now:
                yield self.env.timeout(free - self.env.now)
            stalls = yield from self._take(Unit.COMPUTE, instruction)
            issue = int(self.env.now)
            times = compute_times(instruction, self.machine._shape, state, issue)
            state = times.state
            self.execute(index, instruction)
            span = (times.span_first, times.span_last)
            self._record(Issued(index, Unit.COMPUTE, instruction.label, issue, times.done, stalls, span))
            if instruction.signal:
                given = self.env.timeout(times.done + 1 - issue)
                assert given.callbacks is not None
                given.callbacks.append(partial(self._give, instruction))
