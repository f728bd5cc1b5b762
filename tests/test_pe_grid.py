"""The register-level grid: cycles derived by hand, bits against plain integers, and the proof of `accelsim.timing`.

Cycles in comments follow docs/microarchitecture.md: L is a tile's first weight load, T its first streamed word,
"visible in cycle t" means that a register shows a value on the wires of cycle t.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from accelsim.config import hardware_from_dict
from accelsim.isa import Compute, Start, pack_records, pack_rows
from accelsim.machine import compute as machine_compute
from accelsim.machine import pe_grid
from accelsim.machine.pe_grid import GridConfig, GridRun
from accelsim.numerics import IntFormat, PsumStatistics
from accelsim.timing import ArrayShape, compute_counts, compute_times

# --- plain Python integers ---------------------------------------------------------------------------------


def plain_fit(value: int, bits: int, overflow: str) -> int:
    """`value` in `bits` bits of two's complement."""
    half = 1 << (bits - 1)
    if overflow == "saturate":
        return max(-half, min(half - 1, value))
    return (value + half) % (2 * half) - half


class Adder:
    """Additions as the machine declares them, and their statistics."""

    def __init__(self, config: GridConfig):
        self.config = config
        self.overflows = 0
        self.seen: list[int] = []

    def add(self, s: int, p: int, bits: int) -> int:
        self.seen.append(s + p)
        return self.fit(s + p, bits) if self.config.saturate_at == "every_add" else s + p

    def fit(self, value: int, bits: int) -> int:
        fitted = plain_fit(value, bits, self.config.overflow)
        self.overflows += fitted != value
        return fitted

    def start(self, value: int, bits: int) -> int:
        return plain_fit(value, bits, self.config.overflow) if self.config.saturate_at == "every_add" else value


def plain_operand(c: Compute, config: GridConfig, activation: list[int], word: tuple[int, ...], tap: tuple[int, ...]):
    """One activation lane: the byte, or padding."""
    (image, y, x), (r, s, lane) = word, tap
    zero = c.z_x if config.subtract_zero_points else 0
    position = c.x_first + x * c.x_step + s * c.s_step + lane
    line = c.y_first + y * c.stride_y + r * c.dilation_y
    if not (0 <= position < c.in_row_bytes and 0 <= line < c.in_height):
        return c.z_x - zero
    address = c.act_base + image * c.image_step + y * c.y_step + x * c.x_step + r * c.r_step + s * c.s_step + lane
    byte = activation[address]
    return (byte if c.act_unsigned or byte < 128 else byte - 256) - zero


def plain_weight(c: Compute, config: GridConfig, weight: list[int], row: int, lane: int) -> int:
    """Weight `lane` of a packed row, bit by bit."""
    value = 0
    for bit in range(c.weight_bits):
        at = lane * c.weight_bits + bit
        value |= (weight[c.weight_base + row * -(-c.lanes * c.weight_bits // 8) + at // 8] >> at % 8 & 1) << bit
    if not c.weight_unsigned and value >> (c.weight_bits - 1):
        value -= 1 << c.weight_bits
    return value - (c.z_w if config.subtract_zero_points else 0)


def plain_compute(
    c: Compute, config: GridConfig, activation: list[int], weight: list[int], memory: list[list[int]], bias: list[int]
) -> Adder:
    """One COMPUTE in the declared order of additions, in place; the triple loop."""
    adder = Adder(config)
    psum_bits = min(config.psum_bits, c.width)
    runs = [(r, s) for r in range(c.r_count) for s in range(c.s_count)]
    tall = 1 if c.diagonal else c.run_bytes
    weights = [[plain_weight(c, config, weight, row, n) for n in range(c.lanes)] for row in range(len(runs) * tall)]
    words = [(i, y, x) for i in range(c.images) for y in range(c.y_count) for x in range(c.x_count)]
    for number, word in enumerate(words):
        values = [
            [plain_operand(c, config, activation, word, (r, s, lane)) for lane in range(c.run_bytes)] for r, s in runs
        ]
        cell = memory[c.acc_base + number]
        for n in range(c.lanes):
            total, start_bits = 0, psum_bits if c.output_stationary else c.width
            if c.start == Start.ACCUMULATE:
                total = adder.start(cell[n], start_bits) if c.output_stationary else cell[n]
            elif c.start == Start.BIAS:
                total = adder.start(bias[c.param + n], start_bits)
                adder.seen.append(total)
            for q in range(len(runs)):
                if c.output_stationary:
                    for lane in range(c.run_bytes):
                        total = adder.add(total, values[q][lane] * weights[q * tall + lane][n], psum_bits)
                    continue
                for first in range(0, c.run_bytes, config.rows):
                    psum = 0
                    for lane in range(first, min(first + config.rows, c.run_bytes)):
                        if not c.diagonal:
                            psum = adder.add(psum, values[q][lane] * weights[q * tall + lane][n], psum_bits)
                        elif lane == n:
                            psum = adder.add(psum, values[q][lane] * weights[q][n], psum_bits)
                    total = adder.add(total, psum, c.width)
            if config.saturate_at == "end" and c.last:
                total = adder.fit(total, c.width)
            cell[n] = total
    return adder


# --- random instructions -----------------------------------------------------------------------------------


@dataclass
class Case:
    """A sequence of COMPUTEs and everything it reads."""

    config: GridConfig
    computes: list[Compute]
    ready: list[int]
    activation: np.ndarray
    weight: np.ndarray
    accumulators: np.ndarray
    bias: np.ndarray

    def run(self, **options) -> GridRun:
        return pe_grid.run(
            self.computes,
            self.config,
            activation=self.activation,
            weight=self.weight,
            accumulators=self.accumulators,
            bias=self.bias,
            ready=self.ready,
            **options,
        )


BYTES = 4096
REGION = 40  # accumulator words; one run-time width in each region, as one layer has one width


def convolution(rng: np.random.Generator, config: GridConfig, mode: str, *, short: bool) -> Compute:
    """A rectangle of a random convolution (or linear layer): padding, stride, dilation, packed weights."""
    rows, columns = config.rows, config.columns
    diagonal = mode == "diagonal"
    kernel_h, kernel_w = (int(n) for n in rng.integers(1, 4, 2))
    channels = int(rng.integers(1, 4))
    if diagonal:
        channels = int(rng.integers(1, min(rows, columns) + 1))
    elif rng.random() < 0.4:  # linear
        kernel_h = kernel_w = 1
        channels = int(rng.integers(1, 3 * rows + 1))
    stride, dilation, pad = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.integers(0, 3))
    words = int(rng.integers(1, (rows if short else 3 * rows) + 1))
    x_count = int(rng.integers(1, min(words, 5) + 1))
    images = 2 if words // x_count >= 2 and rng.random() < 0.3 else 1
    y_count = words // x_count // images
    height = max(1, (y_count - 1) * stride + (kernel_h - 1) * dilation + 1 - pad - int(rng.integers(0, 3)))
    width = max(1, (x_count - 1) * stride + (kernel_w - 1) * dilation + 1 - pad - int(rng.integers(0, 3)))
    lanes = channels if diagonal else int(rng.integers(1, columns + 1))
    packed = dilation == 1 and not diagonal  # a kernel row's S * C products are consecutive bytes
    act_unsigned, weight_unsigned = (int(n) for n in rng.integers(0, 2, 2))
    weight_bits = int(rng.integers(2, 9))
    row_bytes = width * channels
    room = BYTES - images * height * row_bytes
    assert room > 0
    z_w = 0
    if config.subtract_zero_points:
        z_w = int(rng.integers(0, 1 << weight_bits)) - (0 if weight_unsigned else 1 << weight_bits - 1)
    return Compute(
        diagonal=int(diagonal),
        output_stationary=int(mode == "os"),
        act_unsigned=act_unsigned,
        weight_unsigned=weight_unsigned,
        z_x=int(rng.integers(0, 256)) if act_unsigned else int(rng.integers(-128, 128)),
        z_w=z_w,
        act_base=int(rng.integers(0, room)) - pad * row_bytes - pad * channels,
        weight_base=int(rng.integers(0, 1000)),
        width=32,
        acc_base=0,
        lanes=lanes,
        run_bytes=kernel_w * channels if packed else channels,
        x_count=x_count,
        y_count=y_count,
        images=images,
        x_step=stride * channels,
        y_step=stride * row_bytes,
        image_step=height * row_bytes,
        r_count=kernel_h,
        s_count=1 if packed else kernel_w,
        r_step=dilation * row_bytes,
        s_step=0 if packed else dilation * channels,
        stride_y=stride,
        dilation_y=dilation,
        weight_bits=weight_bits,
        in_row_bytes=row_bytes,
        x_first=-pad * channels,
        y_first=-pad,
        in_height=height,
        param=int(rng.integers(0, 20)),
    )


def random_case(rng: np.random.Generator, modes: list[str], *, largest: int = 9, short: bool = False) -> Case:
    """Three or four chained COMPUTEs; R, C in 1..`largest`, M in 1..3R (`short`: 1..R)."""
    psum_bits = int(rng.integers(8, 25))
    config = GridConfig(
        rows=int(rng.integers(1, largest + 1)),
        columns=int(rng.integers(1, largest + 1)),
        psum_bits=psum_bits,
        overflow=str(rng.choice(["saturate", "wrap"])),
        saturate_at=str(rng.choice(["every_add", "every_add", "end"])),
        subtract_zero_points=bool(rng.integers(2)),
    )
    widths = [int(n) for n in rng.integers(8, 27, 2)]
    computes, ready, cycle = [], [], 0
    serial = rng.random() < 0.3
    for number in range(int(rng.integers(3, 5))):
        region = int(rng.integers(2))
        computes.append(
            replace(
                convolution(rng, config, str(rng.choice(modes)), short=short),
                start=int(rng.choice([0, 1, 1, 2] if number else [0, 1, 2])),
                serial=int(serial and rng.random() < 0.7),
                last=int(rng.random() < 0.6),
                width=widths[region],
                acc_base=region * REGION + int(rng.integers(0, 8)),
            )
        )
        cycle = max(0, cycle + int(rng.integers(-20, 80))) if rng.random() < 0.4 else cycle
        ready.append(cycle)
    accumulators = np.concatenate([rng.integers(-(1 << w - 1), 1 << w - 1, (REGION, config.columns)) for w in widths])
    edges = np.array([0, 1, 127, 128, 255], dtype=np.uint8)  # extremes, so that sums overflow
    activation = rng.integers(0, 256, BYTES, dtype=np.uint8)
    activation = np.where(rng.random(BYTES) < 0.3, rng.choice(edges, BYTES), activation)
    span = 1 << int(rng.integers(6, 28))
    return Case(
        config=config,
        computes=computes,
        ready=ready,
        activation=activation,
        weight=rng.integers(0, 256, BYTES, dtype=np.uint8),
        accumulators=accumulators,
        bias=rng.integers(-span, span, 40),
    )


def plain_run(case: Case) -> tuple[list[list[int]], int, int, int]:
    """Memory, overflows, minimum and maximum by plain integers."""
    memory = case.accumulators.tolist()
    activation, weight, bias = case.activation.tolist(), case.weight.tolist(), case.bias.tolist()
    adders = [plain_compute(c, case.config, activation, weight, memory, bias) for c in case.computes]
    seen = [value for adder in adders for value in adder.seen]
    return memory, sum(adder.overflows for adder in adders), min(seen), max(seen)


def check_bits(case: Case, grid: GridRun, name: object) -> None:
    memory, overflows, low, high = plain_run(case)
    assert grid.accumulators.tolist() == memory, name
    assert (grid.overflows, grid.psum_min, grid.psum_max) == (overflows, low, high), name


def check_machine(case: Case, grid: GridRun, name: object) -> None:
    """The SimPy machine's values, which are `accelsim.numerics`' sums."""
    config = case.config
    hardware = hardware_from_dict(
        {
            "array": {"rows": config.rows, "columns": config.columns, "psum_bits": config.psum_bits},
            "accumulator": {
                "width_bits": 32,
                "memory_bytes": 65536,
                "overflow": config.overflow,
                "saturate_at": config.saturate_at,
            },
            "activation": {"memory_bytes": BYTES},
            "weight": {"memory_bytes": BYTES},
            "parameter": {"memory_bytes": BYTES},
            "table": {"memory_bytes": 256},
            "dram": {"bandwidth_bytes_per_cycle": 8, "latency_cycles": 1},
            "clock_mhz": 100.0,
        },
        "test_pe_grid",
    )
    zeros = np.zeros_like(case.bias)
    memories = SimpleNamespace(
        activation=case.activation,
        weight=case.weight,
        parameter=pack_records(case.bias, zeros, zeros).ravel(),
        accumulators=case.accumulators.copy(),
    )
    modes = SimpleNamespace(
        activation=IntFormat(8), zero_points="subtracted" if config.subtract_zero_points else "folded"
    )
    statistics = PsumStatistics()
    for c in case.computes:
        machine_compute.execute(c, memories, hardware, modes, statistics)
    assert (memories.accumulators == grid.accumulators).all(), name
    assert (statistics.overflows, statistics.minimum, statistics.maximum) == (
        grid.overflows,
        grid.psum_min,
        grid.psum_max,
    ), name


def check_times_and_counts(case: Case, grid: GridRun, name: object) -> None:
    config, state = case.config, None
    shape = ArrayShape(config.rows, config.columns, config.mac_latency, config.mac_interval, config.add_latency)
    counts = dict.fromkeys(grid.captures, 0)
    for k, c in enumerate(case.computes):
        times = compute_times(c, shape, state, case.ready[k])
        state = times.state
        assert (times.issue, times.done) == (grid.issue[k], grid.done[k]), (name, k, c)
        assert (times.span_first, times.span_last) == grid.span[k], (name, k, c)
        counted = compute_counts(c, shape)
        assert counted.keys() == counts.keys(), name
        counts = {key: counts[key] + counted[key] for key in counts}
    assert grid.captures == counts, (name, case.computes)


# --- cycles derived by hand --------------------------------------------------------------------------------


def gemm(x: np.ndarray, w: np.ndarray, rows: int, *, columns: int | None = None, **fields) -> Case:
    """(M, K) times (K, N) on an R x C array, C = N if not given, accumulators zero; one COMPUTE."""
    (words, depth), lanes = x.shape, w.shape[1]
    columns = columns or lanes
    compute = Compute(
        act_base=0,
        weight_base=0,
        width=24,
        acc_base=0,
        lanes=lanes,
        run_bytes=depth,
        x_count=words,
        x_step=depth,
        in_row_bytes=words * depth,
        **fields,
    )
    return Case(
        config=GridConfig(
            rows=rows,
            columns=columns,
            psum_bits=24,
            overflow="saturate",
            saturate_at="every_add",
            subtract_zero_points=False,
        ),
        computes=[compute],
        ready=[0],
        activation=x.astype(np.int8).view(np.uint8).ravel(),
        weight=pack_rows(w, 8).ravel(),
        accumulators=np.zeros((words + 8, columns), dtype=np.int64),
        bias=np.arange(100, 100 + lanes),
    )


def chain(case: Case, *fields: dict[str, int]) -> Case:
    """The case's COMPUTE once for each set of changed fields."""
    return replace(case, computes=[replace(case.computes[0], **f) for f in fields], ready=[0] * len(fields))


def watch(case: Case, pick) -> tuple[GridRun, list]:
    """Run, and return pick(registers) of every cycle."""
    seen = []
    grid = case.run(observe=lambda cycle, registers: seen.append(pick(registers)))
    return grid, seen


def small(words: int, depth: int, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Operands without zeros, whose products and sums differ."""
    x = np.arange(1, words * depth + 1).reshape(words, depth)
    w = np.arange(1, depth * lanes + 1).reshape(depth, lanes) ** 2
    return x, w


def test_one_ws_tile_on_2x2():
    x, w = small(3, 2, 2)
    case = gemm(x, w, 2)
    grid = case.run()
    # Weight rows are read in cycles 0, 1; words in 2, 3, 4. The last product of PE(1, 1) is in 4 + 1 + 1 = 6, its sum
    # is below the array in 7 (column 1 needs no deskew), read-added in 7 and written in 8.
    assert (grid.issue, grid.done, grid.span) == ([0], [8], [(0, 6)])
    assert (grid.accumulators[:3] == x @ w).all()
    assert grid.captures == {
        "mul": 12,  # 3 words, 2 x 2 PEs
        "add.array": 12,
        "add.accumulator": 0,  # a zero start adds nothing to memory
        "register.activation": 12,
        "register.psum": 12,
        "register.weight": 8,  # 4 shadows, 4 switches
        "register.skew": 3 + 2 + 3,  # lane 1 of 3 words; column 1 of 2 weight rows; column 0's deskew of 3 words
        "read.activation": 6,
        "read.weight": 4,
        "read.accumulator": 0,
        "read.parameter": 0,
        "write.accumulator": 6,
    }


def test_column_j_receives_its_psum_j_cycles_after_column_0():
    x, w = small(4, 3, 3)
    grid, psums = watch(gemm(x, w, 3), lambda registers: registers["pe.psum"])
    # T = 3. Lane 2 of word m reaches PE(2, j) in T + m + 2 + j; the sum is in its register one cycle later.
    for m, j in np.ndindex(4, 3):
        assert psums[3 + m + 2 + j + 1][2, j] == (x @ w)[m, j]
    assert grid.done == [3 + 3 + 2 + 2 + 2]


@pytest.mark.parametrize(
    "words, loads, streams",
    [
        # M < R: the weight port sets the pace. T_0 = 2 = L_1, then R = 2 cycles a tile.
        (1, [0, 2, 4, 6], [2, 4, 6]),
        # M > R: T_1 = T_0 + M = 7, and tile 2 may not be loaded before tile 1 has left the shadow: L_2 = T_1.
        (5, [0, 2, 7, 12], [2, 7, 12]),
    ],
)
def test_a_tile_is_loaded_from_the_cycle_its_predecessor_is_switched_in(words, loads, streams):
    x, w = np.arange(6 * words).reshape(words, 6) % 5, np.arange(1, 13).reshape(6, 2)
    case = chain(gemm(x, w, 2), {}, {"acc_base": words})
    grid, seen = watch(case, lambda r: (r["pe.shadow"][0, 0], r["pe.weight"][0, 0]))
    shadow, weight = zip(*seen, strict=True)
    for tile in range(3):  # a register shows its value in the cycle after it was written
        assert shadow.index(w[2 * tile, 0]) == loads[tile] + 1
        assert weight.index(w[2 * tile, 0]) == streams[tile] + 1
    assert grid.issue == [0, loads[3]]
    assert grid.done[0] == streams[2] + words - 1 + 1 + 1 + 2
    assert (grid.accumulators[: 2 * words] == np.concatenate((x @ w, x @ w))).all()


def test_a_chain_of_single_words_needs_the_accumulator_bypass():
    x, w = small(1, 4, 1)
    grid, address = watch(gemm(x, w, 1), lambda r: (r["accumulator.wave"], r["accumulator.address"]))
    # R = C = M = 1: T = 1, 2, 3, 4; tile k's sum is read-added in k + 2 and written in k + 3, which is when tile
    # k + 1 reads the same word.
    assert [cycle for cycle, (wave, _) in enumerate(address) if wave >= 0] == [3, 4, 5, 6]
    assert grid.done == [6]
    assert grid.accumulators[0, 0] == (x @ w)[0, 0]
    assert grid.captures["read.accumulator"] == grid.captures["add.accumulator"] == 3


def test_the_bypass_replaces_only_the_lanes_being_written():
    x, w = small(2, 2, 2)
    case = chain(gemm(x, w, 2), {"start": 1}, {"start": 1, "lanes": 1, "acc_base": 1}, {"start": 1, "acc_base": 2})
    # Word 1 of the first is word 0 of the second, and so on, in consecutive cycles (M = R); with one lane of packed
    # weights the second reads other weights, which plain integers follow.
    case.accumulators[:] = np.arange(20).reshape(10, 2)
    grid = case.run()
    assert grid.issue == [0, 2, 4]
    check_bits(case, grid, "bypass")


def test_a_stored_sum_wider_than_the_instruction_is_added_as_it_is():
    case = chain(gemm(np.array([[-100]]), np.array([[1]]), 1), {"start": 1, "width": 8})
    case.accumulators[0, 0] = 200  # fits the memory; 8 bits would make it 127
    grid = case.run()
    assert grid.accumulators[0, 0] == 200 - 100
    check_bits(case, grid, "wider")
    check_machine(case, grid, "wider")


def test_a_load_takes_r_cycles_however_short_the_tile():
    x, w = small(2, 1, 2)
    grid = gemm(x, w, 3).run()
    # One weight row, T = 3 all the same; done = T + (M-1) + (R-1) + (C-1) + 2 = 3 + 1 + 2 + 1 + 2.
    assert grid.done == [9]
    assert (grid.captures["mul"], grid.captures["register.psum"]) == (4, 12)  # gated rows pass sums on
    assert grid.captures["register.weight"] == 4


def test_a_diagonal_lane_waits_for_its_row():
    # A depthwise 1 x 2 kernel over 2 channels: words of 2 channels, taps at byte 0 and 2.
    image, w = np.array([[1, 2, 3, 4, 5, 6]]), np.array([[7, 11], [13, 17]])
    case = gemm(image, w, 2)
    case.computes = [replace(case.computes[0], diagonal=1, run_bytes=2, s_count=2, s_step=2, x_count=2, x_step=2)]
    grid, shadow = watch(case, lambda r: r["pe.shadow"])
    # The row is read in cycle 0; lane i is in the shadow of PE(i, i) from 2i + 1 on. L_1 = T_0 = 2.
    assert [shadow[1][0, 0], shadow[2][1, 1], shadow[3][1, 1], shadow[5][1, 1]] == [7, 0, 11, 17]
    assert grid.accumulators[:2].tolist() == [[1 * 7 + 3 * 13, 2 * 11 + 4 * 17], [3 * 7 + 5 * 13, 4 * 11 + 6 * 17]]
    assert grid.done == [4 + 1 + 1 + 1 + 2]  # T_1 = 4
    assert grid.captures["mul"] == 2 * 2 * 2
    assert grid.captures["register.activation"] == 2 * 2 * (1 + 2)  # lane 1 passes column 0 on its way
    assert grid.captures["read.weight"] == 4


def test_a_serial_ws_fold_spans_r_plus_m_plus_r_plus_c_minus_2():
    x, w = small(3, 4, 2)
    x %= 4
    case = chain(gemm(x, w, 2), {"serial": 1}, {})
    # L = 0, T = 2; the last product is in T + 2 + 1 + 1 = 6, so L_1 = 7, T_1 = 9, and the next COMPUTE loads in 14.
    assert case.run().issue == [0, 14]


def test_an_os_tile_drains_bottom_row_first():
    x, w = small(2, 3, 2)
    grid, pipe = watch(
        gemm(x, w, 2, output_stationary=1), lambda r: r["accumulator.address"] if r["accumulator.wave"] >= 0 else None
    )
    # Pieces of 2 and 1 bytes: row 0 reads in 0 and 2, E = 2. Row 1's sum leaves the bottom of column 1 in
    # E + R + 1 = 5, its word is written in 6, row 0's in 7.
    assert [pipe.index(1), pipe.index(0)] == [6, 7]
    assert (grid.issue, grid.done, grid.span) == ([0], [7], [(0, 4)])
    assert (grid.accumulators[:2] == x @ w).all()
    assert grid.captures["register.psum"] == 12 + 2 * (2 + 1)  # products; each column drains row 0 over row 1


def test_an_os_tile_shorter_than_the_array_lasts_r_cycles():
    x, w = small(3, 1, 1)
    # D = R = 3: row 0 captures its drain register in E = 2, row 2 in 4. Words arrive in 5, 6, 7.
    assert gemm(x, w, 3, output_stationary=1).run().done == [8]


def test_os_tiles_follow_in_whole_slots():
    x, w = small(3, 3, 2)
    case = gemm(x, w, 2, output_stationary=1)
    grid, pipe = watch(case, lambda r: r["accumulator.address"] if r["accumulator.wave"] >= 0 else None)
    # Tiles of words 0, 1 and of word 2: T = 0 and 4 (two slots of R). Word 2 is in row 0: E = 6, written in
    # E + R + (C-1) + (R-1) + 1 = 11.
    assert [pipe.index(word) for word in (1, 0, 2)] == [6, 7, 11]
    assert grid.done == [11]
    assert (grid.accumulators[:3] == x @ w).all()


def test_os_start_values_are_preloaded_r_cycles_ahead():
    x, w = small(2, 3, 2)
    case = chain(gemm(x, w, 2, output_stationary=1), {}, {"start": 1}, {"start": 2, "acc_base": 2})
    grid, preload = watch(case, lambda r: r["pe.preload"])
    # The second reads what the first writes, so it issues after done = 7: row 1's word in 8, row 0's in 9, T = 10.
    # The third may issue when the port is free, in T + 2R = 14, and streams from 16: done = 16 + 7.
    assert grid.issue == [0, 8, 14]
    assert grid.done == [7, 17, 23]
    y = x @ w
    assert (preload[10][:, 0] == y[:, 0]).all()  # column 0 has both in place when row 0 uses its own
    assert (preload[11][:, 1] == y[:, 1]).all()
    assert (grid.accumulators[:4] == np.concatenate((2 * y, y + case.bias))).all()


@pytest.mark.parametrize("start, issue", [(0, 4), (2, 2)])
def test_a_preload_hides_behind_the_last_wave_of_a_serial_os_tile(start, issue):
    x, w = small(2, 1, 3)
    case = chain(gemm(x, w, 2, output_stationary=1), {"serial": 1}, {"start": start})
    # T = 0, one product; it passes PE(1, 2) in 0 + 1 + 2 = 3, so T' = 4, although D = R = 2. Start values are read
    # from T' - R = 2 on, the port being free from T + Q * R = 2 on.
    assert case.run().issue == [0, issue]
    check_times_and_counts(case, case.run(), "serial")


def test_the_array_is_empty_when_the_dataflow_changes():
    x, w = small(3, 3, 2)
    case = chain(gemm(x, w, 2), {}, {"output_stationary": 1, "start": 2}, {"start": 1})
    grid = case.run()
    # ws: T = 2, 5, done = 5 + 2 + 1 + 1 + 2 = 11. os: T = 14 and 18, done = 18 + 2 + 2*2 + 1 = 25.
    assert grid.issue == [0, 12, 26]
    check_bits(case, grid, "mode")


# --- random cases ------------------------------------------------------------------------------------------

SEED = 20250611


def cases(count: int, *key: int, modes: list[str], **options):
    """`count` cases, each from a seed of its own, which names it in failures."""
    sys.stdout.write(f"seed {[SEED, *key]}, {modes}\n")  # pytest shows it where a test fails
    for number in range(count):
        yield [SEED, *key, number], random_case(np.random.default_rng([SEED, *key, number]), modes, **options)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    "overflow, saturate_at", [("saturate", "every_add"), ("wrap", "every_add"), ("saturate", "end")]
)
def test_bits_are_those_of_plain_integers(bits, overflow, saturate_at):
    for name, case in cases(6, 1, bits, modes=["ws", "os", "diagonal"], largest=5):
        case.config = replace(case.config, overflow=overflow, saturate_at=saturate_at)
        low, top = (0, 1 << bits), 1 << bits - 1
        case.computes = [
            replace(c, weight_bits=bits, z_w=c.z_w % low[1] if c.weight_unsigned else (c.z_w + top) % low[1] - top)
            for c in case.computes
        ]
        check_bits(case, case.run(), name)


def test_loading_one_cycle_earlier_corrupts_tiles_with_M_greater_than_R():
    rng = np.random.default_rng([SEED, 2])
    seen = {True: 0, False: 0}
    for _ in range(120):
        rows, columns, tiles = int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(3, 6))
        words = int(rng.integers(1, 3 * rows + 1))
        x = rng.integers(1, 128, (words, rows * tiles))
        # From tile to tile every weight grows, and activations are positive: a wrong weight cannot cancel out.
        w = rng.integers(0, 20, (rows * tiles, columns)) + 20 * np.repeat(np.arange(tiles), rows)[:, None]
        case = gemm(x, w, rows)
        assert (case.run().accumulators[:words] == x @ w).all()
        early = pe_grid._Grid(
            case.computes,
            case.config,
            activation=case.activation,
            weight=case.weight,
            accumulators=case.accumulators,
            bias=case.bias,
            early_load=True,
        ).run(10_000)
        # Where M <= R a tile never waits for the port, so the early sequencer finds nothing to do earlier.
        assert (early.accumulators[:words] != x @ w).any() == (words > rows), (SEED, rows, columns, words)
        seen[words > rows] += 1
    assert min(seen.values()) > 20


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize(
    "key, count, modes",
    [(3, 60, ["ws"]), (4, 80, ["os"]), (5, 30, ["ws", "diagonal"]), (6, 40, ["ws", "os", "diagonal"])],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_closed_forms_and_machine_agree_with_the_grid(key, count, modes, part):
    # 450 sequences of ws (diagonal tiles in 150 of them), 400 of os and 200 of both.
    for name, case in cases(count, key, part, modes=modes):
        grid = case.run()
        check_bits(case, grid, name)
        check_times_and_counts(case, grid, name)
        check_machine(case, grid, name)


def pipelined(rng: np.random.Generator, config: GridConfig) -> GridConfig:
    """A multiply-add of up to six cycles; its addition and its interval are no longer than the whole."""
    latency = int(rng.integers(2, 7))
    interval, add = (int(n) for n in rng.integers(1, latency + 1, 2))
    return replace(config, mac_latency=latency, mac_interval=interval, add_latency=add)


@pytest.mark.parametrize("modes", [["ws", "diagonal"], ["os"], ["ws", "os", "diagonal"]], ids="+".join)
def test_closed_forms_and_machine_agree_with_pipelined_and_multi_cycle_macs(modes):
    for number, (name, case) in enumerate(cases(50, 7, len(modes), len(modes[0]), modes=modes, largest=6)):
        case.config = pipelined(np.random.default_rng([SEED, 8, number]), case.config)
        grid = case.run()
        check_bits(case, grid, name)
        check_times_and_counts(case, grid, name)
        check_machine(case, grid, name)


def test_a_wave_takes_the_additions_cycles_a_row():
    x, w = small(3, 2, 2)
    case = gemm(x, w, 2)
    case.config = replace(case.config, mac_latency=5, add_latency=3, mac_interval=2)
    grid, psums = watch(case, lambda registers: registers["pe.psum"])
    # T = 2, words in 2, 4, 6. PE(i, j) takes word m in 2 + 2m + 3i + j and has its sum five cycles later.
    for m, i, j in np.ndindex(3, 2, 2):
        assert psums[2 + 2 * m + 3 * i + j + 5][i, j] == (x[m, : i + 1] @ w[: i + 1, j])
    # The last word's last sum is complete at the end of 2 + 4 + 3 + 1 + 4 = 14, and written two cycles later.
    assert (grid.done, grid.span) == ([16], [(0, 14)])
    assert (grid.accumulators[:3] == x @ w).all()


def test_an_os_sum_takes_its_next_product_when_the_one_before_is_added():
    x, w = small(2, 3, 2)
    case = gemm(x, w, 2, output_stationary=1)
    case.config = replace(case.config, mac_latency=4, add_latency=3)
    grid, psums = watch(case, lambda registers: registers["pe.psum"])
    # PE(0, 0) takes products in 0, 3, 6 and has their sums in 4, 7, 10: E = 9. Sums leave as after any E:
    # done = E + R + (C - 1) + (R - 1) + 1.
    assert [int(psums[cycle][0, 0]) for cycle in (4, 7, 10)] == np.cumsum(x[0] * w[:, 0]).tolist()
    assert grid.done == [9 + 2 + 1 + 1 + 1]
    # Two products at a time, were each an addition's latency apart, would need the array to hold two sums.
    case.config = replace(case.config, add_latency=1)
    assert case.run().done == [2 + 3 + 5]  # the product's pipeline alone costs its length once


@pytest.mark.parametrize("latency", [2, 3])
def test_loading_one_cycle_earlier_overtakes_a_slow_switch(latency):
    rng = np.random.default_rng([SEED, 9, latency])
    seen = 0
    for _ in range(30):
        rows, columns, tiles = int(rng.integers(2, 5)), int(rng.integers(1, 5)), int(rng.integers(3, 5))
        words = latency * rows + int(rng.integers(0, 4))  # the load is never late, so that the switch alone holds it
        x = rng.integers(1, 128, (words, rows * tiles))
        w = rng.integers(0, 20, (rows * tiles, columns)) + 20 * np.repeat(np.arange(tiles), rows)[:, None]
        case = gemm(x, w, rows)
        case.config = replace(case.config, mac_latency=latency, add_latency=latency)
        assert (case.run().accumulators[:words] == x @ w).all()
        early = pe_grid._Grid(
            case.computes,
            case.config,
            activation=case.activation,
            weight=case.weight,
            accumulators=case.accumulators,
            bias=case.bias,
            early_load=True,
        ).run(10_000)
        seen += bool((early.accumulators[:words] != x @ w).any())
    assert seen == 30


# --- the grid as a witness ---------------------------------------------------------------------------------


def test_the_grid_uses_neither_the_closed_forms_nor_the_numerics_it_proves():
    tree = ast.parse(Path(pe_grid.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name for name in imported if name.split(".")[0] == "accelsim"}
    assert {name.split(".")[1] for name in ours} == {"isa"}


def test_observing_changes_nothing_and_shows_every_cycle():
    x, w = small(3, 4, 2)
    case = gemm(x, w, 2)
    plain = case.run()
    watched, names = watch(case, lambda r: frozenset(r))
    assert (watched.done, watched.captures) == (plain.done, plain.captures)
    assert len(names) == plain.done[0] + 1
    assert len(set(names)) == 1


def test_a_run_that_does_not_end_is_an_error():
    x, w = small(3, 4, 2)
    with pytest.raises(RuntimeError, match="not done after 5 cycles"):
        gemm(x, w, 2).run(max_cycles=5)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"lanes": 3}, "lanes = 3 do not fit 2 columns"),
        ({"width": 63}, "more than 62 bits"),
        ({"diagonal": 1}, "run_bytes = lanes"),
    ],
)
def test_what_the_array_cannot_run_is_refused(fields, message):
    x, w = small(3, 4, 2)
    with pytest.raises(ValueError, match=message):
        chain(gemm(x, w, 2), fields).run()
