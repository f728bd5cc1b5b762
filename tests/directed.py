"""Hand-made legal programs for what random ones do not reach: token counters at their limit, and a bypass by lanes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from programs import assembled

from accelsim.compiler.synchronisation import synchronise
from accelsim.config import Hardware
from accelsim.isa import Compute, Instruction, Load, Modes, Post, Program, Start, Store, Unit, pack_records
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

FULL = 255
"""The most tokens that a counter of 8 bits holds (docs/microarchitecture.md, section 3)."""
RECORDS = 1024
"""DRAM address of the parameter records: bias 2, and the sum as it is."""
CODES = IntFormat(8, signed=True)
MODES = Modes(
    activation=CODES,
    zero_points="folded",
    requantization=Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR),
)


def compute(hardware: Hardware, **fields: int) -> Compute:
    """One word of one tile, one byte long, from activation byte 8 and weight byte 0 into accumulator word 0."""
    given = {"act_base": 8, "weight_base": 0, "acc_base": 0, "lanes": 1, "run_bytes": 1, "in_row_bytes": 1}
    return Compute(width=hardware.accumulator.width_bits, **{**given, **fields})


def post(**fields: int) -> Post:
    """One word of accumulator word 0 into activation byte 16."""
    given = {"lanes": 1, "src_base": 0, "dst_base": 16, "param": 0, "qmin": CODES.minimum, "qmax": CODES.maximum}
    return Post(**{**given, **fields})


def small(unit: Unit, hardware: Hardware) -> Instruction:
    """The shortest instruction of a unit; none of them touches what another one's writes."""
    if unit is Unit.COMPUTE:
        return compute(hardware)
    if unit is Unit.POST:
        return post(src_base=1)
    if unit is Unit.LOAD:
        return Load(memory=0, dram_address=3, buffer_address=0, row_bytes=1)
    return Store(dram_address=5, buffer_address=24, row_bytes=1)


def program(hardware: Hardware, instructions: tuple[Instruction, ...]) -> Program:
    """Instructions on a machine whose DRAM answers at once, with small numbers in DRAM."""
    rng = np.random.default_rng(0)
    records = pack_records(*(np.full(64, value, dtype=np.int64) for value in (2, 1, 0)))
    image = rng.integers(1, 5, RECORDS, dtype=np.uint8).tobytes() + records.tobytes()
    dram = hardware.dram.model_copy(update={"latency_cycles": 0})
    return assembled(instructions, image, MODES, hardware.model_copy(update={"dram": dram}))


def full_counter(giver: Unit, taker: Unit, hardware: Hardware) -> Program:
    """`giver` gives `taker` 255 tokens before the first is taken, and then all are.

    A third unit holds the taker back: it runs once, behind the giver's last instruction.
    """
    third = next(unit for unit in Unit if unit not in (giver, taker))
    gives = [replace(small(giver, hardware), signal=1 << taker) for _ in range(FULL)]
    gives[-1] = replace(gives[-1], signal=1 << taker | 1 << third)
    between = replace(small(third, hardware), wait=1 << giver, signal=1 << taker)
    takes = [replace(small(taker, hardware), wait=1 << giver) for _ in range(FULL)]
    takes[0] = replace(takes[0], wait=1 << giver | 1 << third)
    records = Load(memory=2, dram_address=RECORDS, buffer_address=0, row_bytes=16)
    made = [records, *gives, between, *takes]
    first = next((n for n, i in enumerate(made) if i.UNIT is Unit.POST), None)
    if first is not None and not made[first].wait >> Unit.LOAD & 1:  # POST reads the record
        made[0] = replace(records, signal=1 << Unit.POST)
        made[first] = replace(made[first], wait=made[first].wait | 1 << Unit.LOAD)
    return program(hardware, tuple(made))


def changing_lanes(hardware: Hardware) -> Program:
    """One-word COMPUTEs on one accumulator word, with more lanes from one to the next, and with fewer.

    With one row they follow each other cycle by cycle: each reads the word that the one before it is writing. Lanes
    that the one before leaves alone must come from memory, which holds a sum there by then.
    """
    columns = hardware.array.columns
    made: list[Instruction] = [
        Load(memory=2, dram_address=RECORDS, buffer_address=0, row_bytes=16 * columns),
        Load(memory=0, dram_address=0, buffer_address=0, row_bytes=64),
        Load(memory=1, dram_address=64, buffer_address=0, row_bytes=columns),
    ]
    for lanes in range(1, columns + 1):
        for start in Start:
            word = 3 * (lanes - 1) + start
            steps = [
                (columns, Start.ZERO),  # every lane holds a sum
                (lanes, start),  # of fewer lanes, set anew or added to
                (columns, Start.ACCUMULATE),  # more: the others' sums are not those of the step before
                (lanes, Start.ACCUMULATE),  # and fewer again
            ]
            made += [
                compute(hardware, acc_base=word, lanes=n, start=how, act_base=at) for at, (n, how) in enumerate(steps)
            ]
    words = 3 * columns
    made.append(post(lanes=columns, x_count=words, src_x_step=1, dst_base=100, dst_x_step=columns))
    made.append(Store(dram_address=0, buffer_address=100, row_bytes=words * columns))
    return program(hardware, synchronise(made))


def directed(hardware: Hardware) -> Iterator[tuple[str, Program]]:
    """Every hand-made program and its name."""
    yield "changing_lanes", changing_lanes(hardware)
    for giver in Unit:
        for taker in Unit:
            if giver is not taker:
                yield f"full_counter({giver.name}, {taker.name})", full_counter(giver, taker, hardware)
