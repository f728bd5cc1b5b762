"""accelsim.machine against second_machine.py, which was written from docs/ alone and reads only a program directory.

Compiled random graphs and LeNet-5, and random legal programs that no compiler would emit: final DRAM byte for byte,
every instruction's cycles, stalls and array span, and every label's partial-sum figures.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker, random_graph, random_hardware, random_requantization
from second_machine import Modes as SecondModes
from second_machine import SecondMachine

from accelsim.compiler import compile_graph
from accelsim.compiler.synchronisation import synchronise
from accelsim.config import load_hardware, load_quantization
from accelsim.errors import InputError
from accelsim.ir import quantize_input
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
    check_program,
    load_program,
)
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, Rounding, Scheme, requantize
from accelsim.pipeline import save_compiled
from accelsim.sources import find_workload, load_images
from accelsim.timing import TIMING_VERSION


def compare(folder: Path) -> Program:
    """Run a program directory on both machines; every figure must be the same."""
    program = load_program(folder)
    first = Accelerator(program).run(telemetry=True)
    second = SecondMachine(folder).run()
    for issued in first.timeline:
        n = issued.index
        here = (second.issue[n], second.done[n], second.stalls[n], second.spans[n])
        assert here == (issued.issue, issued.done, dict(issued.stalls), issued.span), (n, program.instructions[n])
    assert second.cycles == first.cycles
    labels = {label: seen for label, seen in first.statistics.items() if seen.minimum is not None}
    assert {label: (s.minimum, s.maximum, s.overflows) for label, s in second.sums.items()} == {
        label: (s.minimum, s.maximum, s.overflows) for label, s in labels.items()
    }
    assert first.dram is not None
    different = np.flatnonzero(np.frombuffer(bytes(second.dram), dtype=np.uint8) != first.dram)
    assert different.size == 0, f"DRAM differs at {different[:10]}"
    return program


# --- compiled programs ------------------------------------------------------------------------------------------------


def one_linear(rng: np.random.Generator) -> GraphMaker:
    """What an input-stationary machine runs."""
    subtracted = bool(rng.random() < 0.5)
    maker = GraphMaker(
        rng,
        random_requantization(rng),
        activation=IntFormat(int(rng.choice([4, 8])), signed=bool(rng.random() < 0.5)),
        zero_points="subtracted" if subtracted else "folded",
        affine_weights=subtracted,
    )
    node = maker.input(1, 1, int(rng.integers(1, 30)), maker.zero_point())
    maker.linear(node, int(rng.integers(1, 20)), weight_bits=int(rng.integers(2, 9)))
    return maker


def compiled(seed: int, folder: Path) -> None:
    """A random graph compiled for a random machine, with its input, into a directory."""
    rng = np.random.default_rng(seed)
    dataflow = str(rng.choice(["ws", "ws", "os", "os", "is"]))
    maker = one_linear(rng) if dataflow == "is" else random_graph(rng)
    graph = maker.graph()
    batch = int(rng.integers(1, 4))
    program = compile_graph(graph, random_hardware(rng, graph, dataflow), batch)
    save_compiled(program, graph, maker.codes(batch), folder)


@pytest.mark.parametrize("seed", range(16))
def test_compiled_graphs(seed, tmp_path):
    compiled(seed, tmp_path)
    compare(tmp_path)


def test_lenet5(tmp_path):
    pytest.importorskip("torch")
    source = find_workload("lenet5_digits", quantization=load_quantization("int8"), data=None, calibration=None)
    codes = quantize_input(source.graph, load_images(source, None, 1).images)
    save_compiled(compile_graph(source.graph, load_hardware("edge_8x8")), source.graph, codes, tmp_path)
    compare(tmp_path)


# --- programs by hand -------------------------------------------------------------------------------------------------

DRAM_BYTES, RECORDS, RECORDS_AT = 1536, 48, 768  # parameter records lie in DRAM behind what a STORE may write
ACTIVATIONS, WEIGHTS, TABLES, LABELS = 400, 300, 2, 16


class Maker:
    """Random legal instructions for one random machine and one set of modes."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows, self.columns = self.any(1, 6), self.any(1, 6)
        self.how = random_requantization(self.rng)
        fixed = self.one_in(2)  # it has the most modes
        while fixed and self.how.scheme is not Scheme.FIXED_POINT:
            self.how = random_requantization(self.rng)
        # tflite_double takes int32, bias included: the machine refuses more while it runs, the compiler before.
        self.doubles = self.how.rounding is Rounding.TFLITE_DOUBLE
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
        bits, self.signed = self.any(2, 9), self.one_in(2)
        self.modes = Modes(
            activation=IntFormat(bits, signed=self.signed),
            zero_points=self.pick("folded", "subtracted"),
            requantization=self.how,
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
        instructions = self.more_tokens(synchronise(made))
        region = TensorRegion(node="x", address=0, batch=1, shape=(1, 1, 1), scale=1.0, zero_point=0)
        return Program(
            name="by hand",
            instructions=instructions,
            modes=self.modes,
            hardware=self.hardware,
            timing_version=TIMING_VERSION,
            dram=np.frombuffer(dram, dtype=np.uint8),
            input=region,
            output=region,
            layers=(Layer(name="a", op="test", nodes=(), macs=0, outputs=0),) * LABELS,
            pieces=(),
            shapes={},
        )

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


def corners(program: Program) -> Counter[str]:
    """What a program holds that a compiler would hardly emit."""
    found: Counter[str] = Counter()
    computes = [i for i in program.instructions if isinstance(i, Compute)]
    for c, n in zip_longest(computes, computes[1:]):
        kind = "os" if c.output_stationary else "diagonal" if c.diagonal else "ws"
        found[f"{kind} start {c.start} serial {c.serial}"] += 1
        if n is not None:
            found[f"{kind} before {'os' if n.output_stationary else 'ws'} start {n.start}"] += 1
            found["accumulate over another width"] += n.start == 1 and n.width != c.width
    for p in program.instructions:
        if isinstance(p, Post):
            found[f"post source {p.source} reduce {p.reduce}"] += 1
            found["residual"] += p.residual_on
            found["broadcast"] += p.broadcast
            found["table"] += p.table_on
    found["instructions"] = len(program.instructions)
    found["waits"] = sum(i.wait.bit_count() for i in program.instructions)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_requantisation_value_by_value(seed):
    """What whole programs seldom reach: ties, and values of more bits than a float32 has."""
    maker = Maker(seed)
    how, top = maker.how, 31 if maker.doubles else 60
    modes = SecondModes(*maker.modes.encode())
    for _ in range(30):
        _, shift, m0 = struct.unpack("<ib3xq", maker.record())
        sizes = maker.rng.uniform(0, top, 40)
        values = [int(2.0**size) * maker.pick(-1, 1) for size in sizes] + list(range(-6, 7))
        expected = requantize(np.array(values), m0, shift, how).tolist()
        assert [modes.requantise(v, m0, shift) for v in values] == expected, (how, m0, shift)


BY_HAND = range(240)


@pytest.mark.parametrize("block", range(6))
def test_random_programs(block, tmp_path):
    for seed in BY_HAND[block::6]:
        Maker(seed).program().save(tmp_path / str(seed))
        compare(tmp_path / str(seed))
