"""The static check: no program that races, deadlocks, leaves tokens over or leaves its memories is ever executed.

Values may be computed at one instant in the simulator and over many cycles in RTL, and be equal, only because every
pair of instructions that touch the same bytes, one writing, is ordered: by its unit's queue or through tokens
(docs/microarchitecture.md, section 3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware
from accelsim.errors import InputError
from accelsim.isa.encoding import to_text
from accelsim.isa.instructions import Compute, Instruction, Memory, Post, Reduce, Source, Start, Store, Unit
from accelsim.isa.modes import Modes
from accelsim.isa.walker import Access, Space, accesses

MAX_TOKENS = 255
"""A token counter is 8 bits."""


class Order:
    """Which instructions are done before which others issue.

    Attributes:
        sequence: instruction indices in an order that respects every queue and token.
        done_before: int64 (instructions, units): how many of each unit's instructions are surely done before this
            one's first cycle.
        tokens: (giver, taker) of every token, in the order they are taken.
        position: each instruction's place in its own unit's queue.
    """

    def __init__(self, instructions: Sequence[Instruction]):
        self.queues: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        self.position: list[int] = []
        for index, instruction in enumerate(instructions):
            self.position.append(len(self.queues[instruction.UNIT]))
            self.queues[instruction.UNIT].append(index)
        self.done_before: npt.NDArray[np.int64] = np.zeros((len(instructions), len(Unit)), dtype=np.int64)
        self.sequence: list[int] = []
        self.tokens: list[tuple[int, int]] = []
        self._walk(instructions)

    def _walk(self, instructions: Sequence[Instruction]) -> None:
        """Run queues and tokens without time; refuse deadlock, tokens left over and counters that could overflow."""
        tokens: dict[tuple[Unit, Unit], deque[int]] = {(a, b): deque() for a in Unit for b in Unit}
        given: dict[tuple[Unit, Unit], int] = dict.fromkeys(tokens, 0)
        takers: dict[tuple[Unit, Unit], list[int]] = {pair: [] for pair in tokens}
        heads = dict.fromkeys(Unit, 0)
        clocks = {unit: np.zeros(len(Unit), dtype=np.int64) for unit in Unit}
        givers: list[tuple[tuple[Unit, Unit], int, int]] = []
        progress = True
        while progress:
            progress = False
            for unit in Unit:
                queue = self.queues[unit]
                while heads[unit] < len(queue):
                    index = queue[heads[unit]]
                    instruction = instructions[index]
                    if not all(tokens[source, unit] for source in instruction.waits()):
                        break
                    clock = clocks[unit]
                    if unit is not Unit.COMPUTE:  # COMPUTE issues the next before the previous is done
                        clock[unit] = heads[unit]
                    for source in instruction.waits():
                        giver = tokens[source, unit].popleft()
                        takers[source, unit].append(index)
                        self.tokens.append((giver, index))
                        np.maximum(clock, self.done_before[giver], out=clock)
                        clock[source] = max(clock[source], self.position[giver] + 1)
                    self.done_before[index] = clock
                    self.sequence.append(index)
                    for target in instruction.signals():
                        tokens[unit, target].append(index)
                        givers.append(((unit, target), given[unit, target], index))
                        given[unit, target] += 1
                    heads[unit] += 1
                    progress = True
        for unit in Unit:
            if heads[unit] < len(self.queues[unit]):
                index = self.queues[unit][heads[unit]]
                missing = [s.name for s in instructions[index].waits() if not tokens[s, unit]]
                raise InputError(
                    f"deadlock: instruction {index} ({to_text(instructions[index])}) waits for ever for {missing[0]}; "
                    "every wait needs a signal that is given"
                )
        for (source, target), left in tokens.items():
            if left:
                raise InputError(
                    f"unbalanced tokens: {len(left)} given by {source.name} to {target.name} are never taken; "
                    f"remove the signal of instruction {left[0]}"
                )
        for pair, number, index in givers:
            if number >= MAX_TOKENS:
                # The counter is safe if the taker of token number - 255 issued before this giver is done, which
                # holds where that taker is done before the giver issues.
                taker = takers[pair][number - MAX_TOKENS]
                if self.done_before[index][pair[1]] <= self.position[taker]:
                    raise InputError(
                        f"token overflow: {pair[0].name} may give {pair[1].name} more than {MAX_TOKENS} tokens before "
                        f"any is taken, at instruction {index}; let it wait for {pair[1].name} in between"
                    )

    def ordered(self, first: int, first_unit: Unit, second: int) -> bool:
        """Whether instruction `first`, of unit `first_unit`, is done before `second` issues."""
        return bool(self.done_before[second][first_unit] > self.position[first])


def check_program(instructions: Sequence[Instruction], hardware: Hardware, modes: Modes, dram_bytes: int) -> Order:
    """Refuse a program that is not legal on this machine.

    Args:
        instructions: in program order; each unit's queue is its subsequence.
        hardware: the machine.
        modes: the program's modes.
        dram_bytes: size of the DRAM image.
    Returns:
        The order the tokens impose.
    Raises:
        InputError: naming instruction, rule and remedy: a field or address out of range, an unordered overlap, a
            deadlock, unbalanced tokens or a token counter that could overflow.
    """
    sizes: dict[Space, int] = {
        "activation": hardware.activation.memory_bytes,
        "weight": hardware.weight.memory_bytes,
        "parameter": hardware.parameter.memory_bytes,
        "table": hardware.table.memory_bytes,
        "accumulator": hardware.accumulator_depth,
        "dram": dram_bytes,
    }
    if dram_bytes > hardware.dram.memory_bytes:
        raise InputError(
            f"the DRAM image of {dram_bytes} bytes exceeds dram.memory_bytes = {hardware.dram.memory_bytes}; "
            "use a larger DRAM or a smaller batch"
        )
    touched: list[list[Access]] = []
    for index, instruction in enumerate(instructions):
        reason = _illegal(instruction, hardware, modes)
        if reason:
            raise InputError(f"instruction {index} ({type(instruction).__name__.upper()}): {reason}")
        found = accesses(instruction, hardware.element_bytes)
        for access in found:
            if access.low < 0 or access.high > sizes[access.space]:
                verb = "writes" if access.write else "reads"
                unit = "words" if access.space == "accumulator" else "bytes"
                raise InputError(
                    f"instruction {index} ({type(instruction).__name__.upper()}): {verb} {access.space} {unit} "
                    f"{access.low}..{access.high - 1}, outside 0..{sizes[access.space] - 1}"
                )
        if isinstance(instruction, Post) and (address := _reads_own_result(found)) is not None:
            raise InputError(
                f"instruction {index} (POST): reads and writes activation byte {address}, so that its result would "
                "depend on its own timing; use another dst_base"
            )
        touched.append(found)
    order = Order(instructions)
    _check_races(instructions, touched, order)
    return order


def _illegal(instruction: Instruction, hardware: Hardware, modes: Modes) -> str | None:
    """Rules within one instruction that fields' ranges do not already state; returns the broken one."""
    try:
        instruction.validate()
    except InputError as error:
        return str(error)
    match instruction:
        case Store() if instruction.memory != Memory.ACTIVATION:
            return "memory must be ACTIVATION; only activations are stored"
        case Compute():
            return _illegal_compute(instruction, hardware, modes)
        case Post():
            return _illegal_post(instruction, hardware, modes)
    return None


def _illegal_compute(c: Compute, hardware: Hardware, modes: Modes) -> str | None:
    if c.lanes > hardware.array.columns:
        return f"lanes = {c.lanes} exceeds array.columns = {hardware.array.columns}"
    if not 8 <= c.width <= hardware.accumulator.width_bits:
        return f"width = {c.width} is outside 8..accumulator.width_bits = {hardware.accumulator.width_bits}"
    if not 2 <= c.weight_bits <= 8:
        return f"weight_bits = {c.weight_bits} is outside 2..8"
    if c.activation_bits > modes.activation_bits:
        return f"activation_bits = {c.activation_bits} exceeds the {modes.activation_bits} of the activation format"
    if c.diagonal and c.output_stationary:
        return "diagonal tiles are weight-stationary; output_stationary must be 0"
    if c.diagonal and (c.run_bytes != c.lanes or c.run_bytes > hardware.array.rows):
        return f"a diagonal tile needs run_bytes = lanes <= array.rows, not {c.run_bytes} and {c.lanes}"
    if modes.zero_points == "folded" and c.z_w:
        return f"z_w = {c.z_w} needs zero_points = 'subtracted'"
    if hardware.is_float:
        return _not_of_floats(
            hardware,
            start=c.start in (Start.ZERO, Start.ACCUMULATE),
            diagonal=not c.diagonal,
            z_x=not c.z_x and not c.z_w,
            weight_bits=c.weight_bits == 8 and not c.weight_unsigned,
            activation_bits=not c.activation_bits and not c.act_unsigned,
            zero_points=modes.zero_points == "folded",
        )
    return None


def _not_of_floats(hardware: Hardware, **allowed: bool) -> str | None:
    """The first field of a COMPUTE or POST that asks for what an array of floats does not have."""
    broken = next((name for name, good in allowed.items() if not good), None)
    if broken is None:
        return None
    return f"{broken} is not implemented with array.arithmetic = {hardware.array.arithmetic!r}"


def _illegal_post(p: Post, hardware: Hardware, modes: Modes) -> str | None:
    if p.lanes > hardware.array.columns:
        return f"lanes = {p.lanes} exceeds array.columns = {hardware.array.columns}"
    if p.qmin > p.qmax:
        return f"qmin = {p.qmin} is above qmax = {p.qmax}"
    low, high = modes.activation.limits
    if bool(p.act_unsigned) == modes.activation.signed:
        return f"act_unsigned = {p.act_unsigned} contradicts the program's activation format"
    if p.qmin < low or p.qmax > high:  # a table of 2**bits entries is indexed by what they let through
        return f"qmin..qmax = {p.qmin}..{p.qmax} leaves the activation format's {low}..{high}"
    if p.window > 1 and p.reduce == Reduce.NONE:
        return f"a window of {p.window} words needs reduce = MAX or SUM"
    if p.reduce == Reduce.SUM and p.source == Source.ACCUMULATOR:
        return "accumulators can be reduced by MAX only"
    if p.residual_on and p.window > 1:
        return "a residual needs a window of one word"
    if p.residual_on and p.broadcast:
        return "a residual takes its own record for each lane; broadcast must be 0"
    if hardware.is_float:
        return _not_of_floats(
            hardware,
            source=p.source == Source.ACCUMULATOR,
            reduce=p.window == 1 and p.reduce == Reduce.NONE,
            residual_on=not p.residual_on,
            broadcast=not p.broadcast,
            table_on=not p.table_on,
        )
    return None


def _reads_own_result(found: list[Access]) -> int | None:
    """An activation byte that a POST both reads and writes, or None: later words would see earlier results or not."""
    target = next(access for access in found if access.write)
    for access in found:
        if access.space == target.space and not access.write:
            address = first_overlap(access, target)
            if address is not None:
                return address
    return None


def _check_races(instructions: Sequence[Instruction], touched: list[list[Access]], order: Order) -> None:
    """Refuse two overlapping accesses from different units, one writing, that neither queue nor token orders."""
    units = list(Unit)
    for number, unit_a in enumerate(units):
        for unit_b in units[number + 1 :]:
            queue_b = order.queues[unit_b]
            # For growing i in A, both limits of the unordered window in B only grow.
            past = 0
            for i in order.queues[unit_a]:
                begin = int(order.done_before[i][unit_b])  # B's first instruction not surely done before i
                past = max(past, begin)
                while past < len(queue_b) and not order.ordered(i, unit_a, queue_b[past]):
                    past += 1
                for j in queue_b[begin:past]:
                    _refuse_overlap(instructions, touched, i, j)


def _refuse_overlap(instructions: Sequence[Instruction], touched: list[list[Access]], i: int, j: int) -> None:
    for a in touched[i]:
        for b in touched[j]:
            if a.space == b.space and (a.write or b.write) and a.low < b.high and b.low < a.high:
                address = first_overlap(a, b)
                if address is not None:
                    first, second = sorted((i, j))
                    raise InputError(
                        f"race: instructions {first} ({type(instructions[first]).__name__.upper()}) and {second} "
                        f"({type(instructions[second]).__name__.upper()}) touch {a.space} address {address} unordered; "
                        "let one signal and the other wait"
                    )


def first_overlap(a: Access, b: Access) -> int | None:
    """The lowest address both accesses touch, exactly, or None."""
    starts, stops = a.merged
    others, ends = b.merged
    where = np.searchsorted(stops, others, side="right")  # the first interval of a that ends after b's begins
    hit = where < starts.size
    hit[hit] = starts[where[hit]] < ends[hit]
    if not hit.any():
        return None
    k = int(np.flatnonzero(hit)[0])
    return max(int(starts[where[k]]), int(others[k]))
