"""Reference evaluation of an integer graph: written for clarity, one addition at a time, batch by batch.

It shares with the machine only the statement of K order (`numerics.chunks`), requantisation and rounding; gathering,
accumulation and pooling are its own, so that agreement of the two means something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.ir.integer_graph import (
    Add,
    AvgPool2d,
    Clip,
    Conv2d,
    Dequantize,
    Input,
    IntegerGraph,
    Linear,
    Mac,
    MatMul,
    MaxPool2d,
    Node,
    Quantize,
    Table,
    mac_chunks,
)
from accelsim.numerics import Arithmetic, IntFormat, add_rounded_once, divide_rounded, quantize, requantize, to_output

Int64 = npt.NDArray[np.int64]


@dataclass
class PartialSums:
    """Extremes of every exact s + p of a layer, and how many additions left their range."""

    minimum: int
    maximum: int
    overflows: int


@dataclass
class Evaluation:
    """Codes int64 (batch, H, W, C) of every node, and the partial sums of every convolution and linear layer.

    What the host alone holds are int32 sums as int64, and reals as float32.
    """

    tensors: dict[str, Int64]
    partial_sums: dict[str, PartialSums] = field(default_factory=dict)


def quantize_input(graph: IntegerGraph, images: npt.NDArray[np.floating]) -> Int64:
    """Quantise images (batch, C, H, W) or vectors (batch, K) to codes (batch, H, W, C).

    Where the graph takes reals they stay as they are, in float32.

    Raises:
        InputError: the shape does not fit the graph, or a value is NaN or infinite.
    """
    tensor = graph.input.output
    vector = images.ndim == 2 and images.shape[1:] == (tensor.channels,) and tensor.height == tensor.width == 1
    if not vector and images.shape[1:] != (tensor.channels, tensor.height, tensor.width):
        expected = (tensor.channels, tensor.height, tensor.width)
        raise InputError(f"input: shape {images.shape} is not (batch, C, H, W) with (C, H, W) = {expected}")
    if not np.isfinite(images).all():
        raise InputError("input: holds NaN or infinite values; remove them")
    if tensor.kind == "float32":
        codes: npt.NDArray[Any] = images.astype(np.float32)
    else:
        codes = quantize(
            images,
            tensor.scale,
            tensor.zero_point,
            graph.activation,
            limits=tensor.limits,
            precision=graph.input.precision,
        )
    return codes.reshape(-1, 1, 1, tensor.channels) if vector else np.ascontiguousarray(np.moveaxis(codes, 1, 3))


def evaluate(graph: IntegerGraph, codes: Int64, arithmetic: Arithmetic) -> Evaluation:
    """Evaluate every node.

    Args:
        graph: a legal integer graph.
        codes: the input's codes, int64 (batch, H, W, C), inside its limits; float32 where it takes reals.
        arithmetic: what the hardware contributes.
    """
    tensor = graph.input.output
    if codes.ndim != 4 or codes.shape[1:] != tensor.shape:
        raise InputError(f"input: shape {codes.shape} is not (batch, H, W, C) with (H, W, C) = {tensor.shape}")
    low, high = graph.limits_of(graph.input.name)
    if tensor.kind == "codes" and codes.size and not (low <= codes.min() and codes.max() <= high):
        raise InputError(f"input: a code is outside {low}..{high}")
    result = Evaluation({})
    for node in graph.nodes:
        sources = [result.tensors[name] for name in node.inputs]
        try:
            result.tensors[node.name] = _node(graph, node, sources, codes, arithmetic, result)
        except OverflowError as error:
            raise InputError(f"node {node.name}: {error}") from None
    return result


def _node(
    graph: IntegerGraph, node: Node, sources: list[Int64], codes: Int64, arithmetic: Arithmetic, result: Evaluation
) -> Int64:
    form, how = graph.activation, graph.requantization
    zero_points = [graph.by_name[name].output.zero_point for name in node.inputs]
    match node:
        case Input():
            return codes.astype(np.float32 if node.output.kind == "float32" else np.int64)
        case Mac():
            total = _accumulate(graph, node, sources[0], zero_points[0], arithmetic, result)
            if graph.bias_at == "ppu":
                total = total + node.bias
            if node.output.kind == "int32":
                return np.asarray(IntFormat(32).wrap(total), dtype=np.int64)
            scaled = requantize(total, node.multiplier.m0, node.multiplier.shift, how)
            return to_output(scaled, node.output.zero_point, node.clip, form, how.output_overflow)
        case MatMul():
            total = _matmul(graph, node, sources, zero_points, arithmetic, result)
            scaled = requantize(total, node.multiplier.m0, node.multiplier.shift, how)
            return to_output(scaled, node.output.zero_point, node.clip, form, how.output_overflow)
        case MaxPool2d():
            best = np.full((sources[0].shape[0], *node.output.shape), form.minimum, dtype=np.int64)
            for window, inside in _windows(node, sources[0], form.minimum):
                best = np.where(inside, np.maximum(best, window), best)
            return best
        case AvgPool2d():
            total = np.zeros((sources[0].shape[0], *node.output.shape), dtype=np.int64)
            count = np.zeros_like(total)
            for window, inside in _windows(node, sources[0], 0):
                total += np.where(inside, window - zero_points[0], 0)
                count += np.where(inside, 1, int(node.count_include_pad))
            mean = divide_rounded(total, count, how.pool_rounding)
            return to_output(mean, zero_points[0], graph.limits_of(node.name), form, how.output_overflow)
        case Add() if node.rounding == "sum":
            zeros = (zero_points[0], zero_points[1], node.output.zero_point)
            single = [multiplier.m0.astype(np.int32).view(np.float32)[0] for multiplier in node.multipliers]
            total = add_rounded_once((sources[0], sources[1]), zeros, (single[0], single[1]))
            return np.clip(total, *node.clip)
        case Add():
            first, second = (
                requantize(source - zero, multiplier.m0, multiplier.shift, how)
                for source, zero, multiplier in zip(sources, zero_points, node.multipliers, strict=True)
            )
            return to_output(first + second, node.output.zero_point, node.clip, form, how.output_overflow)
        case Clip():
            return np.clip(sources[0], *node.clip)
        case Table():
            return node.entries[sources[0] - form.minimum]
        case Quantize():
            rounded = np.rint(sources[0] / node.scales).astype(np.float64) + node.zero_points
            return np.clip(rounded, *graph.limits_of(node.name)).astype(np.int64)
        case Dequantize():
            real: Any = (sources[0] - node.zero_points).astype(np.float32) * node.scales
            return real
    raise TypeError(f"{type(node).__name__} has no reference evaluation")


def _windows(node: MaxPool2d | AvgPool2d, source: Int64, fill: int) -> list[tuple[Int64, npt.NDArray[np.bool_]]]:
    """For each position (r, s) of the window: what every output sees there, and whether it is inside the image."""
    top, bottom, left, right = node.padding
    padded = np.pad(source, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    inside = np.pad(np.ones(source.shape[1:3], dtype=bool), ((top, bottom), (left, right)))
    height, width, _ = node.output.shape
    (stride_y, stride_x), (kernel_h, kernel_w) = node.stride, node.kernel
    taps = []
    for r in range(kernel_h):
        for s in range(kernel_w):
            rows = slice(r, r + (height - 1) * stride_y + 1, stride_y)
            columns = slice(s, s + (width - 1) * stride_x + 1, stride_x)
            taps.append((padded[:, rows, columns], inside[None, rows, columns, None]))
    return taps


def _operands(graph: IntegerGraph, node: Mac, source: Int64, zero_point: int) -> tuple[Int64, Int64]:
    """Activations (groups, batch, H, W, K) and weights (groups, K, N/groups), k in (r, s, c) order."""
    subtract = graph.zero_points == "subtracted"
    weight = node.weight - (node.weight_zero_point if subtract else 0)
    if isinstance(node, Linear):
        values = source.reshape(1, source.shape[0], 1, 1, -1)
        return values - (zero_point if subtract else 0), weight.T[None]
    assert isinstance(node, Conv2d)
    top, bottom, left, right = node.padding
    padded = np.pad(source, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=zero_point)
    if subtract:
        padded = padded - zero_point
    height, width, channels = node.output.shape
    (stride_y, stride_x), (dilation_y, dilation_x) = node.stride, node.dilation
    taps = [
        padded[
            :,
            r * dilation_y : r * dilation_y + (height - 1) * stride_y + 1 : stride_y,
            s * dilation_x : s * dilation_x + (width - 1) * stride_x + 1 : stride_x,
        ]
        for r in range(node.kernel[0])
        for s in range(node.kernel[1])
    ]
    seen = np.stack(taps, axis=3)  # (batch, H, W, taps, C)
    per_group = source.shape[3] // node.groups
    groups = seen.reshape(*seen.shape[:4], node.groups, per_group)
    values = np.moveaxis(groups, 4, 0).reshape(node.groups, source.shape[0], height, width, len(taps) * per_group)
    kernels = weight.reshape(node.groups, channels // node.groups, -1)
    return values, np.swapaxes(kernels, 1, 2)


def _accumulate(
    graph: IntegerGraph, node: Mac, source: Int64, zero_point: int, arithmetic: Arithmetic, result: Evaluation
) -> Int64:
    """Every output's sum, in hardware order: (batch, H, W, N)."""
    values, weight = _operands(graph, node, source, zero_point)
    layer = arithmetic.at_width(node.accumulator_width_bits)
    cuts = mac_chunks(graph, node, layer)
    bias = node.bias.reshape(values.shape[0], 1, 1, 1, -1) if graph.bias_at == "accumulator" else np.zeros(1, np.int64)
    outputs = (*values.shape[:4], weight.shape[2])
    adder = _Adder(layer.overflow, exact=layer.saturate_at == "end")
    starts_low = layer.dataflow == "os" and not (isinstance(node, Conv2d) and node.is_depthwise)
    start_bits = layer.psum_bits if starts_low else layer.width_bits
    total = np.broadcast_to(adder.fit(bias.astype(adder.dtype(layer)), start_bits), outputs)
    if graph.bias_at == "accumulator":
        adder.see(total)
    for cut in cuts:
        psum = total if starts_low else np.zeros_like(total)
        for k in cut:
            product = values[..., k, None] * weight[:, None, None, None, k, :]
            psum = adder.add(psum, product, layer.psum_bits)
        total = psum if starts_low else adder.add(total, psum, layer.width_bits)
    if adder.exact:
        total = adder.finish(total, layer.width_bits)
    result.partial_sums[node.name] = PartialSums(adder.minimum, adder.maximum, adder.overflows)
    return np.moveaxis(total, 0, 3).reshape(*outputs[1:4], -1).astype(np.int64)


def _matmul(
    graph: IntegerGraph,
    node: MatMul,
    sources: list[Int64],
    zero_points: list[int],
    arithmetic: Arithmetic,
    result: Evaluation,
) -> Int64:
    """Every output's sum of a product of two tensors, in hardware order: (batch, H, W, heads * N)."""
    if graph.zero_points == "subtracted":
        sources = [source - zero for source, zero in zip(sources, zero_points, strict=True)]
    first, second = (
        source.reshape(len(source), -1, node.heads, source.shape[3] // node.heads) for source in sources
    )  # (batch, token, head, channel of the head)
    layer = arithmetic.at_width(node.accumulator_width_bits)
    adder = _Adder(layer.overflow, exact=layer.saturate_at == "end")
    outputs = second.shape[3] if node.second == "tokens" else second.shape[1]
    total: Int64 = np.zeros((*first.shape[:3], outputs), dtype=adder.dtype(layer))
    for cut in mac_chunks(graph, node, layer):
        psum = total if layer.dataflow == "os" else np.zeros_like(total)
        for k in cut:
            if node.second == "tokens":
                row = second[:, k]  # (batch, head, N)
            else:
                row = np.moveaxis(second[:, :, :, k], 1, 2)
            psum = adder.add(psum, first[:, :, :, k, None] * row[:, None], layer.psum_bits)
        total = psum if layer.dataflow == "os" else adder.add(total, psum, layer.width_bits)
    if adder.exact:
        total = adder.finish(total, layer.width_bits)
    result.partial_sums[node.name] = PartialSums(adder.minimum, adder.maximum, adder.overflows)
    return total.reshape(len(total), *node.output.shape).astype(np.int64)


class _Adder:
    """The textbook adder: exact sum, look whether it left the range, saturate or wrap."""

    def __init__(self, overflow: str, *, exact: bool):
        self.overflow = overflow
        self.exact = exact
        self.minimum, self.maximum = 2**80, -(2**80)
        self.overflows = 0

    def dtype(self, layer: Arithmetic) -> type:
        """int64 where exact sums and limits fit it with room to spare, else Python integers."""
        return np.int64 if layer.width_bits <= 45 else object

    def see(self, exact: Int64) -> None:
        self.minimum = min(self.minimum, int(exact.min()))
        self.maximum = max(self.maximum, int(exact.max()))

    def fit(self, exact: Int64, bits: int) -> Int64:
        if self.exact:
            return exact
        limit = 1 << (bits - 1)
        if self.overflow == "saturate":
            return np.clip(exact, -limit, limit - 1)
        return (exact + limit) % (2 * limit) - limit

    def add(self, s: Int64, p: Int64, bits: int) -> Int64:
        exact = s + p
        self.see(exact)
        if not self.exact:
            self.overflows += int(((exact < -(1 << (bits - 1))) | (exact >= 1 << (bits - 1))).sum())
        return self.fit(exact, bits)

    def finish(self, exact: Int64, bits: int) -> Int64:
        """saturate_at = "end": fit once, after the last chunk."""
        self.exact = False
        self.overflows += int(((exact < -(1 << (bits - 1))) | (exact >= 1 << (bits - 1))).sum())
        return self.fit(exact, bits)
