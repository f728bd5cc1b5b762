"""Rounding of exact quotients and of floats, in every mode."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numerics import oracle

from accelsim.numerics import SINGLE_ROUNDINGS, Rounding, divide_rounded, round_float, shift_right_rounded

UNHURRIED = settings(deadline=None)  # other tests may hold the core
MODES = pytest.mark.parametrize("mode", SINGLE_ROUNDINGS)
DTYPES = pytest.mark.parametrize("dtype", [np.int64, object])
ENDS = [-(2**63), -(2**63) + 1, -(2**62) - 1, -(2**62), -1, 0, 1, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 2, 2**63 - 1]
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(ENDS)


def test_five_modes_round_once_and_tflite_double_rounds_twice():
    assert tuple(SINGLE_ROUNDINGS) == oracle.SINGLE_ROUNDINGS
    assert set(Rounding) - set(SINGLE_ROUNDINGS) == {Rounding.TFLITE_DOUBLE}


@pytest.mark.parametrize(
    "mode, expected",
    # -2.5, -1.5, -0.5, 0.5, 1.5, 2.5. RISC-V's vxrm names the first three rdn, rnu and rne; the last two are C's
    # lround and its integer division.
    [
        ("floor", [-3, -2, -1, 0, 1, 2]),
        ("half_up", [-2, -1, 0, 1, 2, 3]),
        ("half_even", [-2, -2, 0, 0, 2, 2]),
        ("half_away", [-3, -2, -1, 1, 2, 3]),
        ("toward_zero", [-2, -1, 0, 0, 1, 2]),
    ],
)
def test_ties_of_either_sign_go_where_the_published_definition_says(mode, expected):
    halves = np.array([-5, -3, -1, 1, 3, 5])
    assert shift_right_rounded(halves, 1, Rounding(mode)).tolist() == expected
    assert round_float(halves / 2, Rounding(mode)).tolist() == expected
    assert [oracle.rounded(Fraction(int(h), 2), mode) for h in halves] == expected


@DTYPES
@MODES
def test_every_8_bit_value_by_every_shift(mode, dtype):
    values = np.arange(-128, 128).astype(dtype)
    for shift in range(-6, 13):
        result = shift_right_rounded(values, shift, mode)
        assert result.tolist() == [oracle.rounded(oracle.scaled(int(v), -shift), mode) for v in values], shift
        assert result.dtype == dtype


@DTYPES
@MODES
def test_every_8_bit_value_by_every_divisor_of_a_pool(mode, dtype):
    values = np.arange(-128, 128).astype(dtype)
    for divisor in [*range(1, 50), 127, 128, 129, 255, 256, 257, 1000]:
        result = divide_rounded(values, divisor, mode)
        assert result.tolist() == [oracle.rounded(Fraction(int(v), divisor), mode) for v in values], divisor
        assert result.dtype == dtype


@MODES
@settings(UNHURRIED, max_examples=50)
@given(st.lists(INT64, min_size=1), st.integers(1, 2**62))
@example(ENDS, 2**62)
@example(ENDS, 2**62 - 1)
@example(ENDS, 3)
def test_whole_int64_range_divides_by_every_divisor_up_to_2_to_the_62(mode, values, divisor):
    result = divide_rounded(np.array(values), divisor, mode)
    assert result.dtype == np.int64
    assert result.tolist() == [oracle.rounded(Fraction(v, divisor), mode) for v in values]


@MODES
@settings(UNHURRIED, max_examples=50)
@given(st.lists(INT64, min_size=1), st.integers(0, 62))
@example(ENDS, 62)
@example(ENDS, 61)
def test_whole_int64_range_shifts_right_by_up_to_62(mode, values, shift):
    result = shift_right_rounded(np.array(values), shift, mode)
    assert result.dtype == np.int64
    assert result.tolist() == [oracle.rounded(Fraction(v, 2**shift), mode) for v in values]


@MODES
@settings(UNHURRIED, max_examples=50)
@given(st.lists(st.tuples(st.integers(-(2**200), 2**200), st.integers(-70, 210)), min_size=1))
def test_python_integers_shift_by_anything(mode, pairs):
    values, shifts = np.array([v for v, _ in pairs], dtype=object), np.array([s for _, s in pairs])
    result = shift_right_rounded(values, shifts, mode)
    assert result.tolist() == [oracle.rounded(oracle.scaled(v, -s), mode) for v, s in pairs]
    assert {type(v) for v in result} == {int}


@MODES
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, object])
def test_shifts_and_divisors_may_come_in_any_integer_dtype(mode, dtype):
    # -shift of a uint8 is 256 - shift: such a shift once multiplied instead.
    values, shifts = np.array([100, -100, 99, -99, 7]), np.array([3, 3, 2, 2, 0])
    expected = [oracle.rounded(Fraction(int(v), 2 ** int(s)), mode) for v, s in zip(values, shifts, strict=True)]
    for wide in (values, values.astype(object)):
        assert shift_right_rounded(wide, shifts.astype(dtype), mode).tolist() == expected
        assert divide_rounded(wide, (1 << shifts).astype(dtype), mode).tolist() == expected
        assert divide_rounded(wide, (1 << shifts).astype(dtype), mode).dtype == wide.dtype


def test_uint64_divisor_does_not_turn_int64_into_float64():
    values, divisors = np.array([2**62 + 1, -(2**62) - 3]), np.array([2, 2**62], dtype=np.uint64)
    assert divide_rounded(values, divisors, Rounding.HALF_UP).tolist() == [2**61 + 1, -1]


@DTYPES
@MODES
def test_operands_broadcast_and_any_shape_is_kept(mode, dtype):
    values = np.arange(-6, 6).reshape(4, 3).astype(dtype)
    per_channel = shift_right_rounded(values, np.array([0, 1, -2]), mode)
    assert per_channel.tolist() == [
        [oracle.rounded(oracle.scaled(int(v), -s), mode) for v, s in zip(row, (0, 1, -2), strict=True)]
        for row in values
    ]
    assert divide_rounded(values[0], np.arange(1, 9).reshape(8, 1), mode).shape == (8, 3)
    for shape in ((), (0,), (0, 3), (1, 1)):
        result = shift_right_rounded(np.full(shape, 5).astype(dtype), 1, mode)
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == (shape, np.dtype(dtype))


@MODES
def test_operands_are_not_written_to(mode):
    values, divisors = np.array([5, -5]), np.array([2, 3])
    values.flags.writeable = divisors.flags.writeable = False
    divide_rounded(values, divisors, mode)
    shift_right_rounded(values, divisors, mode)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.float64])
def test_dtypes_that_would_overflow_or_hide_a_fraction_are_refused(dtype):
    # 2 * 99 overflows int8, so 99 / 100 once rounded to 0.
    values = np.array([99], dtype=dtype)
    with pytest.raises(TypeError, match=rf"^divide_rounded takes int64 or object arrays, not {values.dtype}$"):
        divide_rounded(values, 100, Rounding.HALF_UP)


@pytest.mark.parametrize("divisor", [0, -1, np.array([2, 0]), np.array([2, -3], dtype=object)])
def test_divisor_below_1_is_refused(divisor):
    for dtype in (np.int64, object):
        with pytest.raises(ZeroDivisionError, match=r"^divisor must be at least 1$"):
            divide_rounded(np.array([5, 5]).astype(dtype), divisor, Rounding.FLOOR)


def test_tflite_double_is_not_a_single_rounding():
    message = r"^tflite_double is not a single rounding$"
    with pytest.raises(ValueError, match=message):
        divide_rounded(np.array([5]), 2, Rounding.TFLITE_DOUBLE)
    with pytest.raises(ValueError, match=message):
        shift_right_rounded(np.array([5]), 1, Rounding.TFLITE_DOUBLE)
    with pytest.raises(ValueError, match=message):
        round_float(np.array([2.5]), Rounding.TFLITE_DOUBLE)


# --- floats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@MODES
def test_every_eighth_and_its_neighbours_round_as_exact_values(mode, dtype):
    eighths = (np.arange(-160, 161) / 8).astype(dtype)
    infinity = dtype(np.inf)
    values = np.concatenate([eighths, np.nextafter(eighths, infinity), np.nextafter(eighths, -infinity)])
    result = round_float(values, mode)
    assert result.tolist() == [oracle.rounded(Fraction(float(v)), mode) for v in values]
    assert result.dtype == dtype


@MODES
@UNHURRIED
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.49999999999999994)  # + 0.5 is 1.0 in float64
@example(-0.49999999999999994)
@example(0.5)
@example(-0.5)
@example(4503599627370495.5)  # the largest float64 with a fraction
@example(-4503599627370495.5)
@example(9007199254740993.0)
@example(5e-324)
@example(-5e-324)
@example(-0.0)
@example(1.7976931348623157e308)
def test_any_finite_float64_rounds_as_an_exact_value(mode, value):
    assert int(round_float(np.array([value]), mode)[0]) == oracle.rounded(Fraction(value), mode)


@MODES
@UNHURRIED
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
@example(0.4999999701976776)
@example(8388607.5)
def test_any_finite_float32_rounds_as_an_exact_value_and_stays_float32(mode, value):
    result = round_float(np.array([value], dtype=np.float32), mode)
    assert result.dtype == np.float32
    assert int(result[0]) == oracle.rounded(Fraction(value), mode)


@MODES
def test_float_shapes_are_kept(mode):
    for shape in ((), (0,), (0, 3), (2, 1)):
        result = round_float(np.full(shape, -2.5), mode)
        assert isinstance(result, np.ndarray)
        assert result.shape == shape
