"""Integer weights in a float network: what quantising the weights alone costs, before activations are integers too."""

from __future__ import annotations

import dataclasses

import numpy as np

from accelsim.ir.float_graph import FloatConv2d, FloatGraph, FloatLinear, FloatNode
from accelsim.ir.integer_graph import IntegerGraph, Linear, Mac


def with_quantized_weights(graph: FloatGraph, quantized: IntegerGraph) -> FloatGraph:
    """Return the float graph with each weight replaced by the real number that its integer stands for.

    w = S_w * (q - Z_w); S_w is M * S_y / S_x, which differs from the scale chosen by at most a few units in float64's
    last place. Biases stay as they are.

    Args:
        graph: what was quantised, batch norms folded.
        quantized: its integer graph, from `lower` or `quantize`; its nodes have the names of the float ones.

    >>> import numpy as np
    >>> from accelsim.config import load_quantization
    >>> from accelsim.ir import FloatGraph, FloatInput, FloatLinear
    >>> from accelsim.quantization import quantize
    >>> layer = FloatLinear(name="fc", inputs=("x",), shape=(1,), weight=np.array([[1.27, -0.504]]), bias=None)
    >>> model = FloatGraph(name="model", nodes=(FloatInput(name="x", inputs=(), shape=(2,)), layer), output="fc")
    >>> integers = quantize(model, np.eye(2), load_quantization("int8"))
    >>> with_quantized_weights(model, integers).by_name["fc"].weight.round(12).tolist()
    [[1.27, -0.5]]
    """
    nodes: list[FloatNode] = []
    for node in graph.nodes:
        if isinstance(node, FloatConv2d | FloatLinear):
            integer = quantized.by_name[node.name]
            assert isinstance(integer, Mac)
            source = quantized.by_name[integer.inputs[0]].output
            scale = integer.multiplier.real * integer.output.scale / source.scale
            values = (integer.weight - integer.weight_zero_point).astype(np.float64)
            if isinstance(integer, Linear):  # k in (h, w, c) order
                values = values.reshape(-1, source.height, source.width, source.channels)
            values = np.moveaxis(values, 3, 1).reshape(node.weight.shape)
            weight = values * scale.reshape(-1, *[1] * (values.ndim - 1))
            nodes.append(dataclasses.replace(node, weight=weight))
        else:
            nodes.append(node)
    return FloatGraph(graph.name, tuple(nodes), graph.output)
