"""Random legal programs that no compiler would emit, for a random machine or a given one."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
from graphs import random_requantization

from accelsim.compiler.synchronisation import synchronise
from accelsim.config import Hardware, load_hardware
from accelsim.errors import InputError
from accelsim.isa import (
    Compute,
    Instruction,
    Layer,
    Load,
    Modes,
    Post,
    Program,
    Store,
    TensorRegion,
    Unit,
    check_program,
)
from accelsim.numerics import IntFormat, Rounding, Scheme
from accelsim.timing import TIMING_VERSION

DRAM_BYTES, RECORDS, RECORDS_AT = 1536, 48, 768  # parameter records lie in DRAM behind what a STORE may write
ACTIVATIONS, WEIGHTS, TABLES, LABELS = 400, 300, 2, 16


def assembled(instructions: tuple[Instruction, ...], dram: bytes, modes: Modes, hardware: Hardware) -> Program:
    """Instructions and an image as a program of `LABELS` layers; its input and output are DRAM byte 0."""
    region = TensorRegion(node="x", address=0, batch=1, shape=(1, 1, 1), scale=1.0, zero_point=0)
    return Program(
        name="by hand",
        instructions=instructions,
        modes=modes,
        hardware=hardware,
        timing_version=TIMING_VERSION,
        dram=np.frombuffer(dram, dtype=np.uint8),
        input=region,
        output=region,
        layers=(Layer(name="a", op="test", nodes=(), macs=0, outputs=0),) * LABELS,
        pieces=(),
        shapes={},
    )


class Maker:
    """Random legal instructions for one random machine and one set of modes.

    A given machine keeps its array, its accumulators and its DRAM's width; buffers become those of a random one, and
    the latency any.
    """

    def __init__(self, seed: int, hardware: Hardware | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows, self.columns = self.any(1, 6), self.any(1, 6)
        self.how = random_requantization(self.rng)
        fixed = self.one_in(2)  # it has the most modes
        schemes = {scheme.value for scheme in Scheme} if hardware is None else set(hardware.supports.schemes)
        while (fixed and self.how.scheme is not Scheme.FIXED_POINT) or self.how.scheme.value not in schemes:
            self.how = random_requantization(self.rng)
        # tflite_double takes int32, bias included: the machine refuses more while it runs, the compiler before.
        self.doubles = self.how.rounding is Rounding.TFLITE_DOUBLE
        if hardware is None:
            self._draw_hardware()
        else:
            self._take_hardware(hardware)
        bits, self.signed = self.any(2, 9), self.one_in(2)
        self.modes = Modes(
            activation=IntFormat(bits, signed=self.signed),
            zero_points=self.pick("folded", "subtracted"),
            requantization=self.how,
        )

    def _take_hardware(self, hardware: Hardware) -> None:
        self.rows, self.columns = hardware.array.rows, hardware.array.columns
        self.width = min(hardware.accumulator.width_bits, 30 if self.doubles else 64)
        self.at_end = False
        self.depth = min(hardware.accumulator_depth, 40)
        sizes = {"activation": ACTIVATIONS, "weight": WEIGHTS, "parameter": 16 * RECORDS, "table": 256 * TABLES}
        smaller = {
            name: getattr(hardware, name).model_copy(update={"memory_bytes": size}) for name, size in sizes.items()
        }
        dram = hardware.dram.model_copy(update={"latency_cycles": self.any(0, 30)})
        self.hardware = hardware.model_copy(update={**smaller, "dram": dram})

    def _draw_hardware(self) -> None:
        self.width = self.pick(8, 9, 12, 16, 20, 30, *(() if self.doubles else (32, 33, 48, 64)))
        psum = self.any(8, self.width + 1) if self.one_in(3) else self.width
        self.at_end = self.one_in(4)
        self.depth = self.any(4, 40)
        self.hardware = load_hardware(
            "edge_8x8",
            [
                f"array.rows={self.rows}",
                f"array.columns={self.columns}",
                f"array.psum_bits={psum}",
                f"accumulator.width_bits={self.width}",
                f"accumulator.memory_bytes={-(-self.depth * self.columns * self.width // 8)}",
                f"accumulator.overflow={self.pick('saturate', 'wrap')}",
                f"accumulator.saturate_at={'end' if self.at_end else 'every_add'}",
                f"activation.memory_bytes={ACTIVATIONS}",
                f"weight.memory_bytes={WEIGHTS}",
                f"parameter.memory_bytes={16 * RECORDS}",
                f"table.memory_bytes={256 * TABLES}",
                f"dram.bandwidth_bytes_per_cycle={self.any(1, 12)}",
                f"dram.latency_cycles={self.any(0, 30)}",
            ],
        )

    def any(self, low: int, stop: int) -> int:
        return int(self.rng.integers(low, stop))

    def one_in(self, n: int) -> bool:
        return bool(self.rng.integers(n) == 0)

    def pick(self, *values):
        return values[self.any(0, len(values))]

    def record(self) -> bytes:
        """A legal parameter record: bias, shift, multiplier."""
        how, b = self.how, self.how.multiplier_bits
        extreme, tie, far = self.one_in(4), self.one_in(2), 29 if self.doubles else 31
        bias = self.pick(-(2**far), 2**far - 1, self.any(-(2**far), 2**far)) if self.one_in(3) else self.any(-300, 300)
        if how.scheme is Scheme.FIXED_POINT and extreme:  # t = B - 1 + n in -31..62
            m0, shift = 1 << b - 2 if tie else self.any(1 << b - 2, 1 << b - 1), self.any(-30 - b, 64 - b)
        elif how.scheme is Scheme.POWER_OF_TWO:
            m0, shift = 1, self.any(-31, 63) if extreme else self.any(-2, 12)
        elif how.scheme is Scheme.RECIPROCAL:
            m0, shift = int(2.0 ** self.rng.uniform(0, 61.9 if extreme else 12)), 0
        else:
            low, high = (-60, 40) if extreme and how.scheme is not Scheme.FIXED_POINT else (-12, 3)
            m0, shift = how.derive(2.0 ** self.any(low, high) if tie else float(2.0 ** self.rng.uniform(low, high)))
        return struct.pack("<ib3xq", bias, shift, m0)

    def dram(self) -> bytes:
        image = bytearray(self.rng.integers(0, 256, DRAM_BYTES, dtype=np.uint8).tobytes())
        image[RECORDS_AT:] = b"".join(self.record() for _ in range(RECORDS))
        return bytes(image)

    def load(self) -> Load:
        memory = self.any(0, 4)
        if memory == 2:
            first, count = self.any(0, RECORDS), self.any(1, 9)
            at = RECORDS_AT + 16 * first
            return Load(memory=2, dram_address=at, buffer_address=16 * self.any(0, RECORDS), row_bytes=16 * count)
        size = (ACTIVATIONS, WEIGHTS, 0, 256 * TABLES)[memory]
        return self.transfer(Load, memory, DRAM_BYTES, size)

    def store(self) -> Store:
        return self.transfer(Store, 0, RECORDS_AT, ACTIVATIONS)

    def transfer(self, kind: type[Load], memory: int, dram: int, buffer: int) -> Load:
        several = self.one_in(2)
        return kind(
            memory=memory,
            dram_address=self.any(0, dram),
            buffer_address=self.any(0, buffer),
            row_bytes=self.any(1, 12) if several else self.any(1, 120),
            rows=self.any(1, 6) if several else 1,
            dram_step=self.any(-20, 40),
            buffer_step=self.any(-12, 20),
        )

    def window(self, *, reach: int) -> dict[str, int]:
        """Mask fields of a COMPUTE or a POST, and its counts."""
        return {
            "x_count": self.any(1, 5),
            "y_count": self.any(1, 4),
            "images": self.any(1, 3),
            "r_count": self.any(1, 4) if reach > 1 else 1,
            "s_count": self.any(1, 4) if reach > 1 else 1,
            "in_row_bytes": self.any(0, 30),
            "in_height": self.any(0, 8),
            "x_first": self.any(-6, 6),
            "y_first": self.any(-3, 3),
            "stride_y": self.any(0, 4),
            "r_step": self.any(-20, 30),
            "s_step": self.any(-4, 8),
        }

    def compute(self) -> Compute:
        act_unsigned, weight_unsigned = self.any(0, 2), self.any(0, 2)
        z_x = self.any(0, 256) - 128 * (1 - act_unsigned) if self.one_in(2) else 0
        z_w = self.any(0, 256) - 128 * (1 - weight_unsigned) if self.one_in(2) else 0
        lanes, diagonal = self.any(1, self.columns + 1), self.one_in(4)
        return Compute(
            start=self.any(0, 3),
            diagonal=int(diagonal),
            serial=int(self.one_in(3)),
            output_stationary=0 if diagonal else self.any(0, 2),
            act_unsigned=act_unsigned,
            weight_unsigned=weight_unsigned,
            last=int(not self.one_in(3)),
            z_x=z_x,
            z_w=z_w if self.modes.zero_points == "subtracted" else 0,
            act_base=self.any(-40, ACTIVATIONS),
            weight_base=self.any(0, WEIGHTS),
            width=self.width if self.one_in(2) else self.any(8, self.width + 1),
            acc_base=self.any(0, self.depth),
            lanes=lanes,
            run_bytes=lanes if diagonal else self.any(1, 3 * self.rows + 2),
            x_step=self.any(-6, 10),
            y_step=self.any(-20, 30),
            image_step=self.any(-60, 100),
            dilation_y=self.any(0, 4),
            activation_bits=lanes % (self.modes.activation_bits + 1),
            weight_bits=self.any(2, 9),
            param=self.any(0, RECORDS),
            **self.window(reach=self.any(1, 3)),
        )

    def post(self) -> Post:
        low, high = self.modes.activation.limits
        clip = sorted((self.any(low, high + 1), self.any(low, high + 1))) if self.one_in(2) else (low, high)
        source = self.any(0, 2)
        reduce = self.pick(0, 1, 2) if source else self.pick(0, 1)
        residual = self.one_in(3) and reduce == 0
        zeros = {name: self.any(low, high + 1) for name in ("z_src", "z_dst", "z_residual")}
        step = self.any(-6, 10) if source else self.any(-1, 4)
        window = self.window(reach=2 if reduce else 1)
        if not source:
            window |= {"r_step": self.any(-2, 3), "s_step": self.any(-2, 3)}
        return Post(
            source=source,
            reduce=reduce,
            table_on=int(self.one_in(3)),
            residual_on=int(residual),
            broadcast=int(not residual and self.one_in(3)),
            act_unsigned=int(not self.signed),
            count_padding=self.any(0, 2),
            lanes=self.any(1, self.columns + 1),
            src_base=self.any(-20, ACTIVATIONS) if source else self.any(0, self.depth),
            **zeros,
            dst_base=self.any(-20, ACTIVATIONS),
            residual_base=self.any(-20, ACTIVATIONS),
            param=self.any(0, RECORDS),
            dst_x_step=self.any(-6, 10),
            src_image_step=self.any(-60, 100) if source else self.any(-3, 5),
            src_x_step=step,
            src_y_step=self.any(-20, 30) if source else self.any(-2, 5),
            qmin=clip[0],
            dst_y_step=self.any(-20, 30),
            qmax=clip[1],
            table=self.any(0, TABLES),
            dst_image_step=self.any(-60, 100),
            **window,
        )

    def program(self) -> Program:
        """Random instructions, serially legal, then ordered by tokens; some tokens more than they need."""
        dram = self.dram()
        made: list[Instruction] = [
            Load(memory=2, dram_address=RECORDS_AT, buffer_address=0, row_bytes=16 * RECORDS),
            Load(memory=0, dram_address=0, buffer_address=0, row_bytes=ACTIVATIONS),
            Load(memory=1, dram_address=ACTIVATIONS, buffer_address=0, row_bytes=WEIGHTS),
            Load(memory=3, dram_address=5, buffer_address=0, row_bytes=256 * TABLES),
        ]
        wanted = len(made) + self.any(6, 24)
        while len(made) < wanted:
            maker = self.pick(self.load, self.compute, self.compute, self.compute, self.post, self.post, self.store)
            instruction = replace(maker(), label=self.any(0, LABELS))
            if self.legal([instruction]):
                made.append(instruction)
        # What it all left behind becomes visible: results, and with them sums.
        made.append(Store(dram_address=0, buffer_address=0, row_bytes=ACTIVATIONS, label=LABELS - 1))
        return self.assembled(self.more_tokens(synchronise(made)), dram)

    def assembled(self, instructions: tuple[Instruction, ...], dram: bytes) -> Program:
        """Instructions and an image as a program of this machine."""
        return assembled(instructions, dram, self.modes, self.hardware)

    def legal(self, instructions) -> bool:
        try:
            check_program(tuple(instructions), self.hardware, self.modes, DRAM_BYTES)
        except InputError:
            return False
        return True

    def more_tokens(self, instructions: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
        for _ in range(self.any(0, 8)):
            a, b = sorted((self.any(0, len(instructions)), self.any(0, len(instructions))))
            giver, taker = instructions[a], instructions[b]
            if giver.UNIT == taker.UNIT or giver.signal >> taker.UNIT & 1 or taker.wait >> giver.UNIT & 1:
                continue
            changed = list(instructions)
            changed[a] = replace(giver, signal=giver.signal | 1 << taker.UNIT)
            changed[b] = replace(taker, wait=taker.wait | 1 << giver.UNIT)
            if self.legal(changed):
                instructions = tuple(changed)
        return instructions


class Pools(Maker):
    """As `Maker`, but POSTs reduce windows that lie mostly in the image, with padded corners."""

    def post(self) -> Post:
        several = self.pick(2, 2, 1)
        return replace(
            super().post(),
            source=1,
            reduce=several,
            residual_on=0,
            broadcast=0,
            lanes=self.any(1, self.columns + 1),
            src_base=self.any(0, 40),
            src_x_step=self.any(0, 5),
            src_y_step=self.any(0, 25),
            src_image_step=self.any(0, 60),
            r_count=self.any(1, 5),
            s_count=self.any(1, 5),
            r_step=self.any(0, 25),
            s_step=self.any(0, 4),
            in_row_bytes=self.any(8, 30),
            in_height=self.any(2, 8),
            x_first=self.any(-5, 3),
            y_first=self.any(-2, 2),
            param=self.any(0, RECORDS - self.columns),
            dst_base=self.any(200, 300),
        )


class Chains(Maker):
    """Units that hand a token to each other for every few bytes: gives and takes meet in one cycle, queues are full."""

    def program(self) -> Program:
        """`ahead` transfers or sums may be under way between two units; tokens go both ways."""
        count, ahead = self.any(4, 24), self.any(1, 4)
        latency = self.hardware.dram.model_copy(update={"latency_cycles": self.any(0, 3)})
        self.hardware = self.hardware.model_copy(update={"dram": latency})
        made: list[Instruction] = [
            Load(memory=2, dram_address=RECORDS_AT, buffer_address=0, row_bytes=16 * RECORDS),
            Load(memory=0, dram_address=0, buffer_address=0, row_bytes=100),
            Load(
                memory=1,
                dram_address=ACTIVATIONS,
                buffer_address=0,
                row_bytes=WEIGHTS,
                signal=1 << Unit.COMPUTE | 1 << Unit.POST,
            ),
        ]
        words, lanes = self.any(1, 4), self.any(1, self.columns + 1)
        run, stationary = self.any(1, 5), self.any(0, 2)
        for number in range(count):
            comes, goes = number >= ahead, number < count - ahead
            size = self.any(1, 9)
            here = {"buffer_address": 280 + 9 * (number % ahead), "row_bytes": size}
            first = number == 0
            made.append(
                Load(
                    memory=0,
                    dram_address=self.any(0, 700),
                    wait=comes << Unit.STORE,
                    signal=1 << Unit.STORE,
                    **here,
                )
            )
            made.append(
                Store(dram_address=720 + 9 * (number % 5), wait=1 << Unit.LOAD, signal=goes << Unit.LOAD, **here)
            )
            made.append(
                replace(
                    self.compute(),
                    diagonal=0,
                    output_stationary=stationary,
                    start=0,
                    act_base=self.any(0, 20),
                    weight_base=0,
                    acc_base=words * (number % ahead),
                    lanes=lanes,
                    run_bytes=run,
                    x_count=words,
                    y_count=1,
                    images=1,
                    r_count=1,
                    s_count=1,
                    in_row_bytes=40,
                    x_first=0,
                    x_step=self.any(0, 4),
                    wait=comes << Unit.POST | first << Unit.LOAD,
                    signal=1 << Unit.POST,
                )
            )
            made.append(
                Post(
                    source=0,
                    lanes=lanes,
                    src_base=words * (number % ahead),
                    src_x_step=1,
                    x_count=words,
                    dst_base=100 + number * words * lanes % 160,
                    dst_x_step=lanes,
                    param=self.any(0, RECORDS - lanes),
                    qmin=self.modes.activation.minimum,
                    qmax=self.modes.activation.maximum,
                    act_unsigned=int(not self.signed),
                    wait=1 << Unit.COMPUTE | first << Unit.LOAD,
                    signal=goes << Unit.COMPUTE | (number == count - 1) << Unit.STORE,
                )
            )
        last = Store(dram_address=0, buffer_address=100, row_bytes=180, wait=1 << Unit.POST)
        assert self.legal([*made, last])
        return self.assembled((*made, last), self.dram())
