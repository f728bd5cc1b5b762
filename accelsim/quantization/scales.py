"""Scales and zero points: real = S * (q - Z), from ranges of activations and from weights.

Sources: Jacob et al. 2018 (arXiv 1712.05877), sections 2.1 and 3; Nagel et al. 2021 (arXiv 2106.08295), section 2.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelsim.config.quantization import WeightScheme
from accelsim.ir.float_graph import FloatArray
from accelsim.numerics import IntFormat
from accelsim.quantization.ranges import Range
from accelsim.quantization.weight_ranges import clip_rows

SMALLEST_SINGLE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32, 2**-126."""


def activation_scale(
    seen: Range,
    form: IntFormat,
    *,
    symmetric: bool,
    power_of_two: bool = False,
    fraction_bits: int | None = None,
    single: bool = False,
) -> tuple[float, int]:
    """Return (S, Z) so that the format covers a range and 0 is exact.

    Symmetric: S = max|r| / qmax, Z = 0 (the code qmin of a signed format is left to saturation, or left out).
    Affine: S = (high - low) / (qmax - qmin), Z = clamp(round-half-even(qmin - low / S)).
    `power_of_two` rounds S up and `single` to the nearest float32, before Z is computed. With `fraction_bits`
    S = 2**-fraction_bits and Z = 0, whatever the range: fixed point. A range of 0 alone (or so narrow that S would not
    be a normal float64, or float32 where `single`) gives S = 1: any S would do, and 1 keeps multipliers ordinary.

    >>> activation_scale(Range(-1.27, 1.0), IntFormat(8), symmetric=True)
    (0.01, 0)
    >>> activation_scale(Range(-0.5, 3.484375), IntFormat(8), symmetric=False)
    (0.015625, -96)
    >>> activation_scale(Range(0.0, 2.55), IntFormat(8, signed=False), symmetric=False, power_of_two=True)
    (0.015625, 0)
    >>> activation_scale(Range(-1.27, 1.0), IntFormat(8), symmetric=True, single=True)
    (0.009999999776482582, 0)
    >>> activation_scale(Range(-0.5, 100.0), IntFormat(8), symmetric=True, fraction_bits=4)
    (0.0625, 0)
    """
    if fraction_bits is not None:
        return 2.0**-fraction_bits, 0
    seen = seen.with_zero()
    if symmetric:
        scale = max(-seen.low, seen.high) / form.maximum
    else:
        scale = (seen.high - seen.low) / (form.maximum - form.minimum)
    if scale < _smallest(single):
        scale, seen = 1.0, Range(0.0, 0.0)
    if power_of_two:
        scale = round_up_to_power_of_two(scale)
    if single:
        scale = float(_to_single(scale))
    if symmetric:
        return scale, 0
    return scale, _zero_point(seen.low, scale, form)


def _smallest(single: bool) -> float:
    """The smallest scale: the smallest normal number of the format that scales are kept in."""
    return SMALLEST_SINGLE if single else sys.float_info.min


def _to_single(scale: npt.ArrayLike) -> FloatArray:
    """Nearest float32, as float64; what exceeds it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(np.asarray(scale, dtype=np.float64).astype(np.float32), dtype=np.float64)


def round_up_to_power_of_two(scale: float) -> float:
    """The smallest power of two that is at least `scale` > 0.

    >>> round_up_to_power_of_two(0.3), round_up_to_power_of_two(0.25)
    (0.5, 0.25)
    """
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Weights as integers.

    Attributes:
        values: int64, shape of the float weights.
        scale: float64 (N,), S_w of each output channel; equal numbers where it is one for the tensor.
        zero_point: Z_w, one for the tensor; 0 where symmetric.
    """

    values: npt.NDArray[np.int64]
    scale: FloatArray
    zero_point: int

    def reals(self) -> FloatArray:
        """S_w * (q - Z_w), in the weights' shape."""
        per_channel = self.scale.reshape(-1, *[1] * (self.values.ndim - 1))
        return np.asarray(per_channel * (self.values - self.zero_point))


def weight_limits(scheme: WeightScheme) -> tuple[int, int]:
    """Lowest and highest code of a weight.

    >>> weight_limits(WeightScheme(bits=4)), weight_limits(WeightScheme(bits=4, fraction_bits=2))
    ((-7, 7), (-8, 7))
    """
    form = IntFormat(scheme.bits)
    restricted = scheme.symmetric and not scheme.full_range and scheme.fraction_bits is None
    return (-form.maximum if restricted else form.minimum), form.maximum


def quantize_weight(
    weight: FloatArray,
    scheme: WeightScheme,
    *,
    if_zero: float,
    at_least: FloatArray | None = None,
    power_of_two: bool = False,
    single: bool = False,
) -> QuantizedWeight:
    """Quantise the weights of a convolution or linear layer, q = clamp(round-half-even(w / S) + Z).

    Symmetric, b bits: S = max|w| / (2**(b-1) - 1) with q in the restricted range -(2**(b-1) - 1)..2**(b-1) - 1; with
    `full_range`, S = max|w| / (2**(b-1) - 1/2) with q down to -2**(b-1). Affine: as activations, one for the tensor.
    Fixed point (`fraction_bits`): S = 2**-fraction_bits with q down to -2**(b-1), whatever the weights.

    Args:
        weight: (N, ...), output channels first; finite.
        scheme: bits, symmetry, granularity and range, or fraction bits; a range other than min_max limits the weights
            first (`weight_ranges.clip_rows`).
        if_zero: S of a channel (or tensor) whose weights are all 0, which fix none.
        at_least: (N,), smallest allowed S by channel; ignored for one scale per tensor, where the channels that need
            no such limit would pay.
        power_of_two: round every S up to a power of two, as with the scheme's own `power_of_two`.
        single: round every S to the nearest float32.
    Raises:
        ValueError: an S beyond float32 with `single`.
    """
    form = IntFormat(scheme.bits)
    if scheme.fraction_bits is not None:
        fixed = 2.0**-scheme.fraction_bits
        values = np.clip(np.rint(weight / fixed), form.minimum, form.maximum).astype(np.int64)
        return QuantizedWeight(values, np.full(weight.shape[0], fixed), 0)
    per_channel = scheme.granularity == "channel"
    rows = weight.reshape(weight.shape[0] if per_channel else 1, -1)
    if scheme.range != "min_max":
        plain = scheme.model_copy(update={"range": "min_max"})

        def quantised(limited: FloatArray) -> FloatArray:
            one = quantize_weight(
                limited.reshape(weight.shape),
                plain,
                if_zero=if_zero,
                at_least=at_least,
                power_of_two=power_of_two,
                single=single,
            )
            return one.reals().reshape(rows.shape)

        rows = clip_rows(rows, scheme, quantised)
    zero_point = 0
    if scheme.symmetric:
        # Distiller's documentation ("full range", "restricted range") names the two choices of divisor.
        scale = np.abs(rows).max(axis=1) / (form.maximum + (0.5 if scheme.full_range else 0.0))
    else:
        low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)
        scale = np.array([(high - low) / (form.maximum - form.minimum)])
    is_zero = scale < _smallest(single)
    scale = np.where(is_zero, if_zero, scale)
    if per_channel and at_least is not None:
        scale = np.maximum(scale, at_least)
    if power_of_two or scheme.power_of_two:
        scale = np.array([round_up_to_power_of_two(float(one)) for one in scale])
    if single:
        scale = _to_single(np.maximum(scale, SMALLEST_SINGLE))
        if not np.isfinite(scale).all():
            raise ValueError("a weight scale is beyond float32; set scale_format = 'float64'")
    if not scheme.symmetric and not is_zero[0]:
        zero_point = _zero_point(low, float(scale[0]), form)
    quotient = np.rint(rows / scale[:, None]) + zero_point
    values = np.clip(quotient, *weight_limits(scheme)).astype(np.int64).reshape(weight.shape)
    return QuantizedWeight(values, np.broadcast_to(scale, (weight.shape[0],)).copy(), zero_point)


def _zero_point(low: float, scale: float, form: IntFormat) -> int:
    """Z = clamp(round-half-even(qmin - low / S)), the integer that stands for 0."""
    return int(min(max(np.rint(form.minimum - low / scale), form.minimum), form.maximum))
