"""Products of two activation tensors: sums of one node for a slice of images.

Neither operand is known before it is there, so what can be proved is proved of the values themselves: no partial sum of
an output exceeds sum |a| * |b|. Where that stays within the accumulator for a whole slice, one matrix product gives the
bits of the additions one by one. Elsewhere chunks are formed and fitted addition by addition.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.engine.layer import FLOAT64_EXACT, Lanes
from accelsim.ir import IntegerGraph, MatMul, mac_chunks
from accelsim.numerics import Arithmetic, fit, requantize, to_output

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def matmul(graph: IntegerGraph, node: MatMul, sources: list[Lanes], arithmetic: Arithmetic) -> Lanes:
    """Codes int16 (H, W, heads * N, B) of a product, from its operands' (H, W, C, B).

    Args:
        arithmetic: at the node's own width.
    Raises:
        OverflowError: the requantisation scheme does not take such a sum.
    """
    sums = form_products(graph, node, sources, arithmetic)
    how, output = graph.requantization, node.output
    scaled = requantize(sums, node.multiplier.m0, node.multiplier.shift, how)
    codes = to_output(scaled, output.zero_point, node.clip, graph.activation, how.output_overflow)
    # (B, head, token, N) to (H, W, head * N, B)
    lanes = np.moveaxis(codes, (0, 1), (3, 1)).reshape(*output.shape, len(codes))
    return np.ascontiguousarray(lanes, dtype=np.int16)


def form_products(graph: IntegerGraph, node: MatMul, sources: list[Lanes], arithmetic: Arithmetic) -> Int64:
    """Sums int64 (B, head, token, N) as the hardware forms them."""
    first, second = operands(graph, node, sources)
    magnitude = np.abs(first) @ np.abs(second)
    assert magnitude.max() < FLOAT64_EXACT  # 2**15 * 2**15 * K
    if magnitude.max() < 1 << (arithmetic.psum_bits - 1):
        return (first @ second).astype(np.int64)
    if arithmetic.saturate_at == "end":
        return fit((first @ second).astype(np.int64), arithmetic.width_bits, arithmetic.overflow)
    total = np.zeros(magnitude.shape, dtype=np.int64)
    whole = not arithmetic.splits_chunks  # os: one register sums all of K
    for cut in mac_chunks(graph, node, arithmetic):
        a, b = first[..., cut.start : cut.stop], second[..., cut.start : cut.stop, :]
        if arithmetic.overflow == "wrap":  # wrapped at every addition is the exact sum wrapped once
            psum = fit((total if whole else 0) + (a @ b).astype(np.int64), arithmetic.psum_bits, "wrap")
        else:
            psum = total if whole else np.zeros_like(total)
            for k in range(len(cut)):
                product = (a[..., k, None] * b[..., None, k, :]).astype(np.int64)
                psum = fit(psum + product, arithmetic.psum_bits, "saturate")
        total = psum if whole else fit(total + psum, arithmetic.width_bits, arithmetic.overflow)
    return total


def operands(graph: IntegerGraph, node: MatMul, sources: list[Lanes]) -> tuple[Float64, Float64]:
    """What is multiplied, as matrices: (B, head, token, K) and (B, head, K, N), integers in float64."""
    subtract = graph.zero_points == "subtracted"
    made = []
    for name, source in zip(node.inputs, sources, strict=True):
        channels, images = source.shape[2:]
        zero = graph.by_name[name].output.zero_point if subtract else 0
        values = source.reshape(-1, node.heads, channels // node.heads, images).astype(np.float64) - zero
        made.append(np.ascontiguousarray(np.moveaxis(values, 0, 1).transpose(3, 0, 1, 2)))
    first, second = made  # (B, head, token, channel)
    return first, second if node.second == "tokens" else np.ascontiguousarray(np.swapaxes(second, 2, 3))
