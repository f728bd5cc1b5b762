"""Bit-exact integers: formats, rounding, requantisation, accumulation. Imports nothing else of accelsim."""

from accelsim.numerics.accumulation import (
    Arithmetic,
    Dataflow,
    Overflow,
    PsumStatistics,
    SaturateAt,
    accumulate,
    accumulate_lanes,
    chunks,
    fit,
)
from accelsim.numerics.float_addition import add_rounded_once, fused_multiply_add
from accelsim.numerics.formats import FixedPointFormat, IntArray, IntFormat, Precision, quantize
from accelsim.numerics.requantization import (
    Order,
    OutputOverflow,
    Requantization,
    Scheme,
    decompose,
    requantize,
    to_output,
)
from accelsim.numerics.rounding import (
    SINGLE_ROUNDINGS,
    Rounding,
    divide_rounded,
    round_float,
    shift_right_rounded,
)

__all__ = [
    "SINGLE_ROUNDINGS",
    "Arithmetic",
    "Dataflow",
    "FixedPointFormat",
    "IntArray",
    "IntFormat",
    "Order",
    "OutputOverflow",
    "Overflow",
    "Precision",
    "PsumStatistics",
    "Requantization",
    "Rounding",
    "SaturateAt",
    "Scheme",
    "accumulate",
    "accumulate_lanes",
    "add_rounded_once",
    "chunks",
    "decompose",
    "divide_rounded",
    "fit",
    "fused_multiply_add",
    "quantize",
    "requantize",
    "round_float",
    "shift_right_rounded",
    "to_output",
]
