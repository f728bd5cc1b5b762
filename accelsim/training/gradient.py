"""Straight-through gradients: each node has the engine's value and the derivative of the operation it stands for.

docs/numerics.md, section 11, states every rule here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from accelsim.ir import Add, AvgPool2d, Clip, Conv2d, IntegerGraph, Linear, MaxPool2d, Node, Table, TensorType
from accelsim.training.sums import padded, window_sums


class _Substitute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computed: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def substitute(computed: Tensor, value: Tensor) -> Tensor:
    """`value`, exactly, with the gradient of `computed`; both of one shape and dtype."""
    return _Substitute.apply(computed, value)  # type: ignore[no-untyped-call]  # torch's carries no types


def float_operation(graph: IntegerGraph, node: Node, inputs: list[Tensor], parameters: tuple[Tensor, ...]) -> Tensor:
    """What a node computes but for rounding, accumulation and overflow: (N, C, H, W) from (N, C, H, W), real units.

    Args:
        inputs: the engine's values of the tensors the node reads, S * (q - Z).
        parameters: (weight, bias) of a convolution or linear layer on the integers' grid, else ().
    """
    x = inputs[0]
    match node:
        case Conv2d():
            weight, bias = parameters
            y = functional.conv2d(
                padded(x, node.padding), weight, bias, stride=node.stride, dilation=node.dilation, groups=node.groups
            )
            return _clipped(y, node.output, node.clip, graph.limits_of(node.name))
        case Linear():
            weight, bias = parameters
            y = functional.linear(x.flatten(1), weight, bias)[:, :, None, None]
            return _clipped(y, node.output, node.clip, graph.limits_of(node.name))
        case Add():
            return _clipped(x + inputs[1], node.output, node.clip, graph.limits_of(node.name))
        case Clip():
            low, high = (node.output.scale * (limit - node.output.zero_point) for limit in node.clip)
            smallest, largest = graph.limits_of(node.name)  # what is a code already cannot be clipped to the codes
            return functional.hardtanh(
                x, low if node.clip[0] > smallest else -math.inf, high if node.clip[1] < largest else math.inf
            )
        case MaxPool2d():
            return functional.max_pool2d(padded(x, node.padding, -math.inf), node.kernel, node.stride)
        case AvgPool2d():
            total = window_sums(x, node)
            if node.count_include_pad:
                return total / math.prod(node.kernel)
            return total / window_sums(torch.ones_like(x[:1, :1]), node).clamp(min=1)
        case Table():
            return _tabulated(graph, node, x)
    raise TypeError(f"{type(node).__name__} has no float operation")


def input_operation(graph: IntegerGraph, images: Tensor) -> Tensor:
    """The input but for its rounding: identity between its limits."""
    limits = graph.limits_of(graph.input.name)
    return _clipped(images, graph.input.output, limits, limits, relu=False)


def _clipped(
    y: Tensor, tensor: TensorType, clip: tuple[int, int], limits: tuple[int, int], *, relu: bool = True
) -> Tensor:
    """Clamp to what the codes stand for; no gradient at the limits and beyond.

    A limit of the tensor's codes lies half a step out, where values still round to it; one that an activation sets,
    at its code, so that a ReLU is PyTorch's.
    """
    low, high = clip
    zero = tensor.zero_point
    bottom = low - 0.5 if low == limits[0] and not (relu and low == zero) else low
    top = high + 0.5 if high == limits[1] else high
    return functional.hardtanh(y, tensor.scale * (bottom - zero), tensor.scale * (top - zero))


def _tabulated(graph: IntegerGraph, node: Table, x: Tensor) -> Tensor:
    """tanh and sigmoid by name; of another table, the mean slope to the codes on either side."""
    if node.function == "tanh":
        return torch.tanh(x)
    if node.function == "sigmoid":
        return torch.sigmoid(x)
    source = graph.by_name[node.inputs[0]].output
    entries = torch.tensor(node.entries, dtype=x.dtype)
    slope = torch.gradient(entries)[0] * (node.output.scale / source.scale)
    codes = torch.round(x.detach() / source.scale).long() + (source.zero_point - graph.activation.minimum)
    return x * slope[codes]
