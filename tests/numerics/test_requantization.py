"""Requantisation: every scheme against exact arithmetic."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numerics import oracle

from accelsim.numerics import (
    SINGLE_ROUNDINGS,
    IntFormat,
    Requantization,
    Rounding,
    Scheme,
    decompose,
    requantize,
    to_output,
)

INT32_ENDS = [-(2**31), -(2**31) + 1, -(2**30) - 1, -(2**30), 2**30 - 1, 2**30, 2**31 - 2, 2**31 - 1]
INT64_ENDS = [-(2**63), -(2**63) + 1, -(2**53) - 1, 2**24 + 1, 2**53 + 1, 2**62, 2**63 - 513, 2**63 - 1]
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(INT64_ENDS + INT32_ENDS) | st.integers(-300, 300)

UNHURRIED = settings(deadline=None)  # other tests may hold the core

# Every power of two that float64 has, its neighbours, and a dense grid of mantissas near M = 1.
POWERS = [2.0**e for e in range(-1074, 1024)]
NEIGHBOURS = [math.nextafter(p, to) for p in POWERS[::7] for to in (0.0, math.inf)]
DENSE = [(1 + k / 256) * 2.0**e for e in range(-34, 33) for k in range(0, 256, 5)]
AROUND_ONE = [1 - 2.0**-k for k in range(2, 54)] + [1 + 2.0**-k for k in range(1, 53)]
SPECIAL = [0.2, 1 / 3, 3.0, 5e-324, 2.2250738585072014e-308, 2.225073858507201e-308, 1.7976931348623157e308]
MULTIPLIERS = [m for m in (*POWERS, *NEIGHBOURS, *DENSE, *AROUND_ONE, *SPECIAL) if 0 < m < math.inf]


def every_way(bits=(8, 13, 32), guards=(0, 1, 16)) -> list[Requantization]:
    """All legal combinations of scheme, rounding, order, multiplier width and guard bits."""
    ways = [Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.TFLITE_DOUBLE)]
    for rounding in SINGLE_ROUNDINGS:
        ways += [Requantization(scheme=scheme, rounding=rounding) for scheme in list(Scheme)[1:]]
        for width in bits:
            ways.append(Requantization(scheme=Scheme.FIXED_POINT, rounding=rounding, multiplier_bits=width))
            ways += [
                Requantization(
                    scheme=Scheme.FIXED_POINT,
                    rounding=rounding,
                    multiplier_bits=width,
                    order="shift_first",
                    guard_bits=guard,
                )
                for guard in guards
            ]
    return ways


def name_of(how: Requantization) -> str:
    return f"{how.scheme}-{how.rounding}-{how.multiplier_bits}-{how.order}-{how.guard_bits}"


def expected(v: int, m0: int, n: int, how: Requantization) -> int:
    return oracle.requantize(
        int(v),
        int(m0),
        int(n),
        scheme=how.scheme.value,
        rounding=how.rounding.value,
        bits=how.multiplier_bits,
        order=how.order,
        guard=how.guard_bits,
    )


EVERY_WAY = pytest.mark.parametrize("how", every_way(), ids=name_of)
FEW_WAYS = pytest.mark.parametrize("how", every_way(bits=(8, 32), guards=(0, 5)), ids=name_of)


# --- the stored integers ------------------------------------------------------------------------------


def test_the_oracle_s_float_formats_are_ieee_754():
    for value in (1.0, 0.1, 2.0**-149, 2.0**-126, 3.4028234663852886e38, 2.0**-127):
        bits = int(np.float32(value).view(np.int32))
        assert oracle.FLOAT["float32"].value(bits) == Fraction(float(np.float32(value)))
        assert oracle.FLOAT["float32"].bits(oracle.FLOAT["float32"].nearest(Fraction(value))) == bits
    for value in (1.0, 0.1, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308):
        assert oracle.FLOAT["float64"].value(int(np.float64(value).view(np.int64))) == Fraction(value)


@pytest.mark.parametrize("bits", range(8, 33))
def test_every_multiplier_of_a_dense_grid_decomposes_as_jacob_et_al_define_it(bits):
    # Each width sees every 25th multiplier of the grid, shifted by one from its neighbour's.
    for multiplier in MULTIPLIERS[bits - 8 :: 25]:
        m0, n = decompose(multiplier, bits)
        assert (m0, n) == oracle.decompose(Fraction(multiplier), bits), multiplier
        assert 2 ** (bits - 2) <= m0 < 2 ** (bits - 1)
        # M0 is within half a unit of m * 2**(B-1): the relative error is at most 2**-(B-1).
        assert abs(m0 * Fraction(2) ** (1 - bits - n) / Fraction(multiplier) - 1) <= Fraction(1, 2 ** (bits - 1))


def test_multiplier_0_2_is_0_8_times_2_to_the_minus_2():
    assert decompose(0.2, 32) == (round(Fraction(0.8) * 2**31), 2) == (1717986918, 2)
    assert decompose(0.2, 8) == (102, 2)  # 0.8 * 128 = 102.4
    assert decompose(1.0, 8) == (64, -1)
    assert decompose(0.5, 8) == (64, 0)
    assert decompose((64 + 0.5) / 128, 8) == (65, 0)  # 64.5 rounds away from zero, not to even


def test_mantissa_that_rounds_up_to_1_is_renormalised():
    assert decompose(127.5 / 128, 8) == (64, -1)
    assert decompose(math.nextafter(127.5 / 128, 0), 8) == (127, 0)
    assert decompose(math.nextafter(1.0, 0), 32) == (2**30, -1)
    assert decompose(5e-324, 32) == (2**30, 1073)


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("bits", [8, 32])
def test_every_scheme_stores_what_exact_arithmetic_gives_or_refuses_the_multiplier(scheme, bits):
    how = Requantization(scheme=scheme, rounding=Rounding.FLOOR, multiplier_bits=bits)
    stored = refused = 0
    for multiplier in MULTIPLIERS[:: 1 if scheme is Scheme.POWER_OF_TWO else 6]:
        pair = oracle.derive(Fraction(multiplier), scheme.value, bits)
        if pair is None:
            refused += 1
            with pytest.raises(ValueError, match=rf"^multiplier M = {re.escape(str(multiplier))} "):
                how.derive(multiplier)
        else:
            stored += 1
            assert how.derive(multiplier) == pair, multiplier
            assert how.refuses(*pair) is None
            assert all(type(v) is int for v in how.derive(multiplier))
    assert stored > (93 if scheme is Scheme.POWER_OF_TWO else 20)
    assert refused > 20 or scheme is Scheme.FLOAT64


@pytest.mark.parametrize("multiplier", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
def test_multiplier_that_is_not_positive_and_finite_is_refused_by_every_scheme(multiplier):
    message = rf"^multiplier M = {multiplier} must be positive and finite$"
    with pytest.raises(ValueError, match=message):
        decompose(multiplier, 32)
    for how in every_way():
        with pytest.raises(ValueError, match=message):
            how.derive(multiplier)


def test_total_shift_ends_at_minus_31_and_62():
    for bits in (8, 32):
        how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.FLOOR, multiplier_bits=bits)
        n_most, n_least = 62 - (bits - 1), -31 - (bits - 1)
        assert how.derive(0.5 * 2.0**-n_most) == (2 ** (bits - 2), n_most)
        assert how.derive(0.5 * 2.0**-n_least) == (2 ** (bits - 2), n_least)
        for n in (n_most + 1, n_least - 1):
            multiplier = 0.5 * 2.0**-n
            message = f"multiplier M = {multiplier} needs a shift by {n + bits - 1}, outside -31..62"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                how.derive(multiplier)
            assert how.refuses(2 ** (bits - 2), n) == "the total shift must be in -31..62"


@pytest.mark.parametrize(
    "scheme, multiplier, message",
    [
        (Scheme.POWER_OF_TWO, 0.75, "multiplier M = 0.75 is not a power of two"),
        (Scheme.POWER_OF_TWO, 2.0**32, "multiplier M = 4294967296.0 needs a shift by -32, outside -31..62"),
        (Scheme.POWER_OF_TWO, 2.0**-63, f"multiplier M = {2.0**-63} needs a shift by 63, outside -31..62"),
        (Scheme.RECIPROCAL, 2.0, "multiplier M = 2.0 has no integer reciprocal in 1..2**62 - 1"),  # 1/2 rounds to even
        (Scheme.RECIPROCAL, 2.0**-62, f"multiplier M = {2.0**-62} has no integer reciprocal in 1..2**62 - 1"),
        (Scheme.FLOAT32, 1e39, "multiplier M = 1e+39 is not a positive finite float32"),
        (Scheme.FLOAT32, 2.0**-150, f"multiplier M = {2.0**-150} is not a positive finite float32"),
    ],
)
def test_multiplier_that_a_scheme_cannot_hold_is_refused(scheme, multiplier, message):
    how = Requantization(scheme=scheme, rounding=Rounding.FLOOR)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        how.derive(multiplier)


@pytest.mark.parametrize(
    "scheme, refused, accepted, reason",
    [
        (Scheme.FIXED_POINT, [(0, 0), (-1, 0), (2**31, 0)], [(1, 0), (2**31 - 1, 0)], "m0 must be positive and fit 32"),
        (Scheme.FIXED_POINT, [(1, 32), (1, -63)], [(1, 31), (1, -62)], "the total shift must be in -31..62"),
        (Scheme.POWER_OF_TWO, [(0, 0), (2, 0)], [(1, 0)], "m0 of power_of_two is 1"),
        (Scheme.POWER_OF_TWO, [(1, 63), (1, -32)], [(1, 62), (1, -31)], "the shift must be in -31..62"),
        (Scheme.RECIPROCAL, [(0, 0), (2**62, 0), (1, 1)], [(1, 0), (2**62 - 1, 0)], "m0 of reciprocal is the divisor"),
        (Scheme.FLOAT32, [(0, 0), (0x7F800000, 0), (2**31, 0), (1, 1)], [(1, 0), (0x7F7FFFFF, 0)], "m0 of float32"),
        (Scheme.FLOAT64, [(0, 0), (0x7FF << 52, 0), (2**63, 0), (1, -1)], [(1, 0)], "m0 of float64 is the bits"),
    ],
)
def test_stored_integers_that_hardware_cannot_hold_are_named(scheme, refused, accepted, reason):
    how = Requantization(scheme=scheme, rounding=Rounding.FLOOR)
    for pair in refused:
        assert (how.refuses(*pair) or "").startswith(reason), pair
    for pair in accepted:
        assert how.refuses(*pair) is None


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(multiplier_bits=7), "multiplier_bits = 7 is outside 8..32"),
        (dict(multiplier_bits=33), "multiplier_bits = 33 is outside 8..32"),
        (dict(order="shift_first", guard_bits=17), "guard_bits = 17 is outside 0..16"),
        (dict(order="shift_first", guard_bits=-1), "guard_bits = -1 is outside 0..16"),
        (dict(guard_bits=1), "guard_bits needs order = 'shift_first'; multiply_first keeps every bit anyway"),
        (dict(order="shift"), "order = 'shift' is not one of multiply_first, shift_first"),
        (dict(output_overflow="clamp"), "output_overflow = 'clamp' is not one of saturate, wrap"),
        (
            dict(scheme=Scheme.FLOAT32, order="shift_first"),
            "order = 'shift_first' needs scheme = 'fixed_point', not 'float32'",
        ),
        *(
            (
                dict(rounding=Rounding.TFLITE_DOUBLE, **more),
                "rounding = 'tflite_double' needs scheme = 'fixed_point', multiplier_bits = 32, "
                "order = 'multiply_first'",
            )
            for more in (dict(scheme=Scheme.POWER_OF_TWO), dict(multiplier_bits=31), dict(order="shift_first"))
        ),
    ],
)
def test_combination_without_meaning_is_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Requantization(**(dict(scheme=Scheme.FIXED_POINT, rounding=Rounding.FLOOR) | wrong))


def test_average_pool_rounds_as_declared_or_half_away_where_tflite_rounds_twice():
    for how in every_way():
        doubled = how.rounding is Rounding.TFLITE_DOUBLE
        assert how.pool_rounding is (Rounding.HALF_AWAY if doubled else how.rounding)


# --- the values ---------------------------------------------------------------------------------------


@EVERY_WAY
def test_every_8_bit_value_by_typical_multipliers(how):
    values = np.arange(-128, 128)
    powers = [2.0, 1.0, 0.5, 2.0**-4, 2.0**-9]
    others = [0.2, 1 / 3, 0.0117, 0.49999999999999994]
    for multiplier in powers if how.scheme is Scheme.POWER_OF_TWO else powers[1:] + others:
        m0, n = how.derive(multiplier)
        result = requantize(values, m0, n, how)
        assert result.tolist() == [expected(v, m0, n, how) for v in values], multiplier
        assert result.dtype == np.int64


@pytest.mark.parametrize("order, guard", [("multiply_first", 0), ("shift_first", 0), ("shift_first", 3)])
@pytest.mark.parametrize("rounding", SINGLE_ROUNDINGS)
def test_every_6_bit_value_by_every_shift_with_smallest_middle_and_largest_m0(rounding, order, guard):
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=rounding, multiplier_bits=8, order=order, guard_bits=guard)
    values = np.arange(-32, 32)
    for m0, n in itertools.product((64, 97, 127), range(-31 - 7, 62 - 7 + 1)):
        result = requantize(values, m0, n, how)
        assert result.tolist() == [expected(v, m0, n, how) for v in values], (m0, n)


@FEW_WAYS
@settings(UNHURRIED, max_examples=25)
@given(st.data())
def test_whole_int64_range_with_parameters_of_each_channel(how, data):
    values = data.draw(st.lists(INT64, min_size=1, max_size=6), label="acc")
    if how.rounding is Rounding.TFLITE_DOUBLE:
        values = [oracle.c_int32(v) for v in values]
    if how.scheme is Scheme.POWER_OF_TWO:
        multipliers = st.integers(-62, 31).map(lambda e: 2.0**e)
    elif how.scheme is Scheme.RECIPROCAL:
        multipliers = st.floats(2.0**-61, 1.9)
    else:
        fraction = how.multiplier_bits - 1
        multipliers = st.floats(2.0 ** (fraction - 63), 2.0 ** min(fraction + 30, 60))
    chosen = data.draw(st.lists(multipliers, min_size=len(values), max_size=len(values)), label="M")
    pairs = [how.derive(m) for m in chosen]
    m0, n = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    exact = [[expected(v, m, s, how) for m, s in pairs] for v in values]
    column = np.array(values, dtype=np.int64).reshape(-1, 1)
    assert requantize(column, m0, n, how).tolist() == exact
    assert requantize(column.astype(object), m0.astype(object), n.astype(object), how).tolist() == exact


@pytest.mark.parametrize("how", every_way(bits=(8, 32), guards=(0, 16)), ids=name_of)
def test_python_integers_beyond_64_bits_are_scaled_by_the_integer_schemes_and_refused_by_the_others(how):
    values = np.array([2**70 + 1, -(2**70) - 1, 5], dtype=object)
    pair = how.derive(2.0**-3)
    if how.rounding is Rounding.TFLITE_DOUBLE:
        message = "tflite_double takes int32 values; use an accumulator of at most 32 bits"
    elif how.scheme in (Scheme.FLOAT32, Scheme.FLOAT64):
        message = "a float scheme takes accumulator values of at most 64 bits"
    else:
        assert requantize(values, *pair, how).tolist() == [expected(v, *pair, how) for v in values]
        return
    with pytest.raises(OverflowError, match=f"^{message}$"):
        requantize(values, *pair, how)


@EVERY_WAY
def test_identity_is_exact_below_2_to_the_24(how):
    middle = np.arange(-(2**20) + 1, 2**20, 101)
    values = np.concatenate([middle, np.arange(2**20 - 300, 2**20), np.arange(2**24 - 300, 2**24)])
    values = np.concatenate([values, -values])
    assert requantize(values, *how.identity(), how).tolist() == values.tolist()


@EVERY_WAY
def test_accumulators_and_parameters_of_any_integer_dtype_and_shape_give_the_same_bits(how):
    m0, n = how.derive(0.25)
    exact = [[expected(v, m0, n, how)] * 3 for v in (100, 127, 0, 5)]
    column = np.array([[100], [127], [0], [5]])
    fits = [d for d in (np.int8, np.uint8, np.int32, np.uint32, np.int64) if m0 <= np.iinfo(d).max]
    for acc, wide, shifts in itertools.product(
        (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, object),
        (fits[0], fits[-1], object),
        (np.int8, np.int64, object) if n < 0 else (np.int8, np.uint8, np.int64, object),
    ):
        result = requantize(column.astype(acc), np.full(3, m0).astype(wide), np.full(3, n).astype(shifts), how)
        assert result.tolist() == exact, (acc, wide, shifts)
    for shape in ((), (0,), (0, 3), (2, 1, 3)):
        result = requantize(np.full(shape, 100), np.full(shape[-1:], m0), np.full(shape[-1:], n), how)
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == (shape, np.int64)
        result = requantize(np.full(shape, 100, dtype=object), m0, n, how)
        assert isinstance(result, np.ndarray)
        assert result.shape == shape


@EVERY_WAY
def test_smallest_int64_and_its_neighbours(how):
    if how.rounding is Rounding.TFLITE_DOUBLE:
        return
    values = [-(2**63), -(2**63) + 1, 2**63 - 1]
    for multiplier in (1.0, 2.0**-20):
        pair = how.derive(multiplier)
        assert requantize(np.array(values), *pair, how).tolist() == [expected(v, *pair, how) for v in values]


# --- tflite_double ------------------------------------------------------------------------------------

TFLITE = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.TFLITE_DOUBLE)


def test_gemmlowp_ties_first_toward_plus_infinity_then_away_from_zero():
    # High multiply: a * b = 2**30 is half of 2**31. +0.5 gives 1, -0.5 gives 0.
    assert oracle.saturating_rounding_doubling_high_mul(1, 2**30) == 1
    assert oracle.saturating_rounding_doubling_high_mul(-1, 2**30) == 0
    assert oracle.saturating_rounding_doubling_high_mul(-3, 2**30) == -1
    assert requantize(np.array([1, -1, 3, -3]), 2**30, 0, TFLITE).tolist() == [1, 0, 2, -1]
    # The one case that saturates, which no positive M0 reaches.
    assert oracle.saturating_rounding_doubling_high_mul(-(2**31), -(2**31)) == 2**31 - 1
    # Right shift: -3/2 gives -2 and 3/2 gives 2.
    assert [oracle.rounding_divide_by_pot(x, 1) for x in (-3, -1, 1, 3)] == [-2, -1, 1, 2]
    # Together, at M = 1/8 (m = 1/2, n = 2): acc = 6 gives 3, then 3/4 gives 1; acc = -4 gives -2, then -1/2 gives -1.
    assert requantize(np.array([6, -4, -2, -3]), 2**30, 2, TFLITE).tolist() == [1, -1, 0, 0]


def test_two_roundings_differ_from_one():
    # 3 * 0.5 / 4 = 0.375. One rounding gives 0; the high multiply gives 2 first, then 2/4 rounds away to 1.
    assert requantize(np.array([3]), 2**30, 2, TFLITE).tolist() == [1]
    once = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_AWAY)
    assert requantize(np.array([3]), 2**30, 2, once).tolist() == [0]


def test_tflite_double_equals_the_c_code_at_every_shift_and_both_ends():
    rng = np.random.default_rng(7)
    near = [s * 2**e + d for e in range(0, 31, 3) for s in (1, -1) for d in (-1, 0, 1)]
    values = np.array([*INT32_ENDS, *range(-9, 10), *near, *rng.integers(-(2**31), 2**31, 60)])
    for m0 in (2**30, 2**30 + 1, 1717986918, 2**31 - 1):
        for n in range(-62, 32):
            result = requantize(values, m0, n, TFLITE)
            assert result.tolist() == [expected(v, m0, n, TFLITE) for v in values], (m0, n)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_tflite_double_refuses_what_is_no_int32(value):
    for dtype in (np.int64, object):
        with pytest.raises(OverflowError, match=r"^tflite_double takes int32 values; use an accumulator of at most 32"):
            requantize(np.array([value, 0], dtype=dtype), 2**30, 0, TFLITE)


# --- float schemes ------------------------------------------------------------------------------------


def test_float32_rounds_the_accumulator_before_it_multiplies():
    how = Requantization(scheme=Scheme.FLOAT32, rounding=Rounding.HALF_EVEN)
    one = how.derive(1.0)
    # 2**24 + 1 lies between two float32 and goes to the even one, 2**24 + 3 to 2**24 + 4.
    assert requantize(np.array([2**24 + 1, 2**24 + 3, -(2**24) - 1]), *one, how).tolist() == [
        2**24,
        2**24 + 4,
        -(2**24),
    ]
    # Through float64 this would be rounded twice: 2**54 + 2**30 + 1 -> 2**54 + 2**30 (a tie) -> 2**54.
    assert requantize(np.array([2**54 + 2**30 + 1]), *one, how).tolist() == [2**54 + 2**31]
    assert requantize(np.array([2**63 - 1, -(2**63)]), *one, how).tolist() == [2**63, -(2**63)]


@pytest.mark.parametrize("rounding", SINGLE_ROUNDINGS)
@pytest.mark.parametrize("scheme", [Scheme.FLOAT32, Scheme.FLOAT64])
@settings(UNHURRIED, max_examples=50)
@given(INT64, st.integers(1, 0x7F7FFFFF) | st.floats(2.0**-30, 2.0).map(lambda m: int(np.float32(m).view(np.int32))))
@example(2**24 + 1, 0x3F800000)
@example(-1, 1)
@example(2**63 - 1, 0x7F7FFFFF)
def test_float_schemes_equal_exact_fractions_rounded_to_the_format_at_each_step(scheme, rounding, v, bits):
    how = Requantization(scheme=scheme, rounding=rounding)
    m0 = bits if scheme is Scheme.FLOAT32 else (bits << 29) + bits % 2**29  # an exponent in range, any mantissa
    if how.refuses(m0, 0):
        return
    try:
        exact = expected(v, m0, 0, how)
    except OverflowError:
        with pytest.raises(OverflowError, match=r"^acc \* M is beyond the float format$"):
            requantize(np.array([v]), m0, 0, how)
    else:
        assert requantize(np.array([v]), m0, 0, how).tolist() == [exact]


def test_negative_zero_becomes_plain_zero():
    for rounding in SINGLE_ROUNDINGS:
        how = Requantization(scheme=Scheme.FLOAT32, rounding=rounding)
        result = requantize(np.array([0, -1, -2]), *how.derive(0.25), how)
        assert result.tolist() == [expected(v, *how.derive(0.25), how) for v in (0, -1, -2)]
        assert result.dtype == np.int64


# --- monotonicity: what lets a max pool move across a requantiser --------------------------------------


@EVERY_WAY
def test_a_larger_accumulator_never_gives_a_smaller_result(how):
    near_zero = np.arange(-3000, 3000)
    ends = np.array(INT32_ENDS + [v + d for v in INT32_ENDS for d in range(-40, 40)])
    values = np.unique(np.concatenate([near_zero, ends, np.arange(-(2**31), 2**31, 2**21 + 1)]))
    values = values[(values >= -(2**31)) & (values < 2**31)]
    powers = (0.5, 2.0**-3, 2.0**-20)
    others = (0.2, 0.999999999, 0.0117, 1 / 3)
    for multiplier in powers if how.scheme is Scheme.POWER_OF_TWO else powers + others:
        result = requantize(values, *how.derive(multiplier), how)
        assert (np.diff(result) >= 0).all(), multiplier
        stored = to_output(result, -3, (-128, 127), IntFormat(8), "saturate")
        assert (np.diff(stored) >= 0).all()
        pairs = result.reshape(-1, 2) if len(result) % 2 == 0 else result[:-1].reshape(-1, 2)
        assert (pairs.max(axis=1) == pairs[:, 1]).all()


def test_tflite_double_is_not_monotonic_where_its_left_shift_wraps():
    m0, n = TFLITE.derive(1.5)  # m = 0.75, n = -1
    fits, wraps = 2**30 - 1, 2**30
    assert requantize(np.array([fits, wraps]), m0, n, TFLITE).tolist() == [1610612735, -1610612736]
    # Below the wrap it is monotonic, so a max pool may move across it for accumulators of 31 bits and one left shift.
    values = np.unique(np.concatenate([np.arange(-3000, 3000), np.arange(-(2**30), 2**30, 2**19 + 1)]))
    assert (np.diff(requantize(values, m0, n, TFLITE)) >= 0).all()


def test_wrapping_output_is_not_monotonic():
    assert to_output(np.array([127, 128]), 0, (-128, 127), IntFormat(8), "wrap").tolist() == [127, -128]


# --- output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, object])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("bits, signed", [(8, True), (8, False), (4, True), (2, True)])
def test_zero_point_then_the_activation_s_clip_then_saturation_or_low_bits(bits, signed, overflow, dtype):
    low, high = oracle.limits(bits, signed)
    values = np.arange(-700, 701)
    for zero in sorted({low, low // 2, 0, high // 2, high}):
        relu, relu6, limited = (zero, high), (zero, min(high, zero + 20)), (low, max(low, high - 1))
        for clip in {(low, high), relu, relu6, limited}:
            result = to_output(values.astype(dtype), zero, clip, IntFormat(bits, signed), overflow)
            assert result.tolist() == [oracle.to_output(int(v), zero, clip, bits, signed, overflow) for v in values]
            assert result.dtype == np.int64


@UNHURRIED
@given(st.lists(st.integers(-(2**80), 2**80) | INT64, min_size=1), st.integers(-128, 127), st.booleans())
@example([2**63 - 1], 1, False)
@example([-(2**63)], -1, True)
def test_no_value_is_too_large_for_the_output_stage(values, zero, wrap):
    overflow = "wrap" if wrap else "saturate"
    exact = [oracle.to_output(v, zero, (-128, 127), 8, True, overflow) for v in values]
    array = np.array(values, dtype=object)
    assert to_output(array, zero, (-128, 127), IntFormat(8), overflow).tolist() == exact
    if all(-(2**63) <= v < 2**63 for v in values):
        assert to_output(array.astype(np.int64), zero, (-128, 127), IntFormat(8), overflow).tolist() == exact


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint64])
def test_narrow_dtypes_do_not_overflow_when_the_zero_point_is_added(dtype):
    # int8: 100 + 100 once gave -56.
    result = to_output(np.array([100, 127, 0], dtype=dtype), 100, (-128, 127), IntFormat(8), "saturate")
    assert result.tolist() == [127, 127, 100]


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 1)])
def test_output_keeps_any_shape(shape):
    for overflow, dtype in itertools.product(("saturate", "wrap"), (np.int64, object)):
        result = to_output(np.full(shape, 300).astype(dtype), 1, (-128, 127), IntFormat(8), overflow)
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == (shape, np.int64)
