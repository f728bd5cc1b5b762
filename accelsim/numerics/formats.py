"""Integer and fixed-point number formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
"""int64 wherever the values are proved to fit, else object (Python integers); every function says which."""
Precision = Literal["float64", "float32"]
"""Of the division that quantises an input."""


@dataclass(frozen=True, slots=True)
class IntFormat:
    """A `bits`-wide integer, two's complement if `signed`.

    >>> IntFormat(8, signed=True).limits, IntFormat(4, signed=False).limits
    ((-128, 127), (0, 15))
    """

    bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 64:
            raise ValueError(f"bits = {self.bits} is outside 1..64")

    @property
    def minimum(self) -> int:
        """The smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """The largest value."""
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1

    @property
    def limits(self) -> tuple[int, int]:
        """(minimum, maximum), both inclusive."""
        return self.minimum, self.maximum

    def saturate(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Clamp to the nearest value of the format; any integer or object dtype, dtype and shape kept."""
        clamped: npt.NDArray[np.generic] = np.clip(values, self.minimum, self.maximum)
        return clamped

    def wrap(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Keep the low `bits` bits, read as this format; int64 or object, dtype and shape kept.

        Raises:
            TypeError: another dtype, which may not hold the result (200 in uint8 is -56 in 8 signed bits).

        >>> IntFormat(8).wrap(np.array([127, 128, -129, 256])).tolist()
        [127, -128, 127, 0]
        """
        if values.dtype not in (np.int64, object):
            raise TypeError(f"wrap takes int64 or object arrays, not {values.dtype}")
        if self.bits == 64 and values.dtype != object:
            if not self.signed:
                raise TypeError("unsigned 64-bit values need an object array")
            return values
        low: npt.NDArray[Any] = np.bitwise_and(values, (1 << self.bits) - 1)
        if not self.signed:
            return low
        half = 1 << (self.bits - 1)
        wrapped: npt.NDArray[Any] = (low ^ half) - half
        return wrapped


@dataclass(frozen=True, slots=True)
class FixedPointFormat:
    """Word length `wl`, fraction length `fl`, two's complement: real = q * 2**(-fl).

    >>> f = FixedPointFormat(wl=8, fl=4)
    >>> f.scale, f.smallest, f.largest
    (0.0625, -8.0, 7.9375)
    >>> f.quantize(np.array([0.03125, 0.09375, 100.0])).tolist()
    [0, 2, 127]
    """

    wl: int
    fl: int

    def __post_init__(self) -> None:
        if not 1 <= self.wl <= 64:
            raise ValueError(f"wl = {self.wl} is outside 1..64")
        if not -512 <= self.fl <= 512:
            raise ValueError(f"fl = {self.fl} is outside -512..512, where 2**(-fl) is an ordinary float64")

    @property
    def integer(self) -> IntFormat:
        """The format of q."""
        return IntFormat(self.wl, signed=True)

    @property
    def scale(self) -> float:
        """S: the real value of q = 1."""
        return 2.0**-self.fl

    @property
    def smallest(self) -> float:
        """The most negative real value."""
        return self.integer.minimum * self.scale

    @property
    def largest(self) -> float:
        """The most positive real value."""
        return self.integer.maximum * self.scale

    def quantize(self, values: npt.ArrayLike) -> IntArray:
        """Return q = clamp(round-half-even(value / S)); finite float64 in, int64 of the same shape out.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        return quantize(np.asarray(values, dtype=np.float64), self.scale, 0, self.integer)


def quantize(
    values: npt.NDArray[np.floating], scale: float, zero_point: int, form: IntFormat, precision: Precision = "float64"
) -> IntArray:
    """Return q = clamp(round-half-even(float64(x) / S) + Z), the rule for inputs.

    Args:
        values: any shape, finite.
        scale: S > 0.
        zero_point: Z, within `form`.
        form: the format of q.
        precision: "float32" rounds x, S and the quotient to float32, as ONNX does; ties then fall elsewhere.
    Returns:
        int64, same shape; object for an unsigned 64-bit format.
    Raises:
        ValueError: a value is NaN or infinite (a clamp would hide it), or S is not positive and finite.
    Source: Jacob et al. 2018, equation 1; round-half-even as in ONNX QuantizeLinear.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale = {scale} must be positive and finite")
    exact = np.asarray(values, dtype=np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("NaN or infinite value cannot be quantised")
    with np.errstate(over="ignore"):  # a quotient beyond float64 becomes infinite, then a limit
        if precision == "float32":
            rounded = np.rint(exact.astype(np.float32) / np.float32(scale)).astype(np.float64)
        else:
            rounded = np.rint(exact / scale)
    # Clamped in float64 first: a huge value would not survive the conversion to int64.
    if form.bits <= 53:
        clamped: npt.NDArray[np.float64] = np.clip(rounded + zero_point, form.minimum, form.maximum)
        return clamped.astype(np.int64)
    # float64 does not hold the limits of a wider format: 2**59 - 1 would become 2**59.
    finite = np.clip(rounded, -(2.0**66), 2.0**66)
    whole = np.array([int(v) + zero_point for v in finite.ravel()], dtype=object).reshape(rounded.shape)
    return form.saturate(whole).astype(object if form.maximum >= 1 << 63 else np.int64)
