"""Rounding of an exact quotient to an integer, in every mode hardware is known to use."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt


class Rounding(enum.StrEnum):
    """How an exact quotient becomes an integer.

    `TFLITE_DOUBLE` is two roundings in a row and exists only inside `requantize`; the others apply anywhere.
    """

    FLOOR = "floor"
    HALF_UP = "half_up"  # ties toward +infinity
    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"  # ties away from zero
    TOWARD_ZERO = "toward_zero"
    TFLITE_DOUBLE = "tflite_double"


SINGLE_ROUNDINGS = tuple(mode for mode in Rounding if mode is not Rounding.TFLITE_DOUBLE)


def divide_rounded(values: npt.NDArray[Any], divisor: npt.NDArray[Any] | int, rounding: Rounding) -> npt.NDArray[Any]:
    """Divide exactly, then round once.

    Args:
        values: int64 or object, any shape. With int64, no divisor may exceed 2**62.
        divisor: positive, broadcast against `values`.
        rounding: any single rounding; there is no default, because RTL differs on exact halves too.
    Returns:
        The dtype of `values`, broadcast shape. No saturation.
    Raises:
        TypeError: `values` is of another dtype: narrow integers would overflow, floats would slip through.
        ValueError: `rounding` is TFLITE_DOUBLE, which is not one rounding.
        ZeroDivisionError: a divisor below 1.

    >>> x = np.array([-5, -3, -1, 1, 3, 5])
    >>> for mode in SINGLE_ROUNDINGS:
    ...     print(f"{mode:12}", divide_rounded(x, 2, mode).tolist())
    floor        [-3, -2, -1, 0, 1, 2]
    half_up      [-2, -1, 0, 1, 2, 3]
    half_even    [-2, -2, 0, 0, 2, 2]
    half_away    [-3, -2, -1, 1, 2, 3]
    toward_zero  [-2, -1, 0, 0, 1, 2]
    """
    if values.dtype not in (np.int64, object):
        raise TypeError(f"divide_rounded takes int64 or object arrays, not {values.dtype}")
    divisor = np.asarray(divisor).astype(values.dtype)
    if np.any(divisor < 1):
        raise ZeroDivisionError("divisor must be at least 1")
    # Floor division leaves 0 <= remainder < divisor for either sign of the value, so one comparison of
    # 2 * remainder with the divisor decides every mode.
    quotient: npt.NDArray[Any] = np.asarray(values // divisor, dtype=values.dtype)
    if rounding is Rounding.FLOOR:
        return quotient
    remainder = values - quotient * divisor
    if rounding is Rounding.TOWARD_ZERO:
        return _plus(quotient, (values < 0) & (remainder != 0))
    twice = 2 * remainder
    above, tie = twice > divisor, twice == divisor
    match rounding:
        case Rounding.HALF_UP:
            up = above | tie
        case Rounding.HALF_EVEN:
            up = above | (tie & (quotient % 2 != 0))
        case Rounding.HALF_AWAY:
            up = above | (tie & (values >= 0))
        case _:
            raise ValueError(f"{rounding} is not a single rounding")
    return _plus(quotient, up)


def shift_right_rounded(
    values: npt.NDArray[Any], shift: npt.NDArray[Any] | int, rounding: Rounding
) -> npt.NDArray[Any]:
    """Divide by ``2**shift`` and round once; a negative shift is an exact left shift.

    Args:
        values: int64 or object, any shape. The caller chooses object where a left shift or the rounding could
            leave int64.
        shift: broadcast against `values`; -62..62 with int64.
        rounding: any single rounding.

    >>> shift_right_rounded(np.array([3, -3]), np.array([1, -2]), Rounding.HALF_UP).tolist()
    [2, -12]
    """
    shift = np.asarray(shift).astype(np.int64)  # negating an unsigned shift would wrap
    one = np.ones_like(values) if values.dtype == object else np.int64(1)
    right = np.maximum(shift, 0).astype(values.dtype)
    left = np.maximum(-shift, 0).astype(values.dtype)
    scaled = np.asarray(values * (one << left), dtype=values.dtype)  # object arithmetic unpacks 0-d arrays
    return divide_rounded(scaled, one << right, rounding)


def round_float(values: npt.NDArray[np.floating[Any]], rounding: Rounding) -> npt.NDArray[np.floating[Any]]:
    """Round finite floats to integral floats, dtype kept.

    >>> round_float(np.array([-2.5, -0.5, 0.5, 1.5]), Rounding.HALF_AWAY).tolist()
    [-3.0, -1.0, 1.0, 2.0]
    """
    match rounding:
        case Rounding.FLOOR:
            result = np.floor(values)
        case Rounding.TOWARD_ZERO:
            result = np.trunc(values)
        case Rounding.HALF_EVEN:
            result = np.rint(values)
        case Rounding.HALF_UP | Rounding.HALF_AWAY:
            # modf splits exactly; values - floor(values) would not (1 - 0.49999999999999994 rounds to 0.5).
            fraction, whole = np.modf(np.abs(values))
            up = fraction >= 0.5
            if rounding is Rounding.HALF_UP:
                up = np.where(values < 0, fraction > 0.5, up)
            result = np.copysign(whole + up.astype(values.dtype), values)
        case _:
            raise ValueError(f"{rounding} is not a single rounding")
    return np.asarray(result, dtype=values.dtype)


def _plus(quotient: npt.NDArray[Any], up: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Add 1 where `up`; dtype kept (object: Python ints, never NumPy ones), 0-d arrays kept."""
    one = np.asarray(up).astype(np.int64).astype(quotient.dtype)
    return np.asarray(quotient + one, dtype=quotient.dtype)
