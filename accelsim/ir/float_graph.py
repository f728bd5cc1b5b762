"""The float graph: what a PyTorch model computes, in NumPy arrays and without PyTorch.

Shapes leave the batch out and follow PyTorch: (C, H, W) for images, (K,) for vectors.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError

Shape = tuple[int, ...]
FloatArray = npt.NDArray[np.float64]
Activation = Literal["relu", "relu6", "tanh", "sigmoid"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatNode:
    """One operation.

    Attributes:
        name: unique; the module path where there is one ("features.0"), which reports show.
        inputs: names of the nodes whose outputs it reads.
        shape: shape of its output.
        source: where the user finds it: module path and operator, for error messages.
    """

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    source: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatInput(FloatNode):
    """The network's input."""


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """What a batch norm says of its output, before any ReLU: mean and standard deviation by channel, float64 (N,)."""

    mean: FloatArray
    deviation: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatConv2d(FloatNode):
    """Convolution. weight (N, C/groups, R, S); bias (N,) or None; padding (top, bottom, left, right).

    `statistics` are those of the output where a batch norm was folded in; no result depends on them.
    """

    weight: FloatArray
    bias: FloatArray | None
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    statistics: ChannelStatistics | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatLinear(FloatNode):
    """Matrix product with the last axis. weight (N, K); bias (N,) or None; `statistics` as of a convolution."""

    weight: FloatArray
    bias: FloatArray | None
    statistics: ChannelStatistics | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatMatMul(FloatNode):
    """Products of two images, head by head, times `scale`; tokens are positions, heads parts of the channels.

    With A (C_a, H, W) as a[h, k, t], t going over H * W, and B as b[h, c, u], the output is (C_y, H, W) with
    y[h, n, t] = scale * sum over k of a[h, k, t] * b[h, n, k] for second = "tokens", and of a[h, k, t] * b[h, k, n] for
    second = "channels" (`integer_graph.MatMul`).
    """

    heads: int
    second: Literal["tokens", "channels"]
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatBatchNorm2d(FloatNode):
    """Inference batch norm: y = x * scale + offset per channel, from gamma, beta, mean, variance, eps."""

    gamma: FloatArray
    beta: FloatArray
    mean: FloatArray
    variance: FloatArray
    eps: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatActivation(FloatNode):
    """An elementwise activation."""

    kind: Activation


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatMaxPool2d(FloatNode):
    """Maximum over a window; padding (top, bottom, left, right) takes no part."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatAvgPool2d(FloatNode):
    """Mean over a window; padded positions are counted as zeros where count_include_pad."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    count_include_pad: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatAdd(FloatNode):
    """Sum of two tensors of one shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatFlatten(FloatNode):
    """(C, H, W) to (C*H*W,), in PyTorch's order."""


@dataclass(frozen=True, eq=False)
class FloatGraph:
    """Nodes in a topological order; the first is the input, `output` names the result."""

    name: str
    nodes: tuple[FloatNode, ...]
    output: str
    by_name: dict[str, FloatNode] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})
        check_float_graph(self)

    @property
    def input(self) -> FloatInput:
        """The input node."""
        first = self.nodes[0]
        assert isinstance(first, FloatInput)
        return first

    def users(self, name: str) -> list[FloatNode]:
        """Nodes that read the output of `name`."""
        return [node for node in self.nodes if name in node.inputs]


def float_graph_digest(graph: FloatGraph) -> str:
    """SHA-256 of everything that a graph computes with: operations, their settings, every bit of every parameter."""
    digest = hashlib.sha256(repr((graph.name, graph.output)).encode())
    for node in graph.nodes:
        digest.update(type(node).__name__.encode())
        for field_name, value in sorted(vars(node).items()):
            if isinstance(value, np.ndarray):
                digest.update(repr((field_name, value.shape, value.dtype.str)).encode())
                digest.update(np.ascontiguousarray(value).tobytes())
            else:
                digest.update(repr((field_name, value)).encode())
    return digest.hexdigest()


def window_extent(size: int, before: int, after: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """Output positions of a sliding window along one axis (floor mode)."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def check_float_graph(graph: FloatGraph) -> None:
    """Raise `InputError` naming the node and the rule where the graph is not legal."""
    if not graph.nodes or not isinstance(graph.nodes[0], FloatInput):
        raise InputError(f"float graph {graph.name}: the first node must be the input")
    seen: set[str] = set()
    for node in graph.nodes:
        where = f"float graph {graph.name}: {node.source or node.name}"
        if node.name in seen:
            raise InputError(f"{where}: the name {node.name!r} is used twice")
        missing = [name for name in node.inputs if name not in seen]
        if missing:
            raise InputError(f"{where}: reads {missing[0]!r}, which no earlier node computes")
        for array in vars(node).values():
            if isinstance(array, np.ndarray) and not np.isfinite(array).all():
                raise InputError(f"{where}: a parameter is NaN or infinite; repair or retrain the model")
        expected = _expected_shape(node, [_shape_of(graph, name) for name in node.inputs], where)
        if expected != node.shape:
            raise InputError(f"{where}: output shape {node.shape} does not follow from its inputs; expected {expected}")
        seen.add(node.name)
    if graph.output not in seen:
        raise InputError(f"float graph {graph.name}: output {graph.output!r} is not a node")


def _shape_of(graph: FloatGraph, name: str) -> Shape:
    return graph.by_name[name].shape


def _expected_shape(node: FloatNode, inputs: list[Shape], where: str) -> Shape:
    """Shape inference; raises where the inputs do not fit the operation."""
    arity = 0 if isinstance(node, FloatInput) else 2 if isinstance(node, FloatAdd | FloatMatMul) else 1
    if len(inputs) != arity:
        raise InputError(f"{where}: has {len(inputs)} inputs; {arity} are needed")
    if isinstance(node, FloatInput):
        if not (len(node.shape) in (1, 3) and all(size >= 1 for size in node.shape)):
            raise InputError(f"{where}: input shape {node.shape} must be (C, H, W) or (K,), without the batch")
        return node.shape
    first = inputs[0]
    images = FloatConv2d | FloatMaxPool2d | FloatAvgPool2d | FloatBatchNorm2d | FloatMatMul
    if isinstance(node, images) and len(first) != 3:
        raise InputError(f"{where}: needs an image (C, H, W), not shape {first}")
    match node:
        case FloatConv2d():
            out_channels, per_group, kernel_h, kernel_w = node.weight.shape
            if first[0] != per_group * node.groups or out_channels % node.groups:
                raise InputError(
                    f"{where}: {first[0]} channels do not fit weight {node.weight.shape}, {node.groups} groups"
                )
            return (
                out_channels,
                *_window(first, (kernel_h, kernel_w), node.stride, node.padding, node.dilation, where),
            )
        case FloatLinear():
            if len(first) != 1 or first[0] != node.weight.shape[1]:
                raise InputError(f"{where}: needs a vector of {node.weight.shape[1]}, not shape {first}; flatten first")
            return (node.weight.shape[0],)
        case FloatMatMul():
            second = inputs[1]
            if len(second) != 3 or node.heads < 1 or first[0] % node.heads or second[0] % node.heads:
                raise InputError(f"{where}: {node.heads} heads do not fit operands of shapes {first} and {second}")
            tokens, width = second[1] * second[2], second[0] // node.heads
            if first[0] // node.heads != (tokens if node.second == "tokens" else width):
                raise InputError(
                    f"{where}: operands of shapes {first} and {second} differ in K, with {node.heads} heads"
                )
            if not (math.isfinite(node.scale) and node.scale > 0):
                raise InputError(f"{where}: scale = {node.scale} must be positive and finite")
            return (node.heads * (width if node.second == "tokens" else tokens), first[1], first[2])
        case FloatMaxPool2d() | FloatAvgPool2d():
            return (first[0], *_window(first, node.kernel, node.stride, node.padding, (1, 1), where))
        case FloatAdd():
            if inputs[0] != inputs[1]:
                raise InputError(f"{where}: adds shapes {inputs[0]} and {inputs[1]}; broadcasting is not supported")
            return first
        case FloatFlatten():
            return (math.prod(first),)
        case FloatBatchNorm2d():
            if node.gamma.shape != (first[0],):
                raise InputError(f"{where}: normalises {node.gamma.shape[0]} channels of {first[0]}")
            return first
        case _:
            return first


def _window(
    image: Shape,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    where: str,
) -> tuple[int, int]:
    top, bottom, left, right = padding
    out_h = window_extent(image[1], top, bottom, kernel[0], stride[0], dilation[0])
    out_w = window_extent(image[2], left, right, kernel[1], stride[1], dilation[1])
    if min(out_h, out_w) < 1:
        raise InputError(f"{where}: a {kernel[0]}x{kernel[1]} window does not fit an image of {image[1]}x{image[2]}")
    return out_h, out_w
