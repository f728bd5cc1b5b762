"""Integer weights in a float network: what quantising the weights alone costs, before activations are integers too."""

from __future__ import annotations

import dataclasses

from accelsim.config.quantization import QuantizationScheme
from accelsim.ir.float_graph import FloatConv2d, FloatGraph, FloatLinear, FloatNode
from accelsim.ir.integer_graph import IntegerGraph, Mac
from accelsim.quantization.equalization import repaired
from accelsim.quantization.integer_path import Place


def with_quantized_weights(graph: FloatGraph, quantized: IntegerGraph, scheme: QuantizationScheme) -> FloatGraph:
    """Return the float graph with each weight replaced by the real number that its integer stands for.

    w = S_w * (q - Z_w); S_w is M * S_y / S_x, which differs from the scale chosen by at most a few units in the last
    place of the arithmetic that M was formed in. Where the scheme equalises, weights and biases are those of the
    equalised network. Biases are not rounded, nor corrected.

    Args:
        graph: what was quantised, batch norms folded.
        quantized: its integer graph, from `quantize`; its nodes have the names of the float ones.
        scheme: the one it was quantised with.

    >>> import numpy as np
    >>> from accelsim.config import load_quantization
    >>> from accelsim.ir import FloatGraph, FloatInput, FloatLinear
    >>> from accelsim.quantization import quantize
    >>> layer = FloatLinear(name="fc", inputs=("x",), shape=(1,), weight=np.array([[1.27, -0.504]]), bias=None)
    >>> model = FloatGraph(name="model", nodes=(FloatInput(name="x", inputs=(), shape=(2,)), layer), output="fc")
    >>> scheme = load_quantization("int8")
    >>> integers = quantize(model, np.eye(2), scheme)
    >>> with_quantized_weights(model, integers, scheme).by_name["fc"].weight.round(12).tolist()
    [[1.27, -0.5]]
    """
    graph = repaired(graph, scheme.equalization)
    nodes: list[FloatNode] = []
    for node in graph.nodes:
        if isinstance(node, FloatConv2d | FloatLinear):
            integer = quantized.by_name[node.name]
            assert isinstance(integer, Mac)
            place = Place(quantized, integer, quantized.by_name[integer.inputs[0]].output)
            nodes.append(dataclasses.replace(node, weight=place.real_weight()))
        else:
            nodes.append(node)
    return FloatGraph(graph.name, tuple(nodes), graph.output)
