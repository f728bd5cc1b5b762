"""Closed-form operation counts of each instruction (docs/microarchitecture.md, section 7).

Counts are static functions of instruction and configuration, never of data, with one exception that geometry settles:
bytes read inside the image. `machine.pe_grid` counts the COMPUTE figures capture by capture and must agree.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from accelsim.config import FLOAT32_BITS, RECORD_BYTES, Hardware
from accelsim.isa import Compute, Instruction, Load, Memory, Modes, Post, Reduce, Source, Start, Store
from accelsim.numerics import Requantization, Scheme
from accelsim.timing.cycles import ArrayShape, tile_count


class OpKey(NamedTuple):
    """What is counted: an operation type and its operand widths in bits; `by_bits` is a product's second operand."""

    op: str
    bits: int
    by_bits: int = 1


Counts = Counter[OpKey]

OPS = (
    "mul",
    "add.array",
    "add.accumulator",
    "add.ppu",
    "requant_mul",
    "requant_shift",
    "compare",
    "table_lookup",
    "register.activation",
    "register.psum",
    "register.weight",
    "register.skew",
    "read.activation",
    "write.activation",
    "read.weight",
    "write.weight",
    "read.parameter",
    "write.parameter",
    "read.table",
    "write.table",
    "read.accumulator",
    "write.accumulator",
    "dram.read",
    "dram.write",
    "idle",
)
"""Every operation type of integers, in the order reports show them; docs/energy.md says what one of each is."""

FLOAT_OPS = ("mul.float32", "add.array.float32", "add.accumulator.float32")
"""What an array of floats does in place of `mul`, `add.array` and `add.accumulator`; the rest is as in `OPS`."""

SIGNIFICAND_BITS = 24
"""Of a float32, the leading 1 included: the width of its multiplier."""

BIAS_BYTES = 4


def window_inside(
    count: int, first: int, step: int, taps: int, tap_step: int, span: int, limit: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each tap, how many (position, byte) pairs of `span` consecutive bytes lie in 0..limit - 1.

    Position i of tap t starts at first + i * step + t * tap_step.
    """
    starts = first + np.arange(count)[None, :] * step + np.arange(taps)[:, None] * tap_step
    inside = np.minimum(starts + span, limit) - np.maximum(starts, 0)
    return np.asarray(np.maximum(inside, 0).sum(axis=1), dtype=np.int64)


def compute_counts(compute: Compute, shape: ArrayShape) -> dict[str, int]:
    """Operations of one COMPUTE: captures, products, additions, buffer bytes, elements of the accumulator memory."""
    rows, columns = shape.rows, shape.columns
    lanes, words, run = compute.lanes, compute.words, compute.run_bytes
    runs = compute.r_count * compute.s_count
    tiles = tile_count(compute, rows)
    total = runs * run  # K, or for diagonal tiles lanes for each (r, s)
    row_bytes = compute.weight_row_bytes
    deskew = sum(columns - 1 - j for j in range(lanes))
    weight_skew = lanes * (lanes - 1) // 2
    inside = _inside_bytes(compute)
    biased, resumed = compute.start == Start.BIAS, compute.start == Start.ACCUMULATE
    counts = dict.fromkeys(("mul", "add.array", "add.accumulator", "read.parameter", "read.accumulator"), 0)
    if compute.output_stationary:
        groups = -(-words // rows)
        edge = words - (groups - 1) * rows
        hops = (groups - 1) * _triangle(rows) + sum(rows - i for i in range(edge))
        preload = (groups - 1) * _triangle(rows) + _triangle(edge) if compute.start else 0
        counts |= {
            "mul": words * total * lanes,
            "add.array": words * total * lanes,
            "register.activation": words * total * (1 + lanes),
            "register.weight": total * words * lanes,
            "register.psum": words * total * lanes + lanes * (hops + preload),
            "register.skew": groups * total * weight_skew
            + words * deskew
            + (words * weight_skew if compute.start else 0),
            "read.activation": inside,
            "read.weight": groups * total * row_bytes,
            "read.accumulator": words * lanes if resumed else 0,
            "read.parameter": words * lanes * BIAS_BYTES if biased else 0,
            "write.accumulator": words * lanes,
        }
        return counts
    full, rest = divmod(run, rows)
    activation_skew = runs * (full * _triangle(rows - 1) + (_triangle(rest - 1) if rest else 0))
    diagonal = bool(compute.diagonal)
    macs = words * total * (1 if diagonal else lanes)
    counts |= {
        "mul": macs,
        "add.array": macs,
        "add.accumulator": words * lanes * (tiles - (compute.start == Start.ZERO)),
        "register.activation": words * runs * _triangle(lanes) if diagonal else macs,
        "register.psum": words * rows * lanes * tiles,
        "register.weight": 2 * total * (1 if diagonal else lanes),
        "register.skew": words * shape.add_latency * activation_skew
        + (2 * runs * weight_skew if diagonal else total * weight_skew)
        + words * tiles * deskew,
        "read.activation": inside,
        "read.weight": (runs if diagonal else total) * row_bytes,
        "read.accumulator": words * lanes * (tiles - (not resumed)),
        "read.parameter": lanes * BIAS_BYTES if biased else 0,
        "write.accumulator": words * lanes * tiles,
    }
    return counts


def _sum_skew(compute: Compute, shape: ArrayShape) -> int:
    """Captures of `register.skew` that hold partial sums: deskew below the array, and skew of os start values."""
    lanes, words = compute.lanes, compute.words
    deskew = words * sum(shape.columns - 1 - j for j in range(lanes))
    if not compute.output_stationary:
        return deskew * tile_count(compute, shape.rows)
    return deskew + (words * _triangle(lanes - 1) if compute.start else 0)


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _inside_bytes(compute: Compute) -> int:
    """Activation bytes read: lanes inside the image, over all words, rows and runs (tails and padding are not read)."""
    across = window_inside(
        compute.x_count,
        compute.x_first,
        compute.x_step,
        compute.s_count,
        compute.s_step,
        compute.run_bytes,
        compute.in_row_bytes,
    ).sum()
    down = window_inside(
        compute.y_count, compute.y_first, compute.stride_y, compute.r_count, compute.dilation_y, 1, compute.in_height
    ).sum()
    return int(compute.images * across * down)


def instruction_counts(instruction: Instruction, hardware: Hardware, modes: Modes) -> Counts:
    """Operations of any instruction, keyed by type and widths."""
    match instruction:
        case Compute() if hardware.is_float:
            return _float_compute(instruction, hardware)
        case Compute():
            return _keyed_compute(instruction, hardware, modes)
        case Post() if hardware.is_float:  # words pass through, each into the bytes of an element
            values = instruction.words * instruction.lanes
            return Counter(
                {
                    OpKey("read.accumulator", FLOAT32_BITS): values,
                    OpKey("write.activation", 8): values * hardware.element_bytes.activation,
                }
            )
        case Post():
            return _post(instruction, hardware, modes)
        case Store():
            moved = instruction.rows * instruction.row_bytes
            return Counter({OpKey("read.activation", 8): moved, OpKey("dram.write", 8): moved})
        case Load():
            moved = instruction.rows * instruction.row_bytes
            memory = Memory(instruction.memory).name.lower()
            return Counter({OpKey("dram.read", 8): moved, OpKey(f"write.{memory}", 8): moved})
    raise TypeError(f"{type(instruction).__name__} is not an instruction")


def _keyed_compute(compute: Compute, hardware: Hardware, modes: Modes) -> Counts:
    counts = compute_counts(compute, ArrayShape.of(hardware))
    extra = modes.zero_points == "subtracted"  # operands lose their zero points at the edge and grow by a bit
    activation, weight = (compute.activation_bits or modes.activation_bits) + extra, compute.weight_bits + extra
    width = compute.width
    psum = min(hardware.psum_bits, width)
    bits = {
        "mul": (activation, weight),
        "add.array": (psum, 1),
        "add.accumulator": (width, 1),
        "register.activation": (activation, 1),
        "register.psum": (psum, 1),
        "register.weight": (weight, 1),
        "read.activation": (8, 1),
        "read.weight": (8, 1),
        "read.parameter": (8, 1),
        "read.accumulator": (width, 1),
        "write.accumulator": (width, 1),
    }
    sums = _sum_skew(compute, ArrayShape.of(hardware))
    result = Counter({OpKey(op, *bits[op]): n for op, n in counts.items() if n and op in bits})
    result[OpKey("register.skew", psum)] += sums
    result[OpKey("register.skew", 8)] += counts["register.skew"] - sums
    return +result


def _float_compute(compute: Compute, hardware: Hardware) -> Counts:
    """As of integers, with elements of several bytes, and float32 products and sums in place of `mul` and `add`."""
    shape, elements = ArrayShape.of(hardware), hardware.element_bytes
    counts = compute_counts(compute, shape)
    weight = 8 * elements.weight
    sums = _sum_skew(compute, shape)
    weights = _weight_skew(compute, shape)
    keyed = {
        OpKey("mul.float32", SIGNIFICAND_BITS, 8 if elements.weight == 1 else SIGNIFICAND_BITS): counts["mul"],
        OpKey("add.array.float32", FLOAT32_BITS): counts["add.array"],
        OpKey("add.accumulator.float32", FLOAT32_BITS): counts["add.accumulator"],
        OpKey("register.activation", 8 * elements.activation): counts["register.activation"],
        OpKey("register.psum", FLOAT32_BITS): counts["register.psum"],
        OpKey("register.weight", weight): counts["register.weight"],
        OpKey("read.activation", 8): counts["read.activation"] * elements.activation,
        OpKey("read.weight", 8): counts["read.weight"] * elements.weight,
        OpKey("read.accumulator", FLOAT32_BITS): counts["read.accumulator"],
        OpKey("write.accumulator", FLOAT32_BITS): counts["write.accumulator"],
    }
    result: Counts = Counter(keyed)
    result[OpKey("register.skew", weight)] += weights
    result[OpKey("register.skew", FLOAT32_BITS)] += counts["register.skew"] - weights  # sums, and activations
    assert counts["register.skew"] >= weights + sums
    return +result


def _weight_skew(compute: Compute, shape: ArrayShape) -> int:
    """Captures of `register.skew` that hold weights, of tiles that are not diagonal."""
    groups = -(-compute.words // shape.rows) if compute.output_stationary else 1
    rows = compute.r_count * compute.s_count * compute.run_bytes
    return groups * rows * _triangle(compute.lanes - 1)


def _post(post: Post, hardware: Hardware, modes: Modes) -> Counts:
    """One POST: every output value is biased, scaled, shifted, offset and clipped once; windows are reduced first."""
    values = post.words * post.lanes
    from_accumulator = post.source == Source.ACCUMULATOR
    ppu = max(hardware.accumulator.width_bits, 32) + 1  # holds accumulator + bias without overflow
    counts: Counts = Counter()
    if from_accumulator:
        taken = values * post.window
        counts[OpKey("read.accumulator", hardware.accumulator.width_bits)] += taken
        source_bits = hardware.accumulator.width_bits
    else:
        taken = _window_bytes(post)
        counts[OpKey("read.activation", 8)] += taken
        source_bits = 8
    if post.reduce == Reduce.MAX:
        counts[OpKey("compare", source_bits)] += values * (post.window - 1)
    elif post.reduce == Reduce.SUM:
        counts[OpKey("add.ppu", ppu)] += values * (post.window - 1)
    scaled = values * (1 + post.residual_on)
    counts[OpKey("add.ppu", ppu)] += values  # bias
    multiplier, shifts = _scaler(modes.requantization)
    if multiplier:
        counts[OpKey("requant_mul", ppu, multiplier)] += scaled
    if shifts:
        counts[OpKey("requant_shift", ppu + multiplier)] += scaled
    counts[OpKey("add.ppu", ppu)] += values * post.residual_on
    counts[OpKey("add.ppu", ppu)] += values  # zero point
    counts[OpKey("compare", ppu)] += 2 * values  # clip: both limits
    records = post.words if post.broadcast else post.lanes * (1 + post.residual_on)
    counts[OpKey("read.parameter", 8)] += records * RECORD_BYTES
    if post.residual_on:
        counts[OpKey("read.activation", 8)] += values
    if post.table_on:
        counts[OpKey("table_lookup", 8)] += values
        counts[OpKey("read.table", 8)] += values
    counts[OpKey("write.activation", 8)] += values
    return Counter({key: n for key, n in counts.items() if n})


def _scaler(how: Requantization) -> tuple[int, bool]:
    """Width of what a value is multiplied by, 0 for none, and whether it is shifted.

    A divider has about as many cells as a multiplier of its width; a float multiplies significands.
    """
    match how.scheme:
        case Scheme.FIXED_POINT:
            return how.multiplier_bits, True
        case Scheme.POWER_OF_TWO:
            return 0, True
        case Scheme.RECIPROCAL:
            return 32, False
        case Scheme.FLOAT32:
            return 24, False
        case Scheme.FLOAT64:
            return 53, False


def _window_bytes(post: Post) -> int:
    """Activation bytes a POST reads: its windows' lanes inside the image."""
    across = window_inside(
        post.x_count, post.x_first, post.src_x_step, post.s_count, post.s_step, post.lanes, post.in_row_bytes
    ).sum()
    down = window_inside(post.y_count, post.y_first, post.stride_y, post.r_count, 1, 1, post.in_height).sum()
    return int(post.images * across * down)
