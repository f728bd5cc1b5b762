"""What a convolution or linear layer divides before it rounds, from PyTorch's float64 sums, which are exact."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from accelsim.exporters.onnx_qdq import represented
from accelsim.ir import Conv2d, IntegerGraph, Mac


def exact_quotients(graph: IntegerGraph, node: Mac, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sum + bias) * M of every output (N, H, W, C) for input codes, and the magnitude of its terms, times M.

    The sums are integers below 2^53, so float64 holds them. M is what the stored multiplier stands for.
    """
    source = graph.by_name[node.inputs[0]].output
    x = torch.from_numpy(np.moveaxis(codes - source.zero_point, 3, 1).astype(np.float64))
    weight = node.weight - node.weight_zero_point

    def product(x: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
        if isinstance(node, Conv2d):
            top, bottom, left, right = node.padding
            padded = functional.pad(x, (left, right, top, bottom))
            kernel = weight.permute(0, 3, 1, 2)
            sums = functional.conv2d(padded, kernel, None, node.stride, 0, node.dilation, node.groups)
        else:
            sums = (x.permute(0, 2, 3, 1).reshape(len(x), -1) @ weight.T)[:, :, None, None]
        return np.moveaxis(sums.numpy(), 1, 3)

    w = torch.from_numpy(weight.astype(np.float64))
    bias = node.bias
    if graph.zero_points == "folded":
        bias = bias + source.zero_point * weight.reshape(node.out_channels, -1).sum(axis=1)
    m = represented(graph, node.multiplier)
    return (product(x, w) + bias) * m, (product(x.abs(), w.abs()) + np.abs(bias)) * m


def to_nearest_tie(quotients: np.ndarray) -> np.ndarray:
    """How far each is from k + 1/2, where rounding changes."""
    return np.abs(np.abs(quotients - np.rint(quotients)) - 0.5)


def float32_error(node: Mac, magnitude: np.ndarray) -> np.ndarray:
    """What float32 sums of a layer's K products and its bias, in any order, and its scales may be off by."""
    return (node.weight[0].size + 8) * 2.0**-23 * magnitude + 2.0**-20
