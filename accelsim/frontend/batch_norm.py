"""Batch norm at inference is an affine map per channel: part of the convolution before it, or one of its own."""

from __future__ import annotations

import dataclasses

import numpy as np

from accelsim.ir.float_graph import (
    ChannelStatistics,
    FloatArray,
    FloatBatchNorm2d,
    FloatConv2d,
    FloatGraph,
    FloatNode,
)


def fold_batch_norm(graph: FloatGraph) -> FloatGraph:
    """Return the same function without batch norms.

    With k = gamma / sqrt(variance + eps) per channel, y = k * (x - mean) + beta. Where x is the output of a
    convolution that nothing else reads, the convolution takes weight * k and (bias - mean) * k + beta and keeps its
    name. Any other batch norm (after a pool, a sum, a convolution with several users) becomes a depthwise 1x1
    convolution of weight k and bias beta - mean * k under its own name, so no network is refused for it.

    The convolution keeps what the batch norm says of its output: mean beta and standard deviation
    |gamma| * sqrt(variance / (variance + eps)) of each channel (`ChannelStatistics`), for data-free quantisation.

    All in float64; a chain of batch norms folds into one convolution. A graph without batch norms is returned as is.
    Source: Jacob et al. 2018 (arXiv 1712.05877), section 3.2.
    """
    if not any(isinstance(node, FloatBatchNorm2d) for node in graph.nodes):
        return graph
    made: dict[str, FloatNode] = {}
    now: dict[str, str] = {}
    for node in graph.nodes:
        inputs = tuple(now[name] for name in node.inputs)
        if not isinstance(node, FloatBatchNorm2d):
            made[node.name] = dataclasses.replace(node, inputs=inputs)
            now[node.name] = node.name
            continue
        with np.errstate(divide="ignore", invalid="ignore"):  # a NaN or infinity is refused by the graph's check
            scale = node.gamma / np.sqrt(node.variance + node.eps)
        before = made[inputs[0]]
        read_here_only = len(graph.users(node.inputs[0])) == 1 and node.inputs[0] != graph.output
        if isinstance(before, FloatConv2d) and read_here_only:
            made[before.name] = _folded(before, node, scale)
            now[node.name] = before.name
        else:
            made[node.name] = _depthwise(node, inputs, scale)
            now[node.name] = node.name
    return FloatGraph(graph.name, tuple(made.values()), now[graph.output])


def _folded(conv: FloatConv2d, norm: FloatBatchNorm2d, scale: FloatArray) -> FloatConv2d:
    bias = np.zeros(conv.weight.shape[0]) if conv.bias is None else conv.bias
    return dataclasses.replace(
        conv,
        weight=conv.weight * scale[:, None, None, None],
        bias=(bias - norm.mean) * scale + norm.beta,
        statistics=_statistics(norm, scale),
    )


def _depthwise(norm: FloatBatchNorm2d, inputs: tuple[str, ...], scale: FloatArray) -> FloatConv2d:
    return FloatConv2d(
        name=norm.name,
        inputs=inputs,
        shape=norm.shape,
        source=norm.source,
        weight=scale[:, None, None, None],
        bias=norm.beta - norm.mean * scale,
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=norm.gamma.size,
        statistics=_statistics(norm, scale),
    )


def _statistics(norm: FloatBatchNorm2d, scale: FloatArray) -> ChannelStatistics:
    """Of the output, supposing that the inputs are distributed as in training."""
    with np.errstate(invalid="ignore"):
        return ChannelStatistics(norm.beta, np.abs(scale) * np.sqrt(norm.variance))
