"""Multipliers and requantisation in torch operations, to the bit: docs/numerics.md, section 4, on tensors.

Sums arrive as floats that hold integers. A product with a multiplier stays in floats where its bits fit their
significand (24 or 53), because a scaled integer is then exact and rounding it is the rounding of the exact quotient;
otherwise it is formed in int64, or refused. Nothing here calls `accelsim.numerics.requantize`; tests compare the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.numerics.requantization import MAXIMUM_SHIFT, MINIMUM_SHIFT

SINGLE, DOUBLE, INT64 = 1 << 24, 1 << 53, 1 << 63
"""Magnitudes below which float32 and float64 hold every integer, and int64 any."""


def float_type(bound: int) -> torch.dtype:
    """The narrower float type that holds every integer of at most this magnitude.

    Raises:
        OverflowError: neither does.

    >>> float_type(2**24 - 1), float_type(2**24 + 1)
    (torch.float32, torch.float64)
    """
    if bound < SINGLE:
        return torch.float32
    if bound < DOUBLE:
        return torch.float64
    raise OverflowError(f"sums of up to {bound} are beyond float64's integers")


def derive(multiplier: Tensor, how: Requantization) -> tuple[Tensor, Tensor]:
    """`Requantization.derive` of every element.

    Args:
        multiplier: M, float64 (N,).
        how: the scheme.
    Returns:
        (m0, shift), int64 (N,).
    Raises:
        ValueError: an element is not positive and finite, or the scheme cannot represent it.

    >>> how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.FLOOR, multiplier_bits=8)
    >>> derive(torch.tensor([0.2, 3.0], dtype=torch.float64), how)
    (tensor([102,  96]), tensor([ 2, -2]))
    """
    legal = torch.isfinite(multiplier) & (multiplier > 0)
    zero = torch.zeros_like(multiplier, dtype=torch.int64)
    match how.scheme:
        case Scheme.FIXED_POINT:
            mantissa, exponent = torch.frexp(multiplier)
            scaled = mantissa * float(1 << (how.multiplier_bits - 1))  # exact: a power of two
            whole = scaled.floor()
            m0 = whole.long() + (scaled - whole >= 0.5)  # positive, so half up is half away
            carries = m0 == 1 << (how.multiplier_bits - 1)
            m0, shift = torch.where(carries, m0 >> 1, m0), -(exponent.long() + carries)
            total = how.multiplier_bits - 1 + shift
            legal &= (total >= MINIMUM_SHIFT) & (total <= MAXIMUM_SHIFT)
        case Scheme.POWER_OF_TWO:
            mantissa, exponent = torch.frexp(multiplier)
            m0, shift = zero + 1, 1 - exponent.long()
            legal &= (mantissa == 0.5) & (shift >= MINIMUM_SHIFT) & (shift <= MAXIMUM_SHIFT)
        case Scheme.RECIPROCAL:  # 1 / M needs more bits than float64 has to round once
            found = {one: how.derive(one) for one in set(multiplier.tolist())}
            m0, shift = torch.tensor([found[one][0] for one in multiplier.tolist()], dtype=torch.int64), zero
        case Scheme.FLOAT32:
            single = multiplier.float()
            m0, shift = single.view(torch.int32).long(), zero
            legal &= torch.isfinite(single) & (single > 0)
        case Scheme.FLOAT64:
            m0, shift = multiplier.contiguous().view(torch.int64).clone(), zero
    if not bool(legal.all()):
        how.derive(float(multiplier[~legal][0]))  # says why
    return m0, shift


def round_quotient(x: Tensor, rounding: Rounding) -> Tensor:
    """Round floats to integral floats, perhaps in place; ties are recognised exactly.

    >>> round_quotient(torch.tensor([-2.5, -1.5, 0.5, 1.5]), Rounding.HALF_UP)
    tensor([-2., -1.,  1.,  2.])
    """
    match rounding:
        case Rounding.HALF_EVEN:
            return x.round_()
        case Rounding.FLOOR:
            return x.floor_()
        case Rounding.TOWARD_ZERO:
            return x.trunc_()
        case Rounding.HALF_UP | Rounding.HALF_AWAY:
            whole = x.trunc()
            part = x - whole  # exact, and has the sign of x
            down = part < -0.5 if rounding is Rounding.HALF_UP else part <= -0.5
            return whole.add_(part >= 0.5).sub_(down.to(x.dtype))
    raise ValueError(f"{rounding} is not a single rounding")


def requantize(total: Tensor, m0: Tensor, shift: Tensor, how: Requantization, bound: int) -> Tensor:
    """Scale integers by M and round, as `numerics.requantize`; nothing saturates.

    Args:
        total: v, integers in float32 or float64, any shape; it may be overwritten.
        m0, shift: int64, broadcast against `total`.
        how: the scheme.
        bound: no |v| exceeds it.
    Returns:
        Integers in float32 or float64, exact below 2**24 and 2**53; larger ones are rounded, as large and of the same
        sign.
    Raises:
        OverflowError: a product could leave int64, or a sum int32 with tflite_double.
    """
    match how.scheme:
        case Scheme.FIXED_POINT:
            fraction = how.multiplier_bits - 1
            if how.rounding is not Rounding.TFLITE_DOUBLE and how.order == "multiply_first":
                return _scaled(total, m0, shift + fraction, how.rounding, bound)
            if how.rounding is Rounding.TFLITE_DOUBLE:
                if bound >= 1 << 31:
                    raise OverflowError(f"tflite_double takes int32 values, and sums may reach {bound}")
                wide = total.long() << (-shift).clamp(min=0)
                wide = ((wide + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
                high = _shifted(wide * m0, torch.full_like(shift, 31), Rounding.HALF_UP)
                return _shifted(high, shift.clamp(min=0), Rounding.HALF_AWAY).double()
            left = max(0, int((how.guard_bits - shift).max()))
            if ((bound << left) + 1) * int(m0.max()) >= INT64:
                raise OverflowError(
                    f"sums of up to {bound}, shifted left by {left}, times {fraction} bits exceed int64"
                )
            first = _shifted(total.long(), shift - how.guard_bits, how.rounding)
            return _shifted(first * m0, torch.full_like(shift, fraction + how.guard_bits), how.rounding).double()
        case Scheme.POWER_OF_TWO:
            return _scaled(total, m0, shift, how.rounding, bound)
        case Scheme.RECIPROCAL:
            return _divided(total.long(), m0, how.rounding).double()
        case Scheme.FLOAT32:
            return round_quotient(total.to(torch.float32) * m0.int().view(torch.float32), how.rounding)
        case Scheme.FLOAT64:
            return round_quotient(total.double() * m0.view(torch.float64), how.rounding)


def _scaled(total: Tensor, m0: Tensor, shift: Tensor, rounding: Rounding, bound: int) -> Tensor:
    """round(v * m0 / 2**shift): in floats where the product fits a significand, else in int64."""
    product = bound * int(m0.max())
    if product < DOUBLE:
        factor = torch.ldexp(m0.double(), -shift)  # exact
        dtype = float_type(product)
        return round_quotient(total.to(dtype).mul_(factor.to(dtype)), rounding)
    left = max(0, int((-shift).max()))
    if product << left >= INT64:
        raise OverflowError(
            f"sums of up to {bound} times a multiplier of {int(m0.max()).bit_length()} bits exceed int64"
        )
    return _shifted(total.long() * m0, shift, rounding).double()


def _shifted(values: Tensor, shift: Tensor, rounding: Rounding) -> Tensor:
    """int64 / 2**shift, rounded once; a negative shift is a left shift."""
    right = shift.clamp(min=0)
    scaled = values << (-shift).clamp(min=0)
    return _rounded_up(scaled >> right, scaled & ((1 << right) - 1), 1 << right, scaled < 0, rounding)


def _divided(values: Tensor, divisor: Tensor, rounding: Rounding) -> Tensor:
    """int64 / divisor, rounded once; divisors below 2**62."""
    quotient = torch.div(values, divisor, rounding_mode="floor")
    return _rounded_up(quotient, values - quotient * divisor, divisor, values < 0, rounding)


def _rounded_up(quotient: Tensor, rest: Tensor, divisor: Tensor, negative: Tensor, rounding: Rounding) -> Tensor:
    """A floor quotient, plus 1 where its rest, 0 <= rest < divisor, asks for it."""
    if rounding is Rounding.FLOOR:
        return quotient
    if rounding is Rounding.TOWARD_ZERO:
        return quotient + (negative & (rest != 0))
    # Compared with what is missing, since twice a rest of 62 bits has 63.
    missing = divisor - rest
    above, tie = rest > missing, rest == missing
    match rounding:
        case Rounding.HALF_UP:
            return quotient + (above | tie)
        case Rounding.HALF_EVEN:
            return quotient + (above | (tie & (quotient % 2 != 0)))
        case Rounding.HALF_AWAY:
            return quotient + (above | (tie & ~negative))
    raise ValueError(f"{rounding} is not a single rounding")
