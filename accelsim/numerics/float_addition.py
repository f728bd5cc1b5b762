"""A quantised addition in float32 that rounds to an integer once, with fused multiply-adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.numerics.formats import IntArray

Float32 = npt.NDArray[np.float32]


def fused_multiply_add(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Float32:
    """float32(a * b + c), rounded once to nearest even; operands float32 or integers below 2**24, finite.

    The product of two such values is exact in float64. The sum need not be: it is rounded to odd, after which rounding
    to float32 is the same as rounding the exact sum (Boldo and Melquiond, IEEE Trans. Computers 57(4), 2008).

    >>> fused_multiply_add(np.float32(3), np.float32(1 / 3), np.float32(-1)).item() == 2.0**-25
    True
    """
    product = np.asarray(a, dtype=np.float64) * np.asarray(b, dtype=np.float64)
    c = np.asarray(c, dtype=np.float64)
    total = np.asarray(product + c)
    part = total - product  # TwoSum: what the rounding of `total` lost, exactly
    lost = (product - (total - part)) + (c - part)
    is_even = (total.view(np.int64) & 1) == 0
    toward = np.where(lost > 0, np.inf, -np.inf)
    odd = np.where((lost != 0) & is_even, np.nextafter(total, toward), total)
    return np.asarray(odd.astype(np.float32))


def add_rounded_once(
    codes: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    zero_points: tuple[int, int, int],
    multipliers: tuple[np.float32, np.float32],
) -> IntArray:
    """Z_y + (q1 - Z1) * M1 + (q2 - Z2) * M2 in float32, then round-half-even: the zero point is in before rounding.

    fma(q1, M1, fma(q2, M2, Z_y - fma(M1, Z1, M2 * Z2))), each step to nearest even.

    Args:
        codes: q1 and q2, integers of one shape.
        zero_points: Z1, Z2, Z_y.
        multipliers: M = float32(S / S_y) of each operand.
    Returns:
        int64, not clamped.
    Source: onnxruntime, MlasQLinearAddKernelAvx2Helper (core/mlas/lib/intrinsics/avx2/qladd_avx2.cpp), whose scalar
        code the compiler contracts to fused multiply-adds as well.

    >>> half = np.float32(0.5)  # 2.5 + 2.5: one rounding gives 5, two give 4
    >>> add_rounded_once((np.array([5]), np.array([5])), (0, 0, 0), (half, half)).tolist()
    [5]
    """
    m1, m2 = multipliers
    z1, z2, z_y = (np.float32(zero) for zero in zero_points)
    fixed = z_y - fused_multiply_add(m1, z1, np.float32(m2 * z2))
    total = fused_multiply_add(codes[0], m1, fused_multiply_add(codes[1], m2, fixed))
    return np.asarray(np.rint(total.astype(np.float64)), dtype=np.int64)
