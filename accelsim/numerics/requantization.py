"""Requantisation: an accumulator value times M = S_x * S_w / S_y, rounded to an integer, in every scheme we know.

Every scheme stores a multiplier as two integers for a channel, `m0` and `shift`, which is what graphs,
parameter records and RTL carry; nothing recomputes them from M. docs/numerics.md, section 4, states each scheme.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from accelsim.numerics.formats import IntArray, IntFormat
from accelsim.numerics.rounding import Rounding, divide_rounded, round_float, shift_right_rounded


class Scheme(enum.StrEnum):
    """How M is represented and applied."""

    FIXED_POINT = "fixed_point"  # Jacob et al. 2018, equation 6
    POWER_OF_TWO = "power_of_two"  # shifter-only hardware
    RECIPROCAL = "reciprocal"  # integer divider
    FLOAT32 = "float32"  # Gemmini, fbgemm
    FLOAT64 = "float64"  # the ideal the others approximate


Order = Literal["multiply_first", "shift_first"]
OutputOverflow = Literal["saturate", "wrap"]
MINIMUM_SHIFT, MAXIMUM_SHIFT = -31, 62
"""Limits of t, the total right shift of `fixed_point`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requantization:
    """A requantisation scheme with everything that decides its bits.

    Attributes:
        scheme: how M is represented.
        rounding: how quotients become integers; TFLITE_DOUBLE needs fixed_point, multiply_first and 32 bits.
        multiplier_bits: B, 8..32, width of the signed M0 of `fixed_point`.
        order: of `fixed_point`: multiply then shift, or shift (keeping `guard_bits` fraction bits) and multiply.
        guard_bits: g, 0..16, with `shift_first` only.
        output_overflow: what happens to a result outside the output format.
    """

    scheme: Scheme
    rounding: Rounding
    multiplier_bits: int = 32
    order: Order = "multiply_first"
    guard_bits: int = 0
    output_overflow: OutputOverflow = "saturate"

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise ValueError(f"order = {self.order!r} is not one of {', '.join(get_args(Order))}")
        if self.output_overflow not in get_args(OutputOverflow):
            known = ", ".join(get_args(OutputOverflow))
            raise ValueError(f"output_overflow = {self.output_overflow!r} is not one of {known}")
        if not 8 <= self.multiplier_bits <= 32:
            raise ValueError(f"multiplier_bits = {self.multiplier_bits} is outside 8..32")
        if not 0 <= self.guard_bits <= 16:
            raise ValueError(f"guard_bits = {self.guard_bits} is outside 0..16")
        if self.guard_bits and self.order != "shift_first":
            raise ValueError("guard_bits needs order = 'shift_first'; multiply_first keeps every bit anyway")
        if self.order == "shift_first" and self.scheme is not Scheme.FIXED_POINT:
            raise ValueError(f"order = 'shift_first' needs scheme = 'fixed_point', not {self.scheme.value!r}")
        if self.rounding is Rounding.TFLITE_DOUBLE and (
            self.scheme is not Scheme.FIXED_POINT or self.multiplier_bits != 32 or self.order != "multiply_first"
        ):
            raise ValueError(
                "rounding = 'tflite_double' needs scheme = 'fixed_point', multiplier_bits = 32, "
                "order = 'multiply_first'"
            )

    @property
    def pool_rounding(self) -> Rounding:
        """The single rounding of an average pool: the declared one, or half_away for tflite_double."""
        return Rounding.HALF_AWAY if self.rounding is Rounding.TFLITE_DOUBLE else self.rounding

    def identity(self) -> tuple[int, int]:
        """Return the (m0, shift) of M = 1, which every scheme applies exactly to |values| < 2**24."""
        m0, shift = self.derive(1.0)
        return m0, shift

    def refuses(self, m0: int, shift: int) -> str | None:
        """Say why hardware of this scheme cannot hold (m0, shift), or return None where it can."""
        match self.scheme:
            case Scheme.FIXED_POINT:
                if not 0 < m0 < 1 << (self.multiplier_bits - 1):
                    return f"m0 must be positive and fit {self.multiplier_bits} signed bits"
                if not MINIMUM_SHIFT <= self.multiplier_bits - 1 + shift <= MAXIMUM_SHIFT:
                    return f"the total shift must be in {MINIMUM_SHIFT}..{MAXIMUM_SHIFT}"
            case Scheme.POWER_OF_TWO:
                if m0 != 1:
                    return "m0 of power_of_two is 1"
                if not MINIMUM_SHIFT <= shift <= MAXIMUM_SHIFT:
                    return f"the shift must be in {MINIMUM_SHIFT}..{MAXIMUM_SHIFT}"
            case Scheme.RECIPROCAL:
                if not 1 <= m0 < 1 << 62 or shift:
                    return "m0 of reciprocal is the divisor, 1..2**62 - 1, and shift is 0"
            case Scheme.FLOAT32:
                if not 0 < m0 < 0x7F800000 or shift:
                    return "m0 of float32 is the bits of a positive finite float32, and shift is 0"
            case Scheme.FLOAT64:
                if not 0 < m0 < 0x7FF0000000000000 or shift:
                    return "m0 of float64 is the bits of a positive finite float64, and shift is 0"
        return None

    def derive(self, multiplier: float) -> tuple[int, int]:
        """Return the integers (m0, shift) that stand for a real multiplier M.

        fixed_point: M0, n; power_of_two: 1, n; reciprocal: d, 0; float32, float64: the IEEE 754 bits of M, 0.

        Raises:
            ValueError: M is not positive and finite, or the scheme cannot represent it.

        >>> Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.FLOOR, multiplier_bits=8).derive(0.2)
        (102, 2)
        """
        _refuse_unless_positive(multiplier)
        match self.scheme:
            case Scheme.FIXED_POINT:
                m0, shift = decompose(multiplier, self.multiplier_bits)
                total = self.multiplier_bits - 1 + shift
                if not MINIMUM_SHIFT <= total <= MAXIMUM_SHIFT:
                    raise ValueError(
                        f"multiplier M = {multiplier} needs a shift by {total}, "
                        f"outside {MINIMUM_SHIFT}..{MAXIMUM_SHIFT}"
                    )
                return m0, shift
            case Scheme.POWER_OF_TWO:
                mantissa, exponent = math.frexp(multiplier)
                if mantissa != 0.5:
                    raise ValueError(f"multiplier M = {multiplier} is not a power of two")
                if not MINIMUM_SHIFT <= 1 - exponent <= MAXIMUM_SHIFT:
                    raise ValueError(f"multiplier M = {multiplier} needs a shift by {1 - exponent}, outside -31..62")
                return 1, 1 - exponent
            case Scheme.RECIPROCAL:
                divisor = round(1 / Fraction(multiplier))  # Fraction rounds half to even, exactly
                if not 1 <= divisor < 1 << 62:
                    raise ValueError(f"multiplier M = {multiplier} has no integer reciprocal in 1..2**62 - 1")
                return divisor, 0
            case Scheme.FLOAT32:
                with np.errstate(over="ignore", under="ignore"):
                    single = np.float32(multiplier)
                if not np.isfinite(single) or single == 0:
                    raise ValueError(f"multiplier M = {multiplier} is not a positive finite float32")
                return int(single.view(np.int32)), 0
            case Scheme.FLOAT64:
                return int(np.float64(multiplier).view(np.int64)), 0


def _refuse_unless_positive(multiplier: float) -> None:
    if not (math.isfinite(multiplier) and multiplier > 0):
        raise ValueError(f"multiplier M = {multiplier} must be positive and finite")


def decompose(multiplier: float, bits: int) -> tuple[int, int]:
    """Return (M0, n): M = 2**(-n) * m, m in [0.5, 1), M0 = round-half-away(m * 2**(bits - 1)).

    A mantissa that rounds up to 1.0 is renormalised, so 2**(bits-2) <= M0 < 2**(bits-1).

    Args:
        multiplier: M > 0, finite.
        bits: B >= 2.
    Raises:
        ValueError: M is not positive and finite.
    Source: Jacob et al. 2018 (arXiv 1712.05877), section 2.2.

    >>> decompose(0.2, 32)  # m = 0.8, n = 2
    (1717986918, 2)
    >>> decompose(1 - 2**-40, 8), decompose(3.0, 8)
    ((64, -1), (96, -2))
    """
    _refuse_unless_positive(multiplier)
    mantissa, exponent = math.frexp(multiplier)
    exact = Fraction(mantissa) * (1 << (bits - 1))
    m0 = math.floor(exact + Fraction(1, 2))  # positive, so half up is half away
    if m0 == 1 << (bits - 1):
        m0, exponent = m0 >> 1, exponent + 1
    return m0, -exponent


def requantize(
    acc: npt.NDArray[Any], m0: npt.NDArray[Any] | int, shift: npt.NDArray[Any] | int, how: Requantization
) -> npt.NDArray[Any]:
    """Scale accumulator values by M and round to integers; nothing saturates here.

    Args:
        acc: integers of any dtype (object for Python's), any shape.
        m0, shift: what `Requantization.derive` gave, broadcast against `acc` (channels on the last axis).
        how: the scheme.
    Returns:
        int64 where every intermediate provably fits, else object; shape of `acc`.
    Raises:
        OverflowError: tflite_double with a value outside int32; a float scheme with a value outside 64 bits or a
            product beyond the float format.

    >>> how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
    >>> requantize(np.array([10, 12, -12, 13]), *how.derive(0.125), how).tolist()  # 1.25, 1.5, -1.5, 1.625
    [1, 2, -2, 2]
    """
    m0, shift = np.asarray(m0).astype(np.int64), np.asarray(shift).astype(np.int64)
    match how.scheme:
        case Scheme.FIXED_POINT if how.rounding is Rounding.TFLITE_DOUBLE:
            return _tflite_double(acc, m0, shift)
        case Scheme.FIXED_POINT:
            return _fixed_point(acc, m0, shift, how)
        case Scheme.POWER_OF_TWO:
            acc = _wide_enough(acc, _bits(acc) + max(int(np.max(-shift, initial=0)), 0) + 2)
            return shift_right_rounded(acc, shift, how.rounding)
        case Scheme.RECIPROCAL:
            acc = _wide_enough(acc, max(_bits(acc), _bits(m0)) + 2)
            return divide_rounded(acc, m0.astype(acc.dtype), how.rounding)
        case Scheme.FLOAT32:
            single = m0.astype(np.int32).view(np.float32)
            return _to_integers(round_float(_times(_to_float(acc, np.float32), single), how.rounding))
        case Scheme.FLOAT64:
            double = m0.astype(np.int64).view(np.float64)
            return _to_integers(round_float(_times(_to_float(acc, np.float64), double), how.rounding))


def _fixed_point(
    acc: npt.NDArray[Any], m0: npt.NDArray[Any], shift: npt.NDArray[Any], how: Requantization
) -> npt.NDArray[Any]:
    """(acc * M0) >> (B - 1 + n), or the same in two roundings with the shift first."""
    fraction = how.multiplier_bits - 1
    widest_left = max(int(np.max(-shift, initial=0)), 0)
    if how.order == "multiply_first":
        # The product and its left shift must stay inside int64; rounding does, for shifts up to MAXIMUM_SHIFT.
        acc = _wide_enough(acc, _bits(acc) + how.multiplier_bits + widest_left + 1)
        return shift_right_rounded(acc * m0.astype(acc.dtype), shift + fraction, how.rounding)
    acc = _wide_enough(acc, _bits(acc) + how.guard_bits + widest_left + how.multiplier_bits + 1)
    first = shift_right_rounded(acc, shift - how.guard_bits, how.rounding)
    return shift_right_rounded(first * m0.astype(acc.dtype), fraction + how.guard_bits, how.rounding)


def _tflite_double(acc: npt.NDArray[Any], m0: npt.NDArray[Any], shift: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Saturating rounding doubling high multiply, then rounding right shift.

    Source: gemmlowp fixedpoint.h (SaturatingRoundingDoublingHighMul, RoundingDivideByPOT), as TFLite's
    MultiplyByQuantizedMultiplier calls them. M0 > 0, so the one saturating case (both -2**31) cannot arise.
    """
    int32 = IntFormat(32)
    if acc.size and not (int32.minimum <= acc.min() and acc.max() <= int32.maximum):
        raise OverflowError("tflite_double takes int32 values; use an accumulator of at most 32 bits")
    wide = acc.astype(np.int64)
    left = np.maximum(-shift, 0).astype(np.int64)
    shifted = int32.wrap(wide << left)
    # floor(ab / 2**31 + 1/2): the source's truncating division of a nudged product, for either sign.
    high = shift_right_rounded(shifted * m0.astype(np.int64), 31, Rounding.HALF_UP)
    return shift_right_rounded(high, np.maximum(shift, 0), Rounding.HALF_AWAY)


def _bits(values: npt.NDArray[Any]) -> int:
    """Bits of the two's complement format that holds every value."""
    if not values.size:
        return 1
    low, high = (
        int(values.min()),
        int(values.max()),
    )  # Python integers: negating int64's minimum would overflow
    return max((v if v >= 0 else ~v).bit_length() for v in (low, high)) + 1


def _wide_enough(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """int64 if `bits` fit in it, else object."""
    if bits <= 63:
        return values.astype(np.int64)
    return values if values.dtype == object else values.astype(object)


def _to_float(values: npt.NDArray[Any], dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """Nearest float, ties to even, in one rounding."""
    if values.dtype != object:
        return values.astype(dtype)  # int64 -> float is one correctly rounded conversion
    if not values.size or _bits(values) <= 64:
        return values.astype(np.int64).astype(dtype)
    raise OverflowError("a float scheme takes accumulator values of at most 64 bits")


def _times(values: npt.NDArray[Any], multiplier: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Product of floats, to nearest even; infinite beyond the format, which `_to_integers` refuses."""
    with np.errstate(over="ignore"):
        return np.asarray(values * multiplier)


def _to_integers(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
    """Exact conversion of integral floats."""
    if not np.isfinite(values).all():
        raise OverflowError("acc * M is beyond the float format")
    if values.size and float(np.max(np.abs(values))) >= 2.0**62:
        return np.array([int(v) for v in values.ravel()], dtype=object).reshape(values.shape)
    return values.astype(np.int64)


def to_output(
    values: npt.NDArray[Any],
    zero_point: int,
    clip: tuple[int, int],
    form: IntFormat,
    overflow: OutputOverflow,
) -> IntArray:
    """u = Z + r, the activation's own clip, then saturate to the format or keep its low bits.

    Args:
        values: r, requantised; integers of any dtype, any shape.
        zero_point: Z_y.
        clip: the activation's limits (ReLU: Z_y below), inside `form`; (form.minimum, form.maximum) for none.
        form: the output format.
        overflow: where the activation has no limit of its own and u is outside `form`.
    Returns:
        int64, same shape, inside `form`.

    >>> to_output(np.array([-300, -3, 5, 200]), 2, (2, 127), IntFormat(8), "saturate").tolist()
    [2, 2, 7, 127]
    >>> to_output(np.array([-300, -3, 5, 200]), 2, (2, 127), IntFormat(8), "wrap").tolist()
    [2, 2, 7, -54]
    """
    total = _wide_enough(values, _bits(values) + 1) + zero_point  # narrow dtypes and int64's ends would overflow
    low, high = clip
    if overflow == "saturate":
        return np.asarray(np.clip(total, low, high), dtype=np.int64)
    if low > form.minimum:
        total = np.maximum(total, low)
    if high < form.maximum:
        total = np.minimum(total, high)
    return np.asarray(form.wrap(total), dtype=np.int64)
