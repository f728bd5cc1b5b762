"""Every operation but the sums, in lanes: the output stage of a layer, pools, additions, clips, tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.engine import kernels
from accelsim.engine.layer import Lanes, Sums
from accelsim.ir import Add, AvgPool2d, Clip, Dequantize, IntegerGraph, Mac, MaxPool2d, Node, Quantize, Table
from accelsim.numerics import (
    IntFormat,
    Requantization,
    Rounding,
    Scheme,
    add_rounded_once,
    divide_rounded,
    requantize,
    to_output,
)

_ROUNDING_CODES = {
    Rounding.FLOOR: kernels.FLOOR,
    Rounding.HALF_UP: kernels.HALF_UP,
    Rounding.HALF_EVEN: kernels.HALF_EVEN,
    Rounding.HALF_AWAY: kernels.HALF_AWAY,
    Rounding.TOWARD_ZERO: kernels.TOWARD_ZERO,
}


def finish(graph: IntegerGraph, node: Mac, sums: Sums) -> Lanes:
    """Codes int16 (H, W, N, B), or int32 sums, of a layer's sums (H * W, N, B): bias, requantisation, zero point, clip.

    Raises:
        OverflowError: the scheme does not take such a sum, as in `numerics.requantize`.
    """
    how, output = graph.requantization, node.output
    bias = np.zeros_like(node.bias) if graph.bias_at == "accumulator" else node.bias
    if output.kind == "int32":
        whole: Any = IntFormat(32).wrap(sums.astype(np.int64) + bias[:, None]).astype(np.int32)
        return whole.reshape(output.height, output.width, output.channels, -1)
    shift = _compiled_shift(how, node.multiplier.shift)
    largest = max(-float(sums.min()), float(sums.max())) + int(np.abs(bias).max())
    if shift is not None and largest < 2**31:
        codes = np.empty(sums.shape, dtype=np.int16)
        rounding = _ROUNDING_CODES[how.rounding]
        kernels.requantized(sums, bias, node.multiplier.m0, shift, rounding, output.zero_point, *node.clip, codes)
    else:
        total = sums.astype(np.int64) + bias[:, None]
        scaled = requantize(total, node.multiplier.m0[:, None], node.multiplier.shift[:, None], how)
        codes = to_output(scaled, output.zero_point, node.clip, graph.activation, how.output_overflow).astype(np.int16)
    return codes.reshape(output.height, output.width, output.channels, -1)


def _compiled_shift(how: Requantization, shift: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Total right shifts where the compiled kernel knows the scheme, else None."""
    if how.output_overflow != "saturate" or how.rounding not in _ROUNDING_CODES:
        return None
    if how.scheme is Scheme.FIXED_POINT and how.order == "multiply_first":
        shift = shift + how.multiplier_bits - 1
    elif how.scheme is not Scheme.POWER_OF_TWO:
        return None
    return shift if shift.min() >= 0 else None


def apply(graph: IntegerGraph, node: Node, sources: list[Lanes]) -> Lanes:
    """Codes of a node without products: int16 (H, W, C, B) from those of its inputs."""
    form, how = graph.activation, graph.requantization
    zero_points = [graph.by_name[name].output.zero_point for name in node.inputs]
    match node:
        case MaxPool2d():
            best = np.full((*node.output.shape, sources[0].shape[3]), form.minimum, dtype=np.int16)
            for place, seen in _taps(node, sources[0]):
                np.maximum(best[place], seen, out=best[place])
            return best
        case AvgPool2d():
            total = np.zeros((*node.output.shape, sources[0].shape[3]), dtype=np.int64)
            count = np.zeros((*node.output.shape[:2], 1, 1), dtype=np.int64)
            for place, seen in _taps(node, sources[0]):
                total[place] += seen - np.int64(zero_points[0])
                count[place] += 1
            if node.count_include_pad:
                count[:] = node.kernel[0] * node.kernel[1]
            mean = divide_rounded(total, np.maximum(count, 1), how.pool_rounding)
            return to_output(mean, zero_points[0], form.limits, form, how.output_overflow).astype(np.int16)
        case Add() if node.rounding == "sum":
            zeros = (zero_points[0], zero_points[1], node.output.zero_point)
            single = [multiplier.m0.astype(np.int32).view(np.float32)[0] for multiplier in node.multipliers]
            exact = add_rounded_once((sources[0], sources[1]), zeros, (single[0], single[1]))
            return np.clip(exact, *node.clip).astype(np.int16)
        case Add():
            first, second = (
                requantize(source.astype(np.int64) - zero, multiplier.m0, multiplier.shift, how)
                for source, zero, multiplier in zip(sources, zero_points, node.multipliers, strict=True)
            )
            total = first + second
            return to_output(total, node.output.zero_point, node.clip, form, how.output_overflow).astype(np.int16)
        case Clip():
            return np.clip(sources[0], *node.clip)
        case Table():
            return node.entries.astype(np.int16)[sources[0] - np.int16(form.minimum)]
        case Quantize():
            rounded = np.rint(sources[0] / node.scales[:, None]) + node.zero_points[:, None].astype(np.float64)
            return np.clip(rounded, form.minimum, form.maximum).astype(np.int16)
        case Dequantize():
            steps = sources[0].astype(np.int64) - node.zero_points[:, None]
            real: Any = steps.astype(np.float32) * node.scales[:, None]
            return real
    raise TypeError(f"{type(node).__name__} has no evaluation in the engine")


def _taps(node: MaxPool2d | AvgPool2d, source: Lanes) -> Iterator[tuple[tuple[slice, slice], Any]]:
    """For each position of the window: the outputs for which it is inside the image, and what they see there."""
    height, width = source.shape[:2]
    for r in range(node.kernel[0]):
        ys, rows = _inside(node.output.height, r - node.padding[0], node.stride[0], height)
        for s in range(node.kernel[1]):
            xs, columns = _inside(node.output.width, s - node.padding[2], node.stride[1], width)
            yield (ys, xs), source[rows, columns]


def _inside(count: int, first: int, step: int, limit: int) -> tuple[slice, slice]:
    """Outputs whose position first + i * step is in 0..limit - 1, and those positions."""
    start = max(0, -(first // step))
    stop = max(start, min(count, (limit - 1 - first) // step + 1))
    begin = first + start * step
    return slice(start, stop), slice(begin, begin + (stop - start - 1) * step + 1 if stop > start else begin, step)
