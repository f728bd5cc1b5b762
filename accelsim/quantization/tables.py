"""Activations that are not clamps: tables over all codes, with fixed output scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from accelsim.ir.float_graph import FloatArray
from accelsim.numerics import IntFormat
from accelsim.quantization.ranges import Range


@dataclass(frozen=True)
class Function:
    """A bounded, increasing function.

    Attributes:
        value: elementwise, float64.
        inverse: of one value strictly between `low` and `high`.
        low, high: limits of the values, never reached.
    """

    value: Callable[[FloatArray], FloatArray]
    inverse: Callable[[float], float]
    low: float
    high: float


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # equal to 1 / (1 + exp(-x)), and no exp overflows


FUNCTIONS: dict[str, Function] = {
    "tanh": Function(np.tanh, math.atanh, -1.0, 1.0),
    "sigmoid": Function(_sigmoid, lambda p: math.log(p / (1.0 - p)), 0.0, 1.0),
}


class TableCodes(NamedTuple):
    """Codes of a table's output: S, Z and (smallest, largest)."""

    scale: float
    zero_point: int
    limits: tuple[int, int]


def output_scale(kind: str, form: IntFormat, *, symmetric: bool) -> tuple[float, int]:
    """Return the fixed (S, Z) of a table's output, a power of two in every scheme.

    tanh: S = 2**(1 - bits), Z in the middle of the format: -1 is its lowest code, and what rounds to 1 saturates one
    step below. sigmoid: S = 2**-bits with Z the lowest code, or where signed and symmetric S = 2**(1 - bits), Z = 0.
    Source: TensorFlow Lite 8-bit quantization specification, TANH (1/128, 0) and LOGISTIC (1/256, -128).

    >>> output_scale("tanh", IntFormat(8), symmetric=True), output_scale("sigmoid", IntFormat(8), symmetric=False)
    ((0.0078125, 0), (0.00390625, -128))
    """
    half = 2.0 ** (1 - form.bits)
    if kind == "tanh":
        return half, form.minimum + (1 << (form.bits - 1))
    return (half, 0) if symmetric and form.signed else (half / 2, form.minimum)


def input_limits(tables: Iterable[tuple[str, TableCodes]], form: IntFormat) -> Range:
    """The interval of inputs outside which none of the tables changes any more.

    A tensor that only tables read needs codes only there: beyond, it saturates, and so does the table. The interval
    reaches from where the lowest output code ends to where the highest begins, and one step of its own scale farther
    on either side, so that the end codes give the outermost outputs wherever Z is rounded to. It is unlimited where no
    table changes at all, its step being too coarse.

    Args:
        tables: kind of each, and the codes of its output.
        form: of the input's codes.

    >>> limits = input_limits([("tanh", TableCodes(1 / 128, 0, (-128, 127)))], IntFormat(8))
    >>> f"{limits.low:.3f} {limits.high:.3f}"
    '-3.141 2.589'
    """
    low, high = math.inf, -math.inf
    for kind, (scale, zero, (smallest, largest)) in tables:
        function = FUNCTIONS[kind]
        first = max(smallest, zero + round(function.low / scale))
        last = min(largest, zero + round(function.high / scale))
        if first >= last:
            continue
        low = min(low, function.inverse((first - zero + 0.5) * scale))
        high = max(high, function.inverse((last - zero - 0.5) * scale))
    if low > high:
        return Range(-math.inf, math.inf)
    step = (high - low) / (form.maximum - form.minimum - 2)
    return Range(low - step, high + step)


def tabulate(kind: str, form: IntFormat, source: tuple[float, int], target: TableCodes) -> npt.NDArray[np.int64]:
    """Return the code of f(S_in * (q - Z_in)) for every code q of the container, from its minimum up.

    Args:
        kind: "tanh" or "sigmoid".
        form: the container's.
        source: (S, Z) of the input.
        target: of the output.
    Returns:
        int64 (2**bits,): clamp(round-half-even(f / S_out) + Z_out) to the output's limits, f in float64.
    """
    codes = np.arange(form.minimum, form.maximum + 1)
    real = source[0] * (codes - source[1]).astype(np.float64)
    entries = np.rint(FUNCTIONS[kind].value(real) / target.scale) + target.zero_point
    return np.clip(entries, *target.limits).astype(np.int64)
