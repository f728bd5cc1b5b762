"""A second implementation of the numbers, in Python integers and exact fractions, one value at a time.

Written from the design's text and from the cited C code, not from `accelsim.numerics`, and free of NumPy, so that
neither a shared idea nor a dtype can make both wrong in the same way. Slow and plain on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

SINGLE_ROUNDINGS = ("floor", "half_up", "half_even", "half_away", "toward_zero")


def limits(bits: int, signed: bool = True) -> tuple[int, int]:
    """Smallest and largest value."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def fit(value: int, bits: int, overflow: str, signed: bool = True) -> int:
    """Saturate at the nearest limit, or walk round the circle of 2**bits values."""
    low, high = limits(bits, signed)
    if overflow == "saturate":
        return low if value < low else high if value > high else value
    turns = (value - low) // 2**bits
    return value - turns * 2**bits


# --- rounding -----------------------------------------------------------------------------------------


def rounded(exact: Fraction | int, mode: str) -> int:
    """The integer below, the integer above, and which of the two the mode prefers."""
    below, over = divmod(exact.numerator, exact.denominator)
    above, short = (below + 1, exact.denominator - over) if over else (below, 0)
    if mode == "floor":
        return below
    if mode == "toward_zero":
        return above if exact < 0 else below
    if over != short:
        return below if over < short else above
    return {  # a tie, or an integer, where below is above
        "half_up": above,
        "half_even": below if below % 2 == 0 else above,
        "half_away": above if exact > 0 else below,
    }[mode]


def scaled(value: Fraction | int, power: int) -> Fraction:
    """value * 2**power, exactly."""
    return Fraction(value * 2**power) if power >= 0 else Fraction(value) / 2**-power


# --- IEEE 754 -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FloatFormat:
    """Binary interchange format: `precision` bits with the hidden one, exponents `smallest`..`largest`."""

    precision: int
    smallest: int
    largest: int

    def ulp(self, magnitude: Fraction) -> Fraction:
        """Distance of neighbours at a magnitude > 0: 2**(e - precision + 1), where 2**e <= magnitude < 2**(e+1)."""
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        if scaled(1, exponent) > magnitude:
            exponent -= 1
        return scaled(1, max(exponent, self.smallest) - self.precision + 1)

    def nearest(self, exact: Fraction | int) -> Fraction:
        """Round to nearest, ties to even mantissa; OverflowError where IEEE 754 would give an infinity."""
        if exact == 0:
            return Fraction(0)
        ulp = self.ulp(abs(Fraction(exact)))
        result = rounded(abs(exact) / ulp, "half_even") * ulp
        if result >= 2 ** (self.largest + 1):
            raise OverflowError
        return result if exact > 0 else -result

    def bits(self, value: Fraction) -> int:
        """The encoding of a positive value of the format."""
        ulp = self.ulp(value)
        mantissa = value / ulp
        assert mantissa.denominator == 1
        # Subnormals have exponent field 0 and so have normals of the smallest exponent, their hidden 1 apart.
        field_ = int(math.log2(ulp)) + self.precision - 1 - self.smallest
        return (field_ << (self.precision - 1)) + int(mantissa)

    def value(self, bits: int) -> Fraction:
        """The positive value that an encoding stands for."""
        field_, mantissa = bits >> (self.precision - 1), bits % 2 ** (self.precision - 1)
        if field_:
            mantissa += 2 ** (self.precision - 1)
        return scaled(mantissa, max(field_, 1) - 1 + self.smallest - self.precision + 1)


FLOAT = {
    "float32": FloatFormat(precision=24, smallest=-126, largest=127),
    "float64": FloatFormat(precision=53, smallest=-1022, largest=1023),
}


# --- requantisation -----------------------------------------------------------------------------------


def decompose(multiplier: Fraction, bits: int) -> tuple[int, int]:
    """M = 2**(-n) * m with m in [0.5, 1); M0 = m * 2**(B-1) rounded half away from zero; renormalised at 1.0."""
    # A quotient of integers of a and b bits lies strictly between 2**(a-b-1) and 2**(a-b+1).
    n = multiplier.denominator.bit_length() - multiplier.numerator.bit_length()
    if scaled(multiplier, n) >= 1:
        n -= 1
    m = scaled(multiplier, n)
    assert Fraction(1, 2) <= m < 1
    m0 = rounded(m * 2 ** (bits - 1), "half_away")
    return (m0 // 2, n - 1) if m0 == 2 ** (bits - 1) else (m0, n)


SHIFTS = {scaled(1, -n): n for n in range(-31, 63)}


def derive(multiplier: Fraction, scheme: str, bits: int) -> tuple[int, int] | None:
    """The stored integers of a multiplier, or None where the scheme has none."""
    if scheme == "fixed_point":
        m0, n = decompose(multiplier, bits)
        return (m0, n) if -31 <= bits - 1 + n <= 62 else None
    if scheme == "power_of_two":
        n = SHIFTS.get(multiplier)
        return None if n is None else (1, n)
    if scheme == "reciprocal":
        divisor = rounded(1 / multiplier, "half_even")
        return (divisor, 0) if 1 <= divisor < 2**62 else None
    try:
        value = FLOAT[scheme].nearest(multiplier)
    except OverflowError:
        return None
    return (FLOAT[scheme].bits(value), 0) if value else None


def requantize(
    v: int,
    m0: int,
    n: int,
    *,
    scheme: str,
    rounding: str,
    bits: int = 32,
    order: str = "multiply_first",
    guard: int = 0,
) -> int:
    """MACHINE.md, section A, "Requantisation"; OverflowError where a float product would be infinite."""
    if scheme == "fixed_point" and rounding == "tflite_double":
        return multiply_by_quantized_multiplier(v, m0, -n)
    if scheme == "fixed_point" and order == "multiply_first":
        return rounded(scaled(v * m0, -(bits - 1 + n)), rounding)
    if scheme == "fixed_point":
        a = rounded(scaled(v * 2**guard, -n), rounding)
        return rounded(scaled(a * m0, -(bits - 1 + guard)), rounding)
    if scheme == "power_of_two":
        return rounded(scaled(v, -n), rounding)
    if scheme == "reciprocal":
        return rounded(Fraction(v, m0), rounding)
    form = FLOAT[scheme]
    return rounded(form.nearest(form.nearest(v) * form.value(m0)), rounding)


def c_int32(value: int) -> int:
    """What a two's complement machine keeps of a value assigned to an int32_t."""
    value &= 0xFFFF_FFFF
    return value - 2**32 if value & 0x8000_0000 else value


def c_divide(a: int, b: int) -> int:
    """C's division, which truncates."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def saturating_rounding_doubling_high_mul(a: int, b: int) -> int:
    """gemmlowp fixedpoint/fixedpoint.h, line for line."""
    overflow = a == b and a == -(2**31)
    ab_64 = a * b
    nudge = (1 << 30) if ab_64 >= 0 else (1 - (1 << 30))
    ab_x2_high32 = c_int32(c_divide(ab_64 + nudge, 1 << 31))
    return 2**31 - 1 if overflow else ab_x2_high32


def rounding_divide_by_pot(x: int, exponent: int) -> int:
    """gemmlowp fixedpoint/fixedpoint.h, line for line."""
    assert 0 <= exponent <= 31
    mask = c_int32((1 << exponent) - 1)
    remainder = x & mask
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if remainder > threshold else 0)


def multiply_by_quantized_multiplier(x: int, quantized_multiplier: int, shift: int) -> int:
    """tensorflow/lite/kernels/internal/common.h, the double-rounding version; left shifts wrap to int32."""
    left_shift = shift if shift > 0 else 0
    right_shift = 0 if shift > 0 else -shift
    return rounding_divide_by_pot(
        saturating_rounding_doubling_high_mul(c_int32(x * (1 << left_shift)), quantized_multiplier), right_shift
    )


def to_output(r: int, zero_point: int, clip: tuple[int, int], bits: int, signed: bool, overflow: str) -> int:
    """u = Z + r; the activation's own clip (a limit equal to the format's is none); then saturate or keep low bits."""
    low, high = limits(bits, signed)
    u = zero_point + r
    if clip[0] != low and u < clip[0]:
        u = clip[0]
    if clip[1] != high and u > clip[1]:
        u = clip[1]
    return fit(u, bits, overflow, signed)


# --- accumulation -------------------------------------------------------------------------------------


def chunks(kernel: tuple[int, int], channels: int, rows: int, dataflow: str, packed_row: bool) -> list[list[int]]:
    """Walk (r, s, c), channel innermost; cut where a run starts and where R products are in the chunk."""
    cut: list[list[int]] = []
    k = 0
    for _ in range(kernel[0]):
        for s in range(kernel[1]):
            for c in range(channels):
                starts_run = c == 0 and (s == 0 or not packed_row)
                if not cut or (dataflow != "os" and (starts_run or len(cut[-1]) == rows)):
                    cut.append([])
                cut[-1].append(k)
                k += 1
    return cut


@dataclass
class Seen:
    """Exact s + p of every addition, and the start values."""

    values: list[int] = field(default_factory=list)
    overflows: int = 0

    @property
    def figures(self) -> tuple[int, int | None, int | None]:
        """(overflows, minimum, maximum)."""
        return self.overflows, min(self.values, default=None), max(self.values, default=None)


def accumulate(
    products: Sequence[int],
    cuts: Iterable[Iterable[int]],
    *,
    psum_bits: int,
    width_bits: int,
    overflow: str,
    saturate_at: str,
    dataflow: str,
    start: int | None = None,
    seen: Seen | None = None,
) -> int:
    """One output, one addition at a time: MACHINE.md, section A, "The add"."""
    seen = Seen() if seen is None else seen

    def add(s: int, p: int, bits: int) -> int:
        seen.values.append(s + p)
        if saturate_at == "end":
            return s + p
        fitted = fit(s + p, bits, overflow)
        seen.overflows += fitted != s + p
        return fitted

    total = 0
    if start is not None:
        total = start if saturate_at == "end" else fit(start, psum_bits if dataflow == "os" else width_bits, overflow)
        seen.values.append(total)
    for cut in cuts:
        psum = total if dataflow == "os" else 0
        for k in cut:
            psum = add(psum, products[k], psum_bits)
        total = psum if dataflow == "os" else add(total, psum, width_bits)
    if saturate_at == "end":
        fitted = fit(total, width_bits, overflow)
        seen.overflows += fitted != total
        return fitted
    return total
