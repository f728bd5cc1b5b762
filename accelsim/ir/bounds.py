"""Accumulator widths that suffice for a layer, whatever its input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accelsim.ir.integer_graph import IntegerGraph, Mac, MatMul, largest_sum
from accelsim.numerics import Arithmetic, IntFormat


class WidthBounds(NamedTuple):
    """Bits of two's complement that suffice for every partial sum of a layer, whatever the input.

    Attributes:
        l1: by the stored weights: largest l1 norm of an output channel times the largest activation code.
        type: by the operands' formats alone: K times the largest weight times the largest activation code. The input's
            format is its tensor's limits.
    """

    l1: int
    type: int


def bits_for(low: int, high: int) -> int:
    """Bits of the narrowest two's complement that holds both.

    >>> bits_for(-128, 127), bits_for(-129, 0), bits_for(0, 128), bits_for(0, 0)
    (8, 9, 9, 1)
    """
    return max(high.bit_length(), (~low).bit_length() if low < 0 else 0) + 1


def width_bounds(graph: IntegerGraph, node: Mac | MatMul) -> WidthBounds:
    """Widths at which no addition of a layer can overflow; both count the bias where the accumulator adds it.

    `proved_overflow_free` holds at `l1` bits and not at one fewer. For a product of two tensors both are by type.
    """
    if isinstance(node, MatMul):
        bits = bits_for(-largest_sum(graph, node), largest_sum(graph, node))
        return WidthBounds(bits, bits)
    subtracted = graph.zero_points == "subtracted"
    zero_x, zero_w = (graph.by_name[node.inputs[0]].output.zero_point, node.weight_zero_point) if subtracted else (0, 0)
    x = max(abs(limit - zero_x) for limit in graph.limits_of(node.inputs[0]))
    w = max(abs(limit - zero_w) for limit in IntFormat(node.weight_bits).limits)
    k = node.weight[0].size
    bias = int(np.abs(node.bias).max()) if graph.bias_at == "accumulator" else 0
    l1, largest = largest_sum(graph, node) + bias, k * w * x + bias
    return WidthBounds(bits_for(-l1, l1), bits_for(-largest, largest))


def proved_overflow_free(graph: IntegerGraph, node: Mac | MatMul, arithmetic: Arithmetic) -> bool:
    """Whether `largest_sum` proves that no addition of a layer can overflow, whatever the input."""
    layer = arithmetic.at_width(node.accumulator_width_bits)
    bias = int(np.abs(node.bias).max()) if isinstance(node, Mac) and graph.bias_at == "accumulator" else 0
    return largest_sum(graph, node) + bias < 1 << (layer.psum_bits - 1)
