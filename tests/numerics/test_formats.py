"""Number formats: limits, saturation, wrapping, quantisation of real values."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numerics import oracle

from accelsim.numerics import FixedPointFormat, IntFormat, fit, quantize

INT64 = st.integers(-(2**63), 2**63 - 1)
UNHURRIED = settings(deadline=None)  # other tests may hold the core
BOTH = pytest.mark.parametrize("signed", [True, False])


@BOTH
@pytest.mark.parametrize("bits", range(1, 65))
def test_limits_are_those_of_two_s_complement(bits, signed):
    assert IntFormat(bits, signed).limits == oracle.limits(bits, signed)


@pytest.mark.parametrize("dtype", [np.int64, object])
@BOTH
@pytest.mark.parametrize("bits", range(1, 11))
def test_every_value_of_a_width_and_three_turns_around_it_fits_as_hardware_fits_it(bits, signed, dtype):
    values = np.arange(-(2**11), 2**11).astype(dtype)
    form = IntFormat(bits, signed)
    for overflow, result in (("saturate", form.saturate(values)), ("wrap", form.wrap(values))):
        assert result.tolist() == [oracle.fit(int(v), bits, overflow, signed) for v in values]
        assert result.dtype == values.dtype


@UNHURRIED
@given(
    st.lists(INT64 | st.sampled_from([-(2**63), 2**63 - 1, -(2**62), 2**62]), min_size=1),
    st.integers(1, 64),
    st.booleans(),
)
@example([-(2**63), 2**63 - 1, -1], 64, True)
@example([-(2**63), 2**63 - 1, -1], 63, False)
def test_whole_int64_range_fits_every_width(values, bits, signed):
    form, array = IntFormat(bits, signed), np.array(values, dtype=np.int64)
    assert np.clip(array, *form.limits).tolist() == [oracle.fit(v, bits, "saturate", signed) for v in values]
    assert form.saturate(array).tolist() == [oracle.fit(v, bits, "saturate", signed) for v in values]
    if bits == 64 and not signed:
        with pytest.raises(TypeError, match=r"^unsigned 64-bit values need an object array$"):
            form.wrap(array)
        array = array.astype(object)
    assert form.wrap(array).tolist() == [oracle.fit(v, bits, "wrap", signed) for v in values]


@UNHURRIED
@given(st.lists(st.integers(-(2**80), 2**80), min_size=1), st.integers(1, 64), st.sampled_from(["saturate", "wrap"]))
def test_python_integers_of_any_size_fit_and_stay_python_integers(values, bits, overflow):
    result = fit(np.array(values, dtype=object), bits, overflow)
    assert result.tolist() == [oracle.fit(v, bits, overflow) for v in values]
    assert {type(v) for v in result} == {int}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64])
@BOTH
def test_narrow_and_unsigned_arrays_saturate_into_wider_and_narrower_formats(signed, dtype):
    info = np.iinfo(dtype)
    step = max(1, (info.max - info.min) // 300)
    values = np.array([*range(info.min, info.max, step), info.max], dtype=dtype)
    for bits in (1, 4, 7, 8, 9, 16, 31, 32, 33, 63, 64):
        result = IntFormat(bits, signed).saturate(values)
        assert result.tolist() == [oracle.fit(int(v), bits, "saturate", signed) for v in values]
        assert result.dtype == dtype


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.float64])
def test_wrap_refuses_a_dtype_that_may_not_hold_the_result(dtype):
    # 200 as uint8 stayed 200 in 8 signed bits, which is -56.
    with pytest.raises(TypeError, match=rf"^wrap takes int64 or object arrays, not {np.dtype(dtype)}$"):
        IntFormat(8).wrap(np.array([200 % 128], dtype=dtype))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 1, 3)])
def test_any_shape_is_kept(shape):
    values = np.full(shape, 300)
    assert IntFormat(8).saturate(values).shape == shape
    assert np.asarray(IntFormat(8).wrap(values)).shape == shape


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_width_outside_1_to_64_is_refused(bits):
    with pytest.raises(ValueError, match=rf"^bits = {bits} is outside 1\.\.64$"):
        IntFormat(bits)
    with pytest.raises(ValueError, match=rf"^wl = {bits} is outside 1\.\.64$"):
        FixedPointFormat(wl=bits, fl=0)


# --- fixed point --------------------------------------------------------------------------------------


def test_wl_8_fl_4_covers_minus_8_to_7_9375_in_sixteenths():
    form = FixedPointFormat(wl=8, fl=4)
    assert (form.smallest, form.largest, form.scale) == (-8.0, 7.9375, 0.0625)
    assert form.quantize([-8.0, 7.9375, -8.1, 8.0, 1e300, -1e300]).tolist() == [-128, 127, -128, 127, 127, -128]
    # Ties to even: 1.5, 2.5, -0.5 and -1.5 sixteenths.
    assert form.quantize(np.array([1.5, 2.5, -0.5, -1.5]) / 16).tolist() == [2, 2, 0, -2]


@pytest.mark.parametrize("fl", [-3, 0, 4, 7, 12])
@pytest.mark.parametrize("wl", [1, 2, 5, 8])
def test_every_quarter_step_quantises_to_the_nearest_even(wl, fl):
    step = Fraction(2) ** -fl
    quarters = range(-(2 ** (wl + 2)), 2 ** (wl + 2) + 1)
    result = FixedPointFormat(wl, fl).quantize([float(q * step / 4) for q in quarters])
    assert result.tolist() == [
        oracle.fit(oracle.rounded(Fraction(q, 4), "half_even"), wl, "saturate") for q in quarters
    ]


@pytest.mark.parametrize("wl", range(50, 65))
def test_wide_formats_clamp_at_their_own_limits_which_float64_cannot_hold(wl):
    low, high = oracle.limits(wl)
    assert FixedPointFormat(wl, 0).quantize([1e30, -1e30, -0.0, 2.0**40]).tolist() == [high, low, 0, 2**40]
    unsigned = quantize(np.array([1e30, -1e30]), 1.0, 5, IntFormat(wl, signed=False))
    assert unsigned.tolist() == [2**wl - 1, 0]
    near = float(2 ** (wl - 1))
    assert FixedPointFormat(wl, 0).quantize([near, -near]).tolist() == [high, low]


@UNHURRIED
@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(2.0**-40, 2.0**40),
    st.integers(1, 64),
    st.booleans(),
    st.data(),
)
@example(1e308, 2.0**-40, 8, True, None)
@example(-0.0, 1.0, 8, True, None)
def test_quantising_divides_in_float64_rounds_half_even_adds_the_zero_point_and_clamps(x, scale, bits, signed, data):
    zero = 0 if data is None else data.draw(st.integers(*oracle.limits(bits, signed)))
    try:
        quotient = oracle.FLOAT["float64"].nearest(Fraction(x) / Fraction(scale))
    except OverflowError:  # infinite: beyond every limit
        quotient = Fraction(x) * 2**1100
    expected = oracle.fit(oracle.rounded(quotient, "half_even") + zero, bits, "saturate", signed)
    assert quantize(np.array([x]), scale, zero, IntFormat(bits, signed)).tolist() == [expected]


@pytest.mark.parametrize("x, scale, code", [(-11.450000000000001, 0.1, -114), (-0.9724409448818897, 1 / 127, -124)])
def test_quantising_divides_by_the_scale_rather_than_multiplying_by_its_reciprocal(x, scale, code):
    assert round(x * (1 / scale)) != code
    assert quantize(np.array([x]), scale, 0, IntFormat(8)).tolist() == [code]


def test_quantising_keeps_any_shape_and_takes_integers_and_float32():
    form = IntFormat(8)
    assert quantize(np.zeros((0, 3)), 0.5, 0, form).shape == (0, 3)
    assert quantize(np.array(1.25), 0.5, 0, form).tolist() == 2
    assert quantize(np.array([3, -300]), 0.5, 1, form).tolist() == [7, -128]
    # float32 values are divided as float64: 0.1f / 0.1 is 1.0000000149, whatever the dtype.
    assert quantize(np.array([0.1], dtype=np.float32), 0.1, 0, form).tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_rather_than_clamped(value):
    with pytest.raises(ValueError, match=r"^NaN or infinite value cannot be quantised$"):
        FixedPointFormat(8, 4).quantize([0.0, value])


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_scale_must_be_positive_and_finite(scale):
    with pytest.raises(ValueError, match=rf"^scale = {re.escape(str(scale))} must be positive and finite$"):
        quantize(np.array([1.0]), scale, 0, IntFormat(8))


@pytest.mark.parametrize("fl", [-513, 513])
def test_fraction_length_whose_scale_is_no_ordinary_float_is_refused(fl):
    with pytest.raises(
        ValueError, match=rf"^fl = {fl} is outside -512\.\.512, where 2\*\*\(-fl\) is an ordinary float64$"
    ):
        FixedPointFormat(8, fl)
