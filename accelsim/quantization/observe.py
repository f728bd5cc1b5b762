"""Evaluate a float graph, and watch its tensors while doing so."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from accelsim.errors import InputError
from accelsim.ir.float_graph import (
    FloatActivation,
    FloatAdd,
    FloatArray,
    FloatAvgPool2d,
    FloatBatchNorm2d,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMatMul,
    FloatMaxPool2d,
    FloatNode,
)
from accelsim.quantization.ranges import MinMaxObserver, Observer, Range

BATCH_BYTES = 1 << 28
"""What all tensors of one batch may take together; a single image may take more."""


def evaluate(graph: FloatGraph, images: npt.NDArray[np.number]) -> dict[str, FloatArray]:
    """Evaluate a graph in float64.

    Args:
        graph: batch norms may be folded or not.
        images: (N, *input shape), N >= 1, any real type.
    Returns:
        Every node's output, (N, *shape) float64, by node name. Intermediate memory is bounded by batches; the result
        itself holds every tensor of every image.
    """
    parts: dict[str, list[FloatArray]] = {node.name: [] for node in graph.nodes}
    for batch in batches(graph, images):
        for name, tensor in walk(graph, batch):
            parts[name].append(tensor)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def calibrate(
    graph: FloatGraph,
    images: npt.NDArray[np.number],
    observer: Callable[[], Observer] = MinMaxObserver,
    by_node: Mapping[str, Callable[[], Observer]] = MappingProxyType({}),
) -> dict[str, Range]:
    """Run images through a graph and return each node's range.

    Ranges are rounded to float32: the last bits of a float64 sum depend on the order in which a library adds, hence
    on threads and processor, and must not reach the scales.

    Args:
        graph: with its weights.
        images: (N, *input shape), N >= 1, finite; any real type.
        observer: makes one observer for each tensor.
        by_node: makes those of the nodes it names.
    Raises:
        InputError: a tensor is NaN, or too large for float32.
    """
    observers = {node.name: by_node.get(node.name, observer)() for node in graph.nodes}
    for batch in batches(graph, images):
        for name, tensor in walk(graph, batch):
            if not np.isfinite(tensor).all():
                raise _not_finite(graph, name)
            observers[name].see(tensor)
    ranges = {}
    for name, watcher in observers.items():
        seen = watcher.range()
        with np.errstate(over="ignore"):
            rounded = Range(float(np.float32(seen.low)), float(np.float32(seen.high)))
        if not (math.isfinite(rounded.low) and math.isfinite(rounded.high)):
            raise _not_finite(graph, name)
        ranges[name] = rounded
    return ranges


def _not_finite(graph: FloatGraph, name: str) -> InputError:
    where = graph.by_name[name].source or name
    return InputError(f"{graph.name}: {where}: NaN or beyond float32 on the calibration data; repair weights or data")


def batches(graph: FloatGraph, images: npt.NDArray[np.number]) -> Iterator[FloatArray]:
    """Cut images so that the tensors of one batch fit `BATCH_BYTES`."""
    per_image = 8 * sum(math.prod(node.shape) for node in graph.nodes)
    size = max(1, BATCH_BYTES // per_image)
    for first in range(0, len(images), size):
        yield images[first : first + size].astype(np.float64)


def walk(graph: FloatGraph, images: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Yield each node's name and output, (N, *shape) float64; a tensor is dropped after its last reader."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        for node in graph.nodes:
            if isinstance(node, FloatInput):
                tensor = torch.from_numpy(images)
            else:
                tensor = _apply(node, [tensors[name] for name in node.inputs])
            yield node.name, tensor.numpy()
            tensors[node.name] = tensor
            readers.subtract(node.inputs)
            for name in {node.name, *node.inputs}:
                if not readers[name]:
                    del tensors[name]


def _apply(node: FloatNode, inputs: list[Tensor]) -> Tensor:
    """One operation in PyTorch's float64."""
    x = inputs[0]
    match node:
        case FloatConv2d():
            top, bottom, left, right = node.padding
            return functional.conv2d(
                functional.pad(x, (left, right, top, bottom)),
                _tensor(node.weight),
                None if node.bias is None else _tensor(node.bias),
                stride=node.stride,
                dilation=node.dilation,
                groups=node.groups,
            )
        case FloatLinear():
            bias = None if node.bias is None else _tensor(node.bias)
            return functional.linear(x, _tensor(node.weight), bias)
        case FloatMatMul():
            return _matmul(node, x, inputs[1])
        case FloatBatchNorm2d():
            mean, variance, gamma, beta = map(_tensor, (node.mean, node.variance, node.gamma, node.beta))
            return functional.batch_norm(x, mean, variance, gamma, beta, eps=node.eps)
        case FloatActivation():
            return ACTIVATIONS[node.kind](x)
        case FloatMaxPool2d():
            top, bottom, left, right = node.padding
            padded = functional.pad(x, (left, right, top, bottom), value=-math.inf)
            return functional.max_pool2d(padded, node.kernel, node.stride)
        case FloatAvgPool2d():
            total = _window_sums(x, node)
            if node.count_include_pad:
                return total / math.prod(node.kernel)
            return total / _window_sums(torch.ones_like(x[:1, :1]), node)
        case FloatAdd():
            return x + inputs[1]
        case FloatFlatten():
            return x.flatten(1)
    raise TypeError(f"{type(node).__name__} has no float evaluation")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def _tensor(array: FloatArray) -> Tensor:
    """A parameter as a tensor; copied where PyTorch would warn or refuse to share it (read-only, reversed)."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _matmul(node: FloatMatMul, first: Tensor, second: Tensor) -> Tensor:
    """(N, heads, channels, tokens) of both operands; the result's channels are rows, the first's tokens columns."""
    a, b = (one.reshape(len(one), node.heads, one.shape[1] // node.heads, -1) for one in (first, second))
    rows = b if node.second == "tokens" else b.transpose(2, 3)
    return (node.scale * (rows @ a)).reshape(len(a), *node.shape)


def _window_sums(x: Tensor, node: FloatAvgPool2d) -> Tensor:
    top, bottom, left, right = node.padding
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.avg_pool2d(padded, node.kernel, node.stride, divisor_override=1)
