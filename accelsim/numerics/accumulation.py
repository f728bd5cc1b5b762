"""Accumulation: the order of additions, and saturating or wrapping sums in exactly that order.

Order is part of the result: with saturation, where K is cut decides what clamps. `chunks` is the only source of
K order; mapper, machine, reference and RTL all cut K where it says (docs/numerics.md, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from accelsim.numerics.formats import IntFormat

Dataflow = Literal["ws", "os", "is"]
Overflow = Literal["saturate", "wrap"]
SaturateAt = Literal["every_add", "end"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """All that a bit-exact evaluation needs to know of the hardware.

    Attributes:
        psum_bits: width of the partial sum inside the array, 8..width_bits.
        width_bits: width of the accumulator memory, 8..64.
        overflow: what an addition whose exact result leaves the range does.
        saturate_at: "every_add" fits each addition as the hardware does; "end" fits the exact sum once.
        rows: R, which cuts K into chunks.
        dataflow: "ws" and "is" start each chunk from 0 and add it to the accumulator memory; "os" adds all of K
            in one register.
    """

    psum_bits: int
    width_bits: int
    overflow: Overflow
    saturate_at: SaturateAt
    rows: int
    dataflow: Dataflow

    def __post_init__(self) -> None:
        for name, known in (("overflow", Overflow), ("saturate_at", SaturateAt), ("dataflow", Dataflow)):
            if getattr(self, name) not in get_args(known):  # anything else would act as the second choice
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(get_args(known))}")
        if not 8 <= self.width_bits <= 64:
            raise ValueError(f"width_bits = {self.width_bits} is outside 8..64")
        if not 8 <= self.psum_bits <= self.width_bits:
            raise ValueError(f"psum_bits = {self.psum_bits} is outside 8..width_bits = {self.width_bits}")
        if self.rows < 1:
            raise ValueError(f"rows = {self.rows} must be at least 1")

    def at_width(self, width_bits: int | None) -> Arithmetic:
        """Return the arithmetic of a layer whose accumulator has `width_bits`, which also caps the psum."""
        if width_bits is None:
            return self
        if width_bits > self.width_bits:
            raise ValueError(f"accumulator_width_bits = {width_bits} exceeds the hardware's {self.width_bits}")
        return replace(self, width_bits=width_bits, psum_bits=min(self.psum_bits, width_bits))

    @property
    def splits_chunks(self) -> bool:
        """Whether each chunk starts from 0 and is then added to the accumulator memory (ws, is)."""
        return self.dataflow != "os"


def chunks(kernel: tuple[int, int], channels: int, *, rows: int, dataflow: Dataflow, packed_row: bool) -> list[range]:
    """Cut one output's K = kernel_h * kernel_w * channels products, in (r, s, c) order, into chunks.

    Args:
        kernel: (kernel_h, kernel_w); (1, 1) for a linear layer.
        channels: input channels that one output sees (C / groups; 1 for depthwise; K for a linear layer).
        rows: R of the array.
        dataflow: os makes one chunk; ws and is cut each run from its start into pieces of R.
        packed_row: True where a kernel row's S * C products are consecutive bytes (dense, dilation_w = 1);
            False for dilated, depthwise or grouped convolutions, whose runs are single (r, s) positions.
    Returns:
        Ranges of k that partition range(K) in order. Runs are never merged.

    >>> [len(c) for c in chunks((2, 2), 3, rows=4, dataflow="ws", packed_row=True)]
    [4, 2, 4, 2]
    >>> [len(c) for c in chunks((2, 2), 3, rows=4, dataflow="ws", packed_row=False)]
    [3, 3, 3, 3]
    >>> chunks((2, 2), 3, rows=4, dataflow="os", packed_row=True)
    [range(0, 12)]
    """
    kernel_h, kernel_w = kernel
    total = kernel_h * kernel_w * channels
    if dataflow == "os":
        return [range(total)]
    run = kernel_w * channels if packed_row else channels
    return [
        range(start + cut, start + min(cut + rows, run))
        for start in range(0, total, run)
        for cut in range(0, run, rows)
    ]


def fit(values: npt.NDArray[Any], bits: int, overflow: Overflow) -> npt.NDArray[Any]:
    """Saturate to or wrap into `bits`-bit two's complement; dtype kept.

    >>> fit(np.array([130, -200]), 8, "saturate").tolist(), fit(np.array([130, -200]), 8, "wrap").tolist()
    ([127, -128], [-126, 56])
    """
    form = IntFormat(bits)
    return form.saturate(values) if overflow == "saturate" else form.wrap(values)


@dataclass(slots=True)
class PsumStatistics:
    """What the additions of many outputs looked like.

    Attributes:
        overflows: additions whose exact result left its range, saturating or wrapping.
        minimum, maximum: extremes of every exact s + p before fitting, and of the start values as the adder gets
            them (fitted, unless saturate_at = "end"); None before any.
    """

    overflows: int = 0
    minimum: int | None = None
    maximum: int | None = None

    def see(self, low: int, high: int, overflows: int = 0) -> None:
        """Take the extremes and overflow count of some additions into account."""
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)
        self.overflows += overflows

    def merge(self, other: PsumStatistics) -> None:
        """Add another's figures to these."""
        if other.minimum is not None and other.maximum is not None:
            self.see(other.minimum, other.maximum, other.overflows)


def accumulate(
    x: npt.NDArray[np.integer[Any]],
    w: npt.NDArray[np.integer[Any]],
    cuts: list[range],
    arithmetic: Arithmetic,
    *,
    start: npt.NDArray[Any] | None = None,
    resumed: bool = False,
    final: bool = True,
    statistics: PsumStatistics | None = None,
) -> npt.NDArray[Any]:
    """Sum x[m, k] * w[k, n] over k for every (m, n), one addition at a time in hardware order.

    Args:
        x: (M, K) integers, at most 9 bits signed.
        w: (K, N) integers, at most 9 bits signed.
        cuts: chunks partitioning range(K), from `chunks`.
        arithmetic: widths, overflow, saturate_at, and whether chunks start from 0.
        start: (M, N) or (N,) values the sums start from; None is 0. A bias is fitted first, to the psum's width in os,
            where it enters the PE's register, else to the accumulator's. Fitting is not an addition.
        resumed: whether `start` is what the accumulator memory holds from an earlier call (a K split over several
            calls), whose statistics have seen it. In os it enters the PE's register as a bias does; else the memory's
            adder takes it as it is, even if it was stored with a larger width.
        final: whether this call ends the sum; "end" sums are fitted then, and exact before.
        statistics: updated in place where given. Proving that nothing overflows is cheaper than counting, so
            ask only where the figures are wanted.
    Returns:
        (M, N) sums, int64; object only where an unfinished "end" sum (`final` false) may not fit.
    Raises:
        ValueError: `cuts` do not partition range(K).

    Five ways give the same bits, and the last three the same figures. Where none are wanted: a matrix product, if a
    bound proves that no addition overflows; else matrix products of short stretches of K, and one addition at a time
    for the outputs that a stretch might take out of range. Where they are: running sums, one addition at a time, and
    Python integers where int64 might not hold a sum. Tests force each.
    """
    return _sum(x[:, :, None], w, cuts, arithmetic, start, resumed, final, statistics)


def accumulate_lanes(
    x: npt.NDArray[np.integer[Any]],
    w: npt.NDArray[np.integer[Any]],
    cuts: list[range],
    arithmetic: Arithmetic,
    *,
    start: npt.NDArray[Any] | None = None,
    resumed: bool = False,
    final: bool = True,
    statistics: PsumStatistics | None = None,
) -> npt.NDArray[Any]:
    """Sum x[m, k, n] * w[k, n] over k for every (m, n): each lane has activations of its own (diagonal tiles).

    Args, returns and order of additions as `accumulate`, but x is (M, K, N); chunks start from 0 in os too.
    """
    return _sum(x, w, cuts, replace(arithmetic, dataflow="ws"), start, resumed, final, statistics)


def _sum(
    x: npt.NDArray[np.integer[Any]],
    w: npt.NDArray[np.integer[Any]],
    cuts: list[range],
    arithmetic: Arithmetic,
    start: npt.NDArray[Any] | None,
    resumed: bool,
    final: bool,
    statistics: PsumStatistics | None,
) -> npt.NDArray[Any]:
    """`accumulate` with x as (M, K, 1) or (M, K, N)."""
    edges = [0, *(cut.stop for cut in cuts)]
    if [cut.start for cut in cuts] != edges[:-1] or {edges[-1], w.shape[0]} != {x.shape[1]}:
        raise ValueError(f"cuts = {cuts} do not partition K = {x.shape[1]} (w has {w.shape[0]} rows)")
    overflow, every = arithmetic.overflow, arithmetic.saturate_at == "every_add"
    begin = np.zeros((x.shape[0], w.shape[1]), dtype=np.int64)
    if start is not None:
        holds = np.int64 if np.can_cast(start.dtype, np.int64) else object
        begin = np.broadcast_to(start.astype(holds), begin.shape)
        if every and not (resumed and arithmetic.splits_chunks):
            width = arithmetic.width_bits if arithmetic.splits_chunks else arithmetic.psum_bits
            begin = fit(begin, width, overflow)
    if not begin.size:
        return begin
    x64, w64 = x.astype(np.int64, copy=False), w.astype(np.int64, copy=False)
    # No fitting raises a magnitude, so no sum exceeds this one, whatever the widths and the order.
    bound = _magnitude_bound(x64, w64) + max(abs(int(begin.max())), abs(int(begin.min())))
    cannot_overflow = bound <= IntFormat(arithmetic.psum_bits).maximum
    total: npt.NDArray[Any]
    if statistics is None and (cannot_overflow or not every) and bound < 1 << 53:
        total = _exact_product(x64, w64, bound) + begin.astype(np.int64)
    else:
        exact_type = np.int64 if bound < 1 << 62 else object
        total, values, weights = (array.astype(exact_type, copy=False) for array in (begin, x64, w64))
        seen = PsumStatistics() if statistics is None else statistics
        if start is not None and not resumed:
            seen.see(int(total.min()), int(total.max()))
        unwatched = statistics is None and every and bound < 1 << 53
        psum_form = IntFormat(arithmetic.psum_bits) if every else None
        sum_form = IntFormat(arithmetic.width_bits) if every else None
        for cut in cuts:
            if not cut:
                continue
            first = np.zeros_like(total) if arithmetic.splits_chunks else total
            chunk = slice(cut.start, cut.stop)
            if unwatched and psum_form is not None:
                psum = _add_stretches(first, values[:, chunk], weights[chunk], psum_form, overflow)
            else:
                psum = _add_chunk(first, values[:, chunk], weights[chunk], psum_form, overflow, seen)
            total = _add(total, psum, sum_form, overflow, seen) if arithmetic.splits_chunks else psum
    if every:
        return total.astype(np.int64)
    if not final:
        return total
    form = IntFormat(arithmetic.width_bits)
    if statistics is not None:
        statistics.overflows += int(np.count_nonzero((total < form.minimum) | (total > form.maximum)))
    return fit(total, arithmetic.width_bits, overflow).astype(np.int64)


def _add(
    s: npt.NDArray[Any], p: npt.NDArray[Any], form: IntFormat | None, overflow: Overflow, seen: PsumStatistics
) -> npt.NDArray[Any]:
    """One addition: exact, recorded, fitted to `form` if any."""
    exact: npt.NDArray[Any] = s + p
    low, high = int(exact.min()), int(exact.max())
    if form is None or (form.minimum <= low and high <= form.maximum):
        seen.see(low, high)
        return exact
    out = int(np.count_nonzero((exact < form.minimum) | (exact > form.maximum)))
    seen.see(low, high, out)
    return fit(exact, form.bits, overflow)


def _add_chunk(
    s: npt.NDArray[Any],
    x: npt.NDArray[Any],
    w: npt.NDArray[Any],
    form: IntFormat | None,
    overflow: Overflow,
    seen: PsumStatistics,
) -> npt.NDArray[Any]:
    """Add one chunk's products to s in the array's adder, k in order."""
    result = np.empty_like(s)
    # Running sums of slices of at most so many products: one pass gives every exact s + p of outputs that never
    # leave the range, which is nearly all of them.
    step = max(1, _SLICE // w.size)
    for first in range(0, x.shape[0], step):
        rows = slice(first, first + step)
        running = x[rows] * w
        running[:, 0] += s[rows]
        np.cumsum(running, axis=1, out=running)
        low, high = int(running.min()), int(running.max())
        if form is None or (form.minimum <= low and high <= form.maximum):
            seen.see(low, high)
            result[rows] = running[:, -1]
            continue
        part = s[rows]
        for k in range(x.shape[1]):
            part = _add(part, x[rows, k] * w[k], form, overflow, seen)
        result[rows] = part
    return result


_SLICE = 1 << 18


def _add_stretches(
    s: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    w: npt.NDArray[np.int64],
    form: IntFormat,
    overflow: Overflow,
) -> npt.NDArray[np.int64]:
    """`_add_chunk` without figures, for sums below 2**53: matrix products wherever nothing can overflow."""
    if overflow == "wrap":  # the low bits of a sum do not depend on when the others are dropped
        return fit(s + _exact_product(x, w), form.bits, overflow)
    if s.size * w.shape[0] <= _SMALL:
        return _add_chunk(s, x, w, form, overflow, PsumStatistics())
    low, high = form.limits
    for first in range(0, x.shape[1], _STRETCH):
        taken = slice(first, first + _STRETCH)
        part, weights = x[:, taken], w[taken]
        reach = _magnitude_bound(part, weights)
        product = _exact_product(part, weights, reach)
        total = s + product
        if int(s.max()) + reach > high or int(s.min()) - reach < low:
            # No prefix of a stretch lies above what its positive products add, or below what its negative ones take.
            rise = _exact_product(np.maximum(part, 0), np.maximum(weights, 0), reach)
            rise += _exact_product(np.minimum(part, 0), np.minimum(weights, 0), reach)
            risky = (s + rise > high) | (s + product - rise < low)
            if np.count_nonzero(risky) > risky.size >> 2:  # picking them out costs more than adding all
                for k in range(weights.shape[0]):
                    s = np.minimum(np.maximum(s + part[:, k] * weights[k], low), high)
                continue
            rows, lanes = np.nonzero(risky)
            own = lanes if part.shape[2] > 1 else np.zeros_like(lanes)
            sums = s[rows, lanes]
            for k in range(weights.shape[0]):
                sums = np.minimum(np.maximum(sums + part[rows, k, own] * weights[k, lanes], low), high)
            total[rows, lanes] = sums
        s = total
    return s


_STRETCH = 64
_SMALL = 1 << 16
"""Products below which matrix products of stretches cost more than running sums."""


def _magnitude_bound(x: npt.NDArray[np.int64], w: npt.NDArray[np.int64]) -> int:
    """A limit that no prefix of any output's sum exceeds in magnitude: max|x| times a column's largest l1 norm."""
    if not (x.size and w.size):
        return 0
    return int(np.abs(x).max()) * int(np.abs(w).sum(axis=0).max())


def _exact_product(x: npt.NDArray[np.int64], w: npt.NDArray[np.int64], bound: int = 1 << 53) -> npt.NDArray[np.int64]:
    """Sums over k of magnitude at most `bound` <= 2**53, so that each of BLAS's partial sums is exact in any order."""
    if x.shape[2] != 1:
        lanes: npt.NDArray[np.int64] = np.einsum("mkn,kn->mn", x, w)
        return lanes
    real = np.float32 if bound < 1 << 24 else np.float64
    return np.asarray(x[:, :, 0].astype(real) @ w.astype(real)).astype(np.int64)
