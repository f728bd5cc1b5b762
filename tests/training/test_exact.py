"""Multipliers, requantisation and sums of `accelsim.training` in torch against those of `accelsim.numerics`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from accelsim import numerics
from accelsim.numerics import Requantization, Rounding, Scheme, decompose
from accelsim.training.exact import derive, float_type, requantize, round_quotient

SCHEMES = [
    *(
        Requantization(scheme=Scheme.FIXED_POINT, rounding=rounding, multiplier_bits=bits)
        for rounding in Rounding
        for bits in (8, 24, 32)
        if rounding is not Rounding.TFLITE_DOUBLE or bits == 32
    ),
    *(
        Requantization(
            scheme=Scheme.FIXED_POINT, rounding=rounding, multiplier_bits=17, order="shift_first", guard_bits=guard
        )
        for rounding in numerics.SINGLE_ROUNDINGS
        for guard in (0, 3)
    ),
    *(
        Requantization(scheme=scheme, rounding=rounding)
        for scheme in (Scheme.POWER_OF_TWO, Scheme.RECIPROCAL, Scheme.FLOAT32, Scheme.FLOAT64)
        for rounding in numerics.SINGLE_ROUNDINGS
    ),
]


def label(how: Requantization) -> str:
    return f"{how.scheme}-{how.rounding}-{how.multiplier_bits}-{how.order}-{how.guard_bits}"


def multipliers(how: Requantization, rng: np.random.Generator, count: int) -> np.ndarray:
    real = 2.0 ** rng.uniform(-14, 1, count)
    if how.scheme is Scheme.POWER_OF_TWO:
        return 2.0 ** np.rint(np.log2(real))
    return np.minimum(real, 1.0) if how.scheme is Scheme.RECIPROCAL else real


@pytest.mark.parametrize("how", SCHEMES, ids=label)
def test_multipliers_and_requantised_sums_are_those_of_numerics(how):
    """Small values have ties; large bounds take the int64 way, small ones float32 and float64."""
    rng = np.random.default_rng(1)
    real = multipliers(how, rng, 24)
    m0, shift = derive(torch.tensor(real), how)
    assert list(zip(m0.tolist(), shift.tolist(), strict=True)) == [how.derive(one) for one in real.tolist()]
    for bound in (1 << 9, 1 << 16, 1 << 23, (1 << 31) - 1):
        values = rng.integers(-bound, bound + 1, (80, 24))
        values[:30] = rng.integers(-40, 41, (30, 24))
        found = requantize(torch.tensor(values).to(float_type(bound)), m0, shift, how, bound)
        wanted = numerics.requantize(values, m0.numpy(), shift.numpy(), how)
        np.testing.assert_array_equal(found.to(torch.float64).numpy(), wanted.astype(np.float64))


def test_ties_are_ties_in_every_way_of_computing():
    """M = 1/4 and 3/8: every third or so of these quotients is a tie, of either sign."""
    for rounding in numerics.SINGLE_ROUNDINGS:
        how = Requantization(scheme=Scheme.FIXED_POINT, rounding=rounding)
        m0, shift = derive(torch.tensor([0.25, 0.375], dtype=torch.float64), how)
        values = np.arange(-60, 61)[:, None].repeat(2, axis=1)
        wanted = numerics.requantize(values, m0.numpy(), shift.numpy(), how)
        for bound in (60, (1 << 31) - 1):  # float64, int64
            found = requantize(torch.tensor(values).double(), m0, shift, how, bound)
            np.testing.assert_array_equal(found.long().numpy(), wanted)
        tie = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997])
        exact = numerics.round_float(tie.numpy(), rounding)
        np.testing.assert_array_equal(round_quotient(tie.clone(), rounding).numpy(), exact)


@pytest.mark.parametrize("bits", [8, 15, 31, 32])
def test_decomposition_is_that_of_fractions_and_renormalises(bits):
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.FLOOR, multiplier_bits=bits)
    rng = np.random.default_rng(bits)
    real = np.concatenate(
        [
            2.0 ** rng.uniform(-25, 20, 2000),
            1 - 2.0 ** -np.arange(1.0, 53.0),  # mantissas that round up to 1
            np.ldexp(2.0 ** (bits - 1) - 0.5 + np.array([0, -(2.0**-21), 2.0**-21]), 1 - bits),
            np.ldexp(rng.integers(1 << (bits - 2), 1 << (bits - 1), 200) + 0.5, -bits),  # halves of M0
        ]
    )
    m0, shift = derive(torch.tensor(real), how)
    for one, m, n in zip(real.tolist(), m0.tolist(), shift.tolist(), strict=True):
        assert (m, n) == decompose(one, bits)
        assert (
            abs(Fraction(m, 1 << (bits - 1)) / Fraction(2) ** n - Fraction(one))
            <= Fraction(1, 1 << bits) / Fraction(2) ** n
        )


def test_what_cannot_be_formed_exactly_is_refused():
    first = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.FLOOR, order="shift_first", guard_bits=16)
    m0, shift = derive(torch.tensor([0.3], dtype=torch.float64), first)
    with pytest.raises(OverflowError, match="exceed int64"):
        requantize(torch.ones(1), m0, shift, first, 1 << 30)
    tflite = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.TFLITE_DOUBLE)
    with pytest.raises(OverflowError, match="takes int32 values"):
        requantize(torch.ones(1), m0, shift, tflite, 1 << 31)
    with pytest.raises(OverflowError, match="beyond float64's integers"):
        float_type(1 << 53)
    with pytest.raises(ValueError, match=r"multiplier M = -1\.0 must be positive"):
        derive(torch.tensor([1.0, -1.0], dtype=torch.float64), tflite)
    power = Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR)
    with pytest.raises(ValueError, match=r"M = 0.3 is not a power of two"):
        derive(torch.tensor([0.5, 0.3], dtype=torch.float64), power)
