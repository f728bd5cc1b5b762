"""Which float nodes become one integer node. Fusing never changes a bit: it says where a clamp is applied."""

from __future__ import annotations

from dataclasses import dataclass

from accelsim.ir.float_graph import (
    FloatActivation,
    FloatAdd,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatLinear,
    FloatMatMul,
)


@dataclass(frozen=True)
class Fusion:
    """How a float graph maps on integer nodes.

    Attributes:
        source: for every float node, the float node whose integer node computes its tensor.
        activation: convolutions, linear layers, products and sums that clip for the ReLU or ReLU6 behind them.
        only_tables: convolutions, linear layers, products and sums that nothing but tanh and sigmoid reads, with the
            names of these readers.
    """

    source: dict[str, str]
    activation: dict[str, FloatActivation]
    only_tables: dict[str, list[str]]


def plan_fusion(graph: FloatGraph) -> Fusion:
    """Decide what is fused.

    A flatten is no node: integer tensors keep (H, W, C), and the linear layer behind permutes its weights. A ReLU or
    ReLU6 that is the only reader of a convolution, linear layer, product or sum, through flattens or not, becomes that
    node's clip. Every other activation is a node of its own.
    """
    unflattened: dict[str, str] = {}
    for node in graph.nodes:
        is_flatten = isinstance(node, FloatFlatten)
        unflattened[node.name] = unflattened[node.inputs[0]] if is_flatten else node.name
    readers: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        if not isinstance(node, FloatFlatten):
            for name in node.inputs:
                readers[unflattened[name]].append(node.name)
    readers[unflattened[graph.output]].append("")

    source: dict[str, str] = {}
    activation: dict[str, FloatActivation] = {}
    for node in graph.nodes:
        source[node.name] = node.name
        if isinstance(node, FloatFlatten):
            source[node.name] = source[node.inputs[0]]
        elif isinstance(node, FloatActivation) and node.kind in ("relu", "relu6"):
            before = source[node.inputs[0]]
            computes = isinstance(graph.by_name[before], FloatConv2d | FloatLinear | FloatMatMul | FloatAdd)
            if computes and readers[before] == [node.name]:
                source[node.name] = before
                activation[before] = node
    only_tables = {}
    for name, names in readers.items():
        tables = names and all(_is_table(graph, reader) for reader in names)
        if isinstance(graph.by_name[name], FloatConv2d | FloatLinear | FloatMatMul | FloatAdd) and tables:
            only_tables[name] = names
    return Fusion(source, activation, only_tables)


def _is_table(graph: FloatGraph, reader: str) -> bool:
    node = graph.by_name.get(reader)
    return isinstance(node, FloatActivation) and node.kind in ("tanh", "sigmoid")
