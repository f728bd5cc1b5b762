"""Means and variances of every tensor from batch-norm statistics alone, channel by channel and without data.

Source: Nagel et al. 2019 (arXiv 1906.04721), sections 4.1 and 4.2 and appendix C (moments of a clipped normal).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.ir.float_graph import (
    FloatActivation,
    FloatAdd,
    FloatArray,
    FloatAvgPool2d,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatNode,
)
from accelsim.quantization.layers import bias_of, by_input_channel
from accelsim.quantization.observers import scaled_tensors
from accelsim.quantization.ranges import Range

DEVIATIONS = 6.0
"""Standard deviations either side of the mean that a batch-norm range covers (Nagel et al. 2019, section 5)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of each channel, float64 (C,), or of each element of a vector, (K,).

    `measured` where they are the network's input's, which no batch norm describes.
    """

    mean: FloatArray
    variance: FloatArray
    measured: bool = False


def clipped_normal(mean: FloatArray, deviation: FloatArray, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """Return (mean, variance) of min(max(x, low), high) for normal x; a deviation of 0 is a constant.

    With a = (low - m) / s, b = (high - m) / s, phi and Phi the normal's density and distribution, and of the part
    between the limits P = Phi(b) - Phi(a), E1 = m P + s (phi(a) - phi(b)),
    E2 = (m^2 + s^2) P + s (m + low) phi(a) - s (m + high) phi(b):
    E[x] = E1 + low Phi(a) + high (1 - Phi(b)), E[x^2] = E2 + low^2 Phi(a) + high^2 (1 - Phi(b)).

    >>> mean, variance = clipped_normal(np.zeros(1), np.ones(1), 0.0, math.inf)
    >>> f"{mean[0]:.6f} {variance[0]:.6f}"  # 1 / sqrt(2 pi), 1 / 2 - 1 / (2 pi)
    '0.398942 0.340845'
    """
    constant = deviation == 0.0
    s = np.where(constant, 1.0, deviation)
    below, above = _distribution((low - mean) / s), 1.0 - _distribution((high - mean) / s)
    inside = 1.0 - below - above
    first, second = mean * inside, (np.square(mean) + np.square(s)) * inside
    for limit, sign, beyond in ((low, 1.0, below), (high, -1.0, above)):
        if math.isfinite(limit):
            density = np.exp(-0.5 * np.square((limit - mean) / s)) / math.sqrt(2.0 * math.pi)
            first = first + sign * s * density + limit * beyond
            second = second + sign * s * (mean + limit) * density + limit * limit * beyond
    first = np.where(constant, np.clip(mean, low, high), first)
    return first, np.where(constant, 0.0, np.maximum(second - np.square(first), 0.0))


def _distribution(x: FloatArray) -> FloatArray:
    """Phi, the normal's cumulative distribution."""
    return np.array([0.5 * math.erfc(-one / math.sqrt(2.0)) for one in x.tolist()])


CLIPS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}


def propagate(graph: FloatGraph, examples: npt.NDArray[np.number]) -> dict[str, Moments]:
    """Return the moments of the tensors that batch norms tell of, by node.

    A layer into which a batch norm was folded has that one's statistics. Behind such layers: ReLU and ReLU6 clip a
    normal distribution; a sum adds means and variances; an average pool keeps the mean and, as an upper bound, the
    variance; a layer without batch norm has W mean + b and W^2 variance, its inputs taken as independent and its
    borders left out. Max pools, tanh and sigmoid have no closed form, and what follows them is not known until the
    next batch norm; nor is a layer without one that reads the input, whose pixels are far from independent.

    Args:
        graph: after `frontend.fold_batch_norm`.
        examples: (N, *input shape): mean and variance of the input's channels, the only figures taken from data.
    """
    known: dict[str, Moments] = {}
    for node in graph.nodes:
        found = _moments(node, [known.get(name) for name in node.inputs], graph, examples)
        if found is not None:
            known[node.name] = found
    return known


def _moments(
    node: FloatNode, inputs: list[Moments | None], graph: FloatGraph, examples: npt.NDArray[np.number]
) -> Moments | None:
    if isinstance(node, FloatInput):
        axes = tuple(axis for axis in range(examples.ndim) if axis != 1)
        mean = examples.mean(axis=axes, dtype=np.float64)
        return Moments(_float32(mean), _float32(examples.var(axis=axes, dtype=np.float64)), measured=True)
    if isinstance(node, FloatConv2d | FloatLinear) and node.statistics is not None:
        return Moments(node.statistics.mean, np.square(node.statistics.deviation))
    if any(one is None for one in inputs):
        return None
    given = [one for one in inputs if one is not None]
    x = given[0]
    match node:
        case FloatConv2d() | FloatLinear():
            return (
                None if x.measured else Moments(layer_mean(node, node.weight, x.mean) + bias_of(node), _spread(node, x))
            )
        case FloatAdd():
            measured = any(one.measured for one in given)
            return Moments(given[0].mean + given[1].mean, given[0].variance + given[1].variance, measured)
        case FloatActivation(kind="relu" | "relu6"):
            return Moments(*clipped_normal(x.mean, np.sqrt(x.variance), *CLIPS[node.kind]), x.measured)
        case FloatAvgPool2d():
            return x
        case FloatFlatten():
            repeats = node.shape[0] // x.mean.size
            return Moments(np.repeat(x.mean, repeats), np.repeat(x.variance, repeats), x.measured)
    return None


def layer_mean(node: FloatConv2d | FloatLinear, weight: FloatArray, mean: FloatArray) -> FloatArray:
    """Sum of weights times the mean of the input channel each reads, (N,), borders left out; shaped as the node's."""
    rows, groups = weight.shape[0], by_input_channel(node, weight)
    return np.asarray(np.einsum("gcnk,gc->gn", groups, mean.reshape(groups.shape[:2]))).reshape(rows)


def _spread(node: FloatConv2d | FloatLinear, x: Moments) -> FloatArray:
    """Variance of the output for independent inputs: weights squared times variances."""
    return layer_mean(node, np.square(node.weight), x.variance)


def _float32(values: FloatArray) -> FloatArray:
    """Rounded as ranges are, so that the order of a sum over the data set does not show."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def batch_norm_ranges(graph: FloatGraph, known: dict[str, Moments]) -> dict[str, Range]:
    """Return mean -+ 6 deviations of every tensor that has a scale of its own, over all channels; ReLU applied.

    Args:
        known: from `propagate`. The input's range is not among the result, as no batch norm describes it.
    Raises:
        InputError: a tensor's moments are not known; the line names its node.
    Source: Nagel et al. 2019 (arXiv 1906.04721), section 5; Nagel et al. 2021 (arXiv 2106.08295), section 3.1.
    """
    ranges: dict[str, Range] = {}
    for tensor, made in scaled_tensors(graph).items():
        if isinstance(graph.by_name[made], FloatInput):
            continue
        if made not in known or known[made].measured:
            where = graph.by_name[made].source or made
            raise InputError(
                f"{graph.name}: {where}: activation.range = 'batch_norm' needs batch-norm statistics of its output, "
                "and there are none; choose another range"
            )
        moments, last = known[made], graph.by_name[tensor]
        reach = DEVIATIONS * np.sqrt(moments.variance)
        low, high = float((moments.mean - reach).min()), float((moments.mean + reach).max())
        if isinstance(last, FloatActivation):  # fused: a ReLU or ReLU6
            low, high = (min(max(end, CLIPS[last.kind][0]), CLIPS[last.kind][1]) for end in (low, high))
        ranges[tensor] = Range(float(np.float32(low)), float(np.float32(high)))
    return ranges
