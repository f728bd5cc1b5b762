"""The requantisation of other hardware and libraries, statement by statement in Python integers.

Each function is written from the source named in it, with that source's operands, masks and widths, and knows nothing
of `accelsim`. TensorFlow Lite's double rounding is in `oracle`.
"""

from __future__ import annotations

from fractions import Fraction

from numerics import oracle
from numerics.oracle import c_int32

INT32_MIN = -(2**31)


def saturate8(value: int) -> int:
    """To int8."""
    return max(-128, min(127, value))


def low8(value: int) -> int:
    """The low 8 bits as int8."""
    value &= 0xFF
    return value - 256 if value & 0x80 else value


# --- Gemmini: gemmini_params.h ------------------------------------------------------------------------------------


def gemmini_acc_scale(x: int, scale: int) -> int:
    """ACC_SCALE: a float product, ROUND_NEAR_EVEN of it, clamped. `scale` is the encoding of a positive float."""
    float32 = oracle.FLOAT["float32"]
    product = float32.nearest(float32.nearest(x) * float32.value(scale))  # C converts the int to float, then multiplies
    i = oracle.c_divide(product.numerator, product.denominator)  # long long i = x: truncation
    following = float32.nearest(product + (-1 if product < 0 else 1))
    following = oracle.c_divide(following.numerator, following.denominator)
    rem = abs(product - i)
    if rem < Fraction(1, 2):
        result = i
    elif rem > Fraction(1, 2):
        result = following
    else:
        result = i if oracle.c_divide(i, 2) * 2 == i else following
    return saturate8(result)


def gemmini_rounding_right_shift(x: int, shift: int) -> int:
    """ROUNDING_RIGHT_SHIFT: to nearest, ties to even, from the bits; a negative shift is a left shift."""
    if shift <= 0:
        return x << -shift
    half = (x >> (shift - 1)) & 1
    below = 0 if shift <= 1 else x & ((1 << (shift - 1)) - 1)
    odd = (x >> shift) & 1
    return (x >> shift) + (half & (int(below != 0) | odd))


# --- VTA: the ALU of vta.cc ---------------------------------------------------------------------------------------


def vta_alu(x: int, shift: int, relu: bool) -> int:
    """SHR by an immediate (negative: to the left), MAX with 0 where asked, then range(7, 0) into the output buffer."""
    register = x >> shift if shift >= 0 else c_int32(x << -shift)
    if relu:
        register = max(register, 0)
    return low8(register)


# --- NVDLA: NV_NVDLA_SDP_HLS_C_int.v and the shifter it uses --------------------------------------------------------


def nvdla_output_converter(x: int, offset: int, scale: int, truncate: int) -> int:
    """33-bit difference, 49-bit product, rounding shift with guide and sticky bits, saturation to 17 and to 8 bits."""
    width, out = 49, 17
    assert -(2**15) <= scale < 2**15
    assert 0 <= truncate < 64
    product = (x - offset) * scale
    assert -(2 ** (width - 1)) <= product < 2 ** (width - 1)
    ones = (1 << width) - 1
    sign = 1 if product < 0 else 0
    # {49 x sign, product, 49 x 0} >> truncate, cut into high, shifted, guide and stick
    wide = (((ones if sign else 0) << width | (product & ones)) << width) >> truncate
    shifted = (wide >> width) & ones
    guide = (wide >> (width - 1)) & 1
    stick = wide & ((1 << (width - 1)) - 1)
    if truncate >= width:
        return 0
    point5 = guide & ((1 - sign) | int(stick != 0))
    upper = shifted >> (out - 1)  # sign bits of a value that fits
    all_ones = (1 << (width - out + 1)) - 1
    too_low = sign and upper != all_ones
    too_high = not sign and (upper != 0 or (shifted & ((1 << (out - 1)) - 1) == (1 << (out - 1)) - 1 and point5))
    if too_low or too_high:
        return saturate8(-(2 ** (out - 1)) if sign else 2 ** (out - 1) - 1)
    rounded = ((shifted & ((1 << out) - 1)) + point5) & ((1 << out) - 1)
    return saturate8(rounded - (1 << out) if rounded >> (out - 1) else rounded)


# --- CMSIS-NN: arm_nnsupportfunctions.h -----------------------------------------------------------------------------


def arm_nn_doubling_high_mult_no_sat(m1: int, m2: int) -> int:
    """An int64 that begins at 1 << 30, a multiply-accumulate, an arithmetic shift by 31."""
    return c_int32(((1 << 30) + m1 * m2) >> 31)


def arm_nn_divide_by_power_of_two(dividend: int, exponent: int) -> int:
    """Mid points away from zero."""
    mask = (1 << exponent) - 1
    remainder = mask & dividend
    result = dividend >> exponent
    threshold = mask >> 1
    if result < 0:
        threshold += 1
    return result + 1 if remainder > threshold else result


def arm_nn_requantize(value: int, multiplier: int, shift: int) -> int:
    """The default build; a positive shift is to the left."""
    left, right = max(shift, 0), max(-shift, 0)
    return arm_nn_divide_by_power_of_two(
        arm_nn_doubling_high_mult_no_sat(c_int32(value * (1 << left)), multiplier), right
    )


def arm_nn_requantize_single_rounding(value: int, multiplier: int, shift: int) -> int:
    """The build with CMSIS_NN_USE_SINGLE_ROUNDING."""
    total_shift = 31 - shift
    result = c_int32((value * multiplier) >> (total_shift - 1))
    return (result + 1) >> 1
