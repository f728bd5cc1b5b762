"""Weights between PyTorch's order and the integer graph's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.ir import Conv2d, Mac, TensorType

Int64 = npt.NDArray[np.int64]


def weight_to_pytorch(node: Mac, source: TensorType, weight: Int64) -> Int64:
    """(N, R, S, C) to (N, C, R, S); the columns of a linear layer likewise, from (h, w, c) to (c, h, w)."""
    if isinstance(node, Conv2d):
        return np.moveaxis(weight, 3, 1)
    return np.moveaxis(weight.reshape(-1, *source.shape), 3, 1).reshape(len(weight), -1)


def weight_from_pytorch(node: Mac, source: TensorType, weight: Int64) -> Int64:
    """The inverse of `weight_to_pytorch`."""
    if isinstance(node, Conv2d):
        return np.ascontiguousarray(np.moveaxis(weight, 1, 3))
    height, width, channels = source.shape
    image = weight.reshape(-1, channels, height, width)
    return np.moveaxis(image, 1, 3).reshape(len(weight), -1)
