"""Bias correction: the mean error that quantised weights and inputs leave in a layer's output is taken off its bias.

Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.2; Nagel et al. 2021 (arXiv 2106.08295), section 3.3.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.ir.float_graph import FloatArray, FloatConv2d, FloatGraph, FloatLinear
from accelsim.ir.integer_graph import IntegerGraph, Mac
from accelsim.quantization.integer_path import Place, Slices, rewrite
from accelsim.quantization.observe import batches, walk
from accelsim.quantization.statistics import Moments, layer_mean


def correct_analytically(graph: IntegerGraph, floats: FloatGraph, known: dict[str, Moments], bits: int) -> IntegerGraph:
    """Take the mean error of the weights off every bias, from batch-norm statistics alone.

    b -= sum (S_w (q_w - Z_w) - w) E[x], with E[x] of each input channel from `statistics.propagate` (behind a ReLU the
    mean of a clipped normal); borders are left out. What quantised inputs and requantisation add is not seen.

    Args:
        graph: the quantised graph.
        floats: the float graph it was lowered from.
        known: moments of the float graph's tensors.
        bits: of the biases, which saturate.
    Raises:
        InputError: the mean of a layer's input is not known; the line names the layer.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Mac):
            place = Place(graph, node, graph.by_name[node.inputs[0]].output)
            layer = floats.by_name[node.name]
            assert isinstance(layer, FloatConv2d | FloatLinear)
            if layer.inputs[0] not in known:
                raise InputError(
                    f"{graph.name}: {node.source or node.name}: bias.correction = 'analytic' needs batch-norm "
                    "statistics of what it reads, and there are none; set bias.correction = 'empirical'"
                )
            error = place.real_weight() - layer.weight
            node = place.with_bias_raised(-layer_mean(layer, error, known[layer.inputs[0]].mean), bits)
        nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def correct_empirically(
    graph: IntegerGraph, floats: FloatGraph, examples: npt.NDArray[np.number], bits: int
) -> IntegerGraph:
    """Take the mean error of every layer's output off its bias, measured on examples, layer after layer.

    b += E[y] - E[S_y r]: y is the float layer's output before its activation, r the integer layer's requantised sum
    before zero point and clip, in a network whose earlier layers are corrected already. So the error of the
    weights, of the quantised input and of the requantisation's rounding are all taken off. E is over images and
    positions, the float one rounded to float32 so that the order of its sum does not show.

    Args:
        graph: the quantised graph.
        floats: the float graph it was lowered from.
        examples: (N, *input shape), N >= 1.
        bits: of the biases, which saturate.
    """
    wanted = _float_means(floats, examples)

    def edit(place: Place, inputs: Slices) -> Mac:
        return place.with_bias_raised(wanted[place.node.name] - place.mean_output(inputs), bits)

    return rewrite(graph, examples.astype(np.float64), edit)


def _float_means(graph: FloatGraph, examples: npt.NDArray[np.number]) -> dict[str, FloatArray]:
    """Mean output of every layer before its activation, by channel."""
    totals: dict[str, Any] = {}
    for batch in batches(graph, examples):
        for name, tensor in walk(graph, batch):
            if isinstance(graph.by_name[name], FloatConv2d | FloatLinear):
                per_channel = tensor.reshape(*tensor.shape[:2], -1).mean(axis=2).sum(axis=0)
                totals[name] = totals.get(name, 0.0) + per_channel
    return {name: (total / len(examples)).astype(np.float32).astype(np.float64) for name, total in totals.items()}
