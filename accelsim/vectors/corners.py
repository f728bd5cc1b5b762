"""Directed cases: small layers whose operands are chosen to sit on every limit that designs get wrong.

Each is an integer graph of one layer with its inputs, made for one machine. What they reach is not claimed here but
computed from the vectors (`coverage`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware
from accelsim.ir import Conv2d, Input, IntegerGraph, Linear, Mac, Multiplier, TensorType
from accelsim.ir.integer_graph import BiasAt, ZeroPoints
from accelsim.numerics import SINGLE_ROUNDINGS, IntFormat, Order, OutputOverflow, Requantization, Rounding, Scheme

Int64 = npt.NDArray[np.int64]

INT8 = IntFormat(8)
LOW, HIGH = INT8.limits
NAME = "corners"
"""What the set is called in place of a workload."""
_SEED = 20


@dataclass(frozen=True)
class Case:
    """One directed layer: its graph, its inputs int64 (images, H, W, C), and why it is there."""

    graph: IntegerGraph
    codes: Int64
    covers: str


def cases(hardware: Hardware) -> Iterator[Case]:
    """The directed set for one machine; what it does not support is left out."""
    supports = hardware.supports
    for case in _all(hardware):
        graph = case.graph
        if (
            graph.zero_points in supports.zero_points
            and graph.bias_at in supports.bias_at
            and graph.requantization.scheme.value in supports.schemes
            and graph.requantization.rounding.value in supports.roundings
        ):
            yield case


def _all(hardware: Hardware) -> Iterator[Case]:
    yield from _operands(hardware)
    yield from _limits(hardware)
    yield from _roundings()
    yield from _shifts()
    yield from _tiles(hardware)
    yield from _zero_points(hardware)


def _fixed(rounding: Rounding, *, output_overflow: OutputOverflow = "saturate", bits: int = 32) -> Requantization:
    return Requantization(
        scheme=Scheme.FIXED_POINT, rounding=rounding, multiplier_bits=bits, output_overflow=output_overflow
    )


EVEN = _fixed(Rounding.HALF_EVEN)
QUARTER = (1 << 30, 1)
"""m0 and shift of M = 1/4 in 32 bits."""


def _case(
    name: str,
    covers: str,
    x: Int64,
    w: Int64,
    *,
    how: Requantization = EVEN,
    m0: Int64 | int = QUARTER[0],
    shift: Int64 | int = QUARTER[1],
    bias: Int64 | int = 0,
    bias_at: BiasAt = "ppu",
    zero_points: ZeroPoints = "folded",
    z: tuple[int, int, int] = (0, 0, 0),
) -> Case:
    """A linear layer: x (M, K), w (N, K); z is (Z_x, Z_w, Z_y)."""
    channels, k = w.shape
    source = Input(name="x", inputs=(), output=TensorType(height=1, width=1, channels=k, scale=1.0, zero_point=z[0]))
    layer = Linear(
        name=name,
        inputs=("x",),
        output=TensorType(height=1, width=1, channels=channels, scale=1.0, zero_point=z[2]),
        weight=w,
        weight_zero_point=z[1],
        bias=np.broadcast_to(np.asarray(bias, dtype=np.int64), (channels,)).copy(),
        multiplier=_multiplier(m0, shift, channels, how),
        clip=(LOW, HIGH),
    )
    return Case(_graph(name, source, layer, how, bias_at, zero_points), x.reshape(-1, 1, 1, k), covers)


def _multiplier(m0: Int64 | int, shift: Int64 | int, channels: int, how: Requantization) -> Multiplier:
    every, shifts = (np.broadcast_to(np.asarray(one, dtype=np.int64), (channels,)).copy() for one in (m0, shift))
    fraction = how.multiplier_bits - 1 if how.scheme is Scheme.FIXED_POINT else 0
    return Multiplier(m0=every, shift=shifts, real=every * 2.0 ** -(shifts + fraction).astype(np.float64))


def _graph(
    name: str, source: Input, layer: Mac, how: Requantization, bias_at: BiasAt, zero_points: ZeroPoints
) -> IntegerGraph:
    return IntegerGraph(
        name=name,
        nodes=(source, layer),
        output=name,
        output_shape=(layer.output.channels, layer.output.height, layer.output.width),
        activation=INT8,
        requantization=how,
        zero_points=zero_points,
        bias_at=bias_at,
    )


def _operands(hardware: Hardware) -> Iterator[Case]:
    """Operands at their ends."""
    K, N = 2 * hardware.array.rows, hardware.array.columns
    lowest = np.full((2, K), LOW)
    lowest[1] = HIGH
    weights = np.full((N, K), LOW)
    weights[1::2] = HIGH
    yield _case("all_minimum", "every operand -128: the largest product, positive, K times", lowest, weights, shift=12)
    up_down = np.concatenate([np.full(K // 2, HIGH), np.full(K // 2, LOW)])
    x = np.stack([up_down, up_down[::-1]])
    w = np.full((N, K), HIGH)
    yield _case(
        "up_then_down", "the largest positive products, then the most negative, and the reverse", x, w, shift=12
    )


def _limits(hardware: Hardware) -> Iterator[Case]:
    """Sums at and one past the limits of the array and of the accumulator."""
    R, C = hardware.array.rows, hardware.array.columns
    width, psum = min(hardware.accumulator.width_bits, 32), hardware.psum_bits
    for sign, word in ((1, "maximum"), (-1, "minimum")):
        limit = (1 << (width - 1)) - 1 if sign > 0 else -(1 << (width - 1))
        # Starts at the limit less 2 and adds 1, 1 (at it), 1 (past it), then back: x rows of ones, weights of +-1.
        K = 3 * R + 5
        w = np.zeros((C, K), dtype=np.int64)
        w[:, :3] = sign
        w[:, K - 2 :] = -sign
        x = np.ones((2, K), dtype=np.int64)
        x[1, 2] = 0
        yield _case(
            f"accumulator_{word}",
            f"starts two short of the accumulator's {word}, comes to it, one past it, and back",
            x, w, bias=limit - 2 * sign, bias_at="accumulator", shift=24 if width == 32 else max(1, width - 9),
        )  # fmt: skip
        target = (1 << (psum - 1)) - 1 if sign > 0 else -(1 << (psum - 1))
        reached = [_sum_to(target, R), _sum_to(target + sign, R), _sum_to(target, R - 1)]
        rows = [np.zeros((2, R), dtype=np.int64) for found in reached if found is not None]
        for row, (xs, ws) in zip(rows, [found for found in reached if found is not None], strict=True):
            row[:, : len(xs)] = xs, ws
        if reached[2] is not None:
            rows[-1][:, len(reached[2][0])] = 1, -sign
        if rows:  # word n reaches what it is for in column n
            x, w = (np.stack(parts) for parts in zip(*rows, strict=True))
            covers = f"the partial sum comes to its {word}, one past it, and back, inside one tile"
            yield _case(f"array_{word}", covers, x, w, shift=max(1, psum - 9))


def _sum_to(target: int, rows: int) -> tuple[Int64, Int64] | None:
    """x and w with x . w = target in at most `rows` products; None where none are found."""
    if abs(target) > rows * HIGH * HIGH:
        return None
    sign = 1 if target > 0 else -1
    x, w, left = [], [], abs(target)
    while left:
        factor = next((n for n in range(1, HIGH + 1) if left % n == 0 and left // n <= HIGH), None)
        x.append(factor if factor is not None else min(left // HIGH, HIGH) or left)
        w.append(sign * (left // factor if factor is not None else HIGH if left >= HIGH else 1))
        left -= x[-1] * abs(w[-1])
    if len(x) > rows:
        return None
    return np.array(x, dtype=np.int64), np.array(w, dtype=np.int64)


def _roundings() -> Iterator[Case]:
    """Every accumulator value of int8, so every tie of either sign, in every rounding and both simple schemes."""
    x = np.arange(LOW, HIGH + 1)[:, None]
    for rounding in Rounding:
        yield _case(
            f"ties_{rounding.value}",
            f"all of -128..127 times 1/4, one multiplier: exact ties of either sign, {rounding.value}",
            x, np.ones((1, 1), dtype=np.int64), how=_fixed(rounding),
        )  # fmt: skip
        m0 = np.array([1 << 30, 1 << 30, 3 << 29, (1 << 31) - 1, 1 << 30])
        shift = np.array([0, 2, 1, 0, -1])
        yield _case(
            f"scales_{rounding.value}",
            f"all of -128..127 times 1/2, 1/8, 3/8, almost 1, and 1: a multiplier for each channel, {rounding.value}",
            x, np.ones((5, 1), dtype=np.int64), how=_fixed(rounding), m0=m0, shift=shift,
        )  # fmt: skip
    for rounding in SINGLE_ROUNDINGS:
        how = Requantization(scheme=Scheme.POWER_OF_TWO, rounding=rounding)
        yield _case(
            f"shift_only_{rounding.value}",
            f"all of -128..127 shifted right by 2: exact ties of either sign, {rounding.value}",
            x, np.ones((1, 1), dtype=np.int64), how=how, m0=1, shift=2,
        )  # fmt: skip
        order: Order = "shift_first"
        first = Requantization(
            scheme=Scheme.FIXED_POINT, rounding=rounding, multiplier_bits=16, order=order, guard_bits=1
        )
        yield _case(
            f"shift_first_{rounding.value}",
            f"shift before multiply with one guard bit: two roundings, {rounding.value}",
            x, np.ones((1, 1), dtype=np.int64), how=first, m0=3 << 13, shift=2,
        )  # fmt: skip
    ends = np.array([[HIGH], [HIGH - 1], [LOW], [LOW + 1]])
    yield _case(
        "output_ends", "outputs at, one short of and one past both ends of int8",
        ends, np.ones((3, 1), dtype=np.int64), bias=np.array([0, 1, -1]), shift=-1,
    )  # fmt: skip
    x = np.array([[LOW, HIGH], [HIGH, HIGH], [LOW, LOW], [1, 0]])
    wrap = _fixed(Rounding.FLOOR, output_overflow="wrap")
    yield _case(
        "output_wraps",
        "outputs outside int8 keep their low bits",
        x,
        np.ones((2, 2), dtype=np.int64),
        how=wrap,
        shift=-1,
    )


def _shifts() -> Iterator[Case]:
    """The shift at its limits and at 0, the multiplier at both ends of its range."""
    x = np.array([[0], [1], [-1], [2], [-2], [3], [-3], [63], [-64], [HIGH], [LOW]])
    one = np.ones((1, 1), dtype=np.int64)
    for bits in (8, 16, 32):
        how = _fixed(Rounding.HALF_UP, bits=bits)
        fraction = bits - 1
        ends = ((1, "smallest"), (1 << (bits - 2), "smallest normal"), ((1 << fraction) - 1, "largest"))
        for m0, word in ends:
            yield _case(
                f"m0_{word.replace(' ', '_')}_{bits}",
                f"the {word} multiplier of {bits} bits, total shift {fraction}",
                x, one, how=how, m0=m0, shift=0,
            )  # fmt: skip
    how = _fixed(Rounding.HALF_EVEN)
    yield _case("shift_zero", "total shift 0: the product as it is", x, one, how=how, m0=1, shift=-31)
    yield _case("shift_left_1", "total shift -1: an exact left shift", x, one, how=how, m0=1, shift=-32)
    yield _case("shift_left_31", "total shift -31, the least", x, one, how=how, m0=1, shift=-62)
    largest = np.array([(1 << 31) - 1, -(1 << 31), 1 << 30, -(1 << 30)])
    yield _case(
        "shift_62", "total shift 62, the most, of sums near 2^31 brought by the bias",
        np.array([[0], [1], [-1]]), np.ones((4, 1), dtype=np.int64),
        how=how, m0=(1 << 31) - 1, shift=31, bias=largest,
    )  # fmt: skip
    power = Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.HALF_EVEN)
    for shift, word in ((0, "0"), (-3, "left_3"), (62, "62")):
        yield _case(f"power_of_two_{word}", f"a shifter alone, by {shift}", x, one, how=power, m0=1, shift=shift)


def _tiles(hardware: Hardware) -> Iterator[Case]:
    """K, N and M around the array's sizes."""
    rng = np.random.default_rng(_SEED)
    R, C = hardware.array.rows, hardware.array.columns
    for k in sorted({1, max(R - 1, 1), R, R + 1, 2 * R + 1}):
        for n in sorted({1, max(C - 1, 1), C, C + 1}):
            m = {1: 1, R: R, R + 1: R + 1}.get(k, 3)
            yield _case(
                f"tile_k{k}_n{n}",
                f"K = {k} on {R} rows, N = {n} on {C} columns, M = {m}",
                rng.integers(LOW, HIGH + 1, (m, k)), rng.integers(LOW, HIGH + 1, (n, k)),
                bias=rng.integers(-999, 1000, n), shift=8 + k.bit_length() // 2,
            )  # fmt: skip


def _zero_points(hardware: Hardware) -> Iterator[Case]:
    """Zero points at both ends, with padding, folded and subtracted."""
    rng = np.random.default_rng(_SEED + 1)
    R, C = hardware.array.rows, hardware.array.columns
    for z_x, z_y in ((LOW, HIGH), (HIGH, LOW)):
        for zero_points in ("folded", "subtracted"):
            mode: ZeroPoints = "folded" if zero_points == "folded" else "subtracted"
            z_w = 0 if mode == "folded" else (HIGH if z_x == LOW else LOW)
            channels = 2
            source = Input(
                name="x", inputs=(), output=TensorType(height=3, width=4, channels=channels, scale=1.0, zero_point=z_x)
            )
            weight = rng.integers(LOW, HIGH + 1, (min(C, 3), 3, 3, channels))
            name = f"zero_points_{'low_high' if z_x == LOW else 'high_low'}_{mode}"
            bias = -z_x * weight.reshape(len(weight), -1).sum(axis=1) if mode == "folded" else 0
            layer = Conv2d(
                name=name,
                inputs=("x",),
                output=TensorType(height=3, width=4, channels=len(weight), scale=1.0, zero_point=z_y),
                weight=weight,
                weight_zero_point=z_w,
                bias=np.broadcast_to(np.asarray(bias, dtype=np.int64), (len(weight),)).copy(),
                multiplier=_multiplier(QUARTER[0], 10, len(weight), EVEN),
                clip=(LOW, HIGH),
                padding=(1, 1, 1, 1),
            )
            codes = rng.integers(LOW, HIGH + 1, (1, 3, 4, channels))
            codes[0, 0, 0], codes[0, 0, 1] = LOW, HIGH
            covers = f"Z_x = {z_x}, Z_w = {z_w}, Z_y = {z_y}, {mode}; padding on every side of a 3x3 convolution"
            yield Case(_graph(name, source, layer, EVEN, "ppu", mode), codes, covers)
        edge = np.array([[z_x] * R, [LOW] * R, [HIGH] * R])
        yield _case(
            f"operand_ends_{'low' if z_x == LOW else 'high'}",
            "subtracted zero points: operands of 9 bits at both ends",
            edge, np.stack([np.full(R, LOW), np.full(R, HIGH)]),
            zero_points="subtracted", z=(z_x, z_x, z_y), shift=14,
        )  # fmt: skip
