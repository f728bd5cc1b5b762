"""Weights of a layer by input channel and in the integer graph's order, and its bias."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from accelsim.ir.float_graph import FloatArray, FloatConv2d, FloatLinear
from accelsim.ir.integer_graph import TensorType

Scalar = TypeVar("Scalar", bound=np.generic)


def by_input_channel(node: FloatConv2d | FloatLinear, weight: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Weights as (groups, C / groups, N / groups, taps): input channel c of the layer is row (c // per, c % per).

    Args:
        node: whose groups and kernel they are.
        weight: (N, C / groups, R, S) or (N, K), where every element of K is a channel of one tap.
    """
    groups = node.groups if isinstance(node, FloatConv2d) else 1
    per_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return per_group.transpose(0, 2, 1, 3)


def bias_of(node: FloatConv2d | FloatLinear) -> FloatArray:
    """The layer's bias, float64 (N,); zeros where it has none."""
    return np.zeros(node.weight.shape[0]) if node.bias is None else node.bias


def to_integer_layout(values: npt.NDArray[np.int64], source: TensorType) -> npt.NDArray[np.int64]:
    """(N, C, R, S) to (N, R, S, C); (N, K) from PyTorch's (c, h, w) to (h, w, c) of the tensor read."""
    if values.ndim == 2:
        image = values.reshape(values.shape[0], source.channels, source.height, source.width)
        return np.ascontiguousarray(np.moveaxis(image, 1, 3)).reshape(values.shape[0], -1)
    return np.ascontiguousarray(np.moveaxis(values, 1, 3))


def to_float_layout(values: npt.NDArray[np.int64], source: TensorType) -> npt.NDArray[np.int64]:
    """The inverse of `to_integer_layout`."""
    if values.ndim == 2:
        image = values.reshape(values.shape[0], source.height, source.width, source.channels)
        return np.ascontiguousarray(np.moveaxis(image, 3, 1)).reshape(values.shape[0], -1)
    return np.ascontiguousarray(np.moveaxis(values, 3, 1))
