"""Cross-layer equalisation and bias absorption: the same float function with weights that one scale fits better.

Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from accelsim.config.quantization import EqualizationScheme
from accelsim.errors import InputError
from accelsim.ir.float_graph import (
    ChannelStatistics,
    FloatActivation,
    FloatArray,
    FloatAvgPool2d,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatLinear,
    FloatMaxPool2d,
    FloatNode,
)
from accelsim.quantization.layers import bias_of, by_input_channel

TOLERANCE = 1e-4
"""Sweeps stop when no scale of a sweep differs from 1 by more: far below a step of any format."""
MOST_SWEEPS = 1000
ABSORBED_DEVIATIONS = 3.0
"""Where a mean lies farther above 0 than this many deviations, the excess is absorbed."""

Layer = FloatConv2d | FloatLinear


@dataclass(frozen=True)
class Chain:
    """Two layers and the nodes between them, all by name; nothing else reads anything between."""

    first: str
    between: tuple[str, ...]
    second: str


def find_chains(graph: FloatGraph, *, through: frozenset[str] = frozenset({"relu"})) -> list[Chain]:
    """Return every pair of layers joined by operations that scale with their input, in the graph's order.

    Such are the activations of `through`, max and average pools, flattens, and nothing at all: f(s x) = s f(x) for
    s > 0. A tensor that two nodes read, or that is the network's output, ends a chain; so do sums, tanh and sigmoid.
    """
    chains = []
    for node in graph.nodes:
        if not isinstance(node, Layer):
            continue
        between: list[str] = []
        name = node.name
        while name != graph.output and len(readers := graph.users(name)) == 1:
            reader = readers[0]
            name = reader.name
            if isinstance(reader, Layer):
                chains.append(Chain(node.name, tuple(between), name))
                break
            if not _passes(reader, through):
                break
            between.append(name)
    return chains


def _passes(node: FloatNode, through: frozenset[str]) -> bool:
    if isinstance(node, FloatActivation):
        return node.kind in through
    return isinstance(node, FloatMaxPool2d | FloatAvgPool2d | FloatFlatten)


def repaired(graph: FloatGraph, how: EqualizationScheme) -> FloatGraph:
    """Return the float graph that a scheme quantises: ReLU6 replaced, weights equalised, high biases absorbed.

    Args:
        graph: after `frontend.fold_batch_norm`.
        how: the scheme's `equalization`; with its defaults the graph stays as it is.
    Raises:
        InputError: as `equalize` and `absorb_bias`.
    """
    if how.relu6 == "replace":
        graph = replace_relu6(graph)
    if how.weights:
        graph = equalize(graph)
    return absorb_bias(graph) if how.absorb_bias else graph


def replace_relu6(graph: FloatGraph) -> FloatGraph:
    """Return the graph with ReLU in place of every ReLU6 inside a chain: another function, where a value exceeds 6.

    ReLU6 does not scale with its input, and a limit for each channel, which would mend that, is nothing the output
    stage has. Source: Nagel et al. 2019, section 5 (replacing it costs MobileNetV2 little).
    """
    inside = {name for chain in find_chains(graph, through=frozenset({"relu", "relu6"})) for name in chain.between}
    return dataclasses.replace(
        graph,
        nodes=tuple(
            dataclasses.replace(node, kind="relu")
            if isinstance(node, FloatActivation) and node.name in inside
            else node
            for node in graph.nodes
        ),
    )


def equalize(graph: FloatGraph) -> FloatGraph:
    """Return the same function with equal ranges of weights on both sides of each channel between two layers.

    For channel i of a chain, r1 = max|W1[i, :]| and r2 = max|W2[:, i]|: W1[i, :] and b1[i] are divided and W2[:, i]
    multiplied by s = sqrt(r1 / r2), after which both maxima are sqrt(r1 r2). A channel with r1 or r2 of 0 keeps s = 1.
    Chains are swept in order until no s of a sweep is farther from 1 than 1e-4. `statistics` scale along. Biases are
    not equalised; they have 32 bits.

    Args:
        graph: after `frontend.fold_batch_norm`.
    Raises:
        InputError: the graph has no chain.
    Source: Nagel et al. 2019, section 4.1 and appendix A.
    """
    chains = find_chains(graph)
    if not chains:
        raise _no_chain(graph, "equalization.weights")
    layers = {node.name: node for node in graph.nodes if isinstance(node, Layer)}
    for _ in range(MOST_SWEEPS):
        farthest = 0.0
        for chain in chains:
            first, second = layers[chain.first], layers[chain.second]
            scale = _scales(first, second)
            farthest = max(farthest, float(np.abs(scale - 1.0).max()))
            layers[chain.first] = _outputs_divided(first, scale)
            layers[chain.second] = _inputs_multiplied(second, scale)
        if farthest <= TOLERANCE:
            break
    return _with_layers(graph, layers)


def absorb_bias(graph: FloatGraph) -> FloatGraph:
    """Return the graph with high biases of a layer moved into the next, where a batch norm tells how high.

    Channel i of a chain with a ReLU, of mean m and deviation s before it: c = max(0, m - 3 s) is taken off b1[i], and
    W2 c added to b2. relu(x - c) = relu(x) - c wherever x >= c, which holds for 99.87 % of a normal distribution, so
    the function changes by little and activations need a smaller range. Chains are taken only where that c passes to
    the next layer unchanged: its kernel does not pad (a border would see c where there were zeros), nor does an average
    pool between that counts the padding.

    Args:
        graph: after `frontend.fold_batch_norm`, and `equalize` where wanted.
    Raises:
        InputError: no chain can be taken; the line says what is missing.
    Source: Nagel et al. 2019, section 4.1.
    """
    chains = [chain for chain in find_chains(graph) if _shifts(graph, chain)]
    if not chains:
        raise _no_chain(graph, "equalization.absorb_bias")
    layers = {node.name: node for node in graph.nodes if isinstance(node, Layer)}
    known = [chain for chain in chains if layers[chain.first].statistics is not None]
    if not known:
        where = graph.by_name[chains[0].first].source or chains[0].first
        raise InputError(
            f"{graph.name}: {where}: equalization.absorb_bias needs batch-norm statistics of its output, and no layer "
            "that could be absorbed from has them; set equalization.absorb_bias = false"
        )
    for chain in known:
        first, second = layers[chain.first], layers[chain.second]
        seen = first.statistics
        assert seen is not None
        excess = np.maximum(0.0, seen.mean - ABSORBED_DEVIATIONS * seen.deviation)
        layers[chain.first] = dataclasses.replace(
            first, bias=bias_of(first) - excess, statistics=ChannelStatistics(seen.mean - excess, seen.deviation)
        )
        # The second layer's bias takes over; its output, and with it its statistics, stay.
        groups = by_input_channel(second, second.weight).sum(axis=3)
        taken = np.einsum("gcn,gc->gn", groups, _per_input(second, excess).reshape(groups.shape[:2]))
        layers[chain.second] = dataclasses.replace(second, bias=bias_of(second) + taken.ravel())
    return _with_layers(graph, layers)


def _shifts(graph: FloatGraph, chain: Chain) -> bool:
    """Whether a constant taken off a channel before the chain's ReLU comes off all that its second layer reads."""
    nodes = [graph.by_name[name] for name in chain.between]
    second = graph.by_name[chain.second]
    if isinstance(second, FloatConv2d) and any(second.padding):
        return False
    if any(isinstance(node, FloatAvgPool2d) and node.count_include_pad and any(node.padding) for node in nodes):
        return False
    return any(isinstance(node, FloatActivation) for node in nodes)


def _scales(first: Layer, second: Layer) -> FloatArray:
    """s of every channel between two layers, float64 (C,)."""
    channels = first.weight.shape[0]
    largest_out = np.abs(first.weight).reshape(channels, -1).max(axis=1)
    per_input = np.abs(by_input_channel(second, second.weight)).max(axis=(2, 3))
    largest_in = per_input.reshape(channels, -1).max(axis=1)
    dead = (largest_out == 0.0) | (largest_in == 0.0)
    ratio = np.where(dead, 1.0, largest_out) / np.where(dead, 1.0, largest_in)
    return np.asarray(np.sqrt(ratio))


def _outputs_divided(layer: Layer, scale: FloatArray) -> Layer:
    statistics = layer.statistics
    if statistics is not None:
        statistics = ChannelStatistics(statistics.mean / scale, statistics.deviation / scale)
    return dataclasses.replace(
        layer,
        weight=layer.weight / scale.reshape(-1, *[1] * (layer.weight.ndim - 1)),
        bias=None if layer.bias is None else layer.bias / scale,
        statistics=statistics,
    )


def _inputs_multiplied(layer: Layer, scale: FloatArray) -> Layer:
    groups = layer.groups if isinstance(layer, FloatConv2d) else 1
    per_group = _per_input(layer, scale).reshape(groups, -1)
    rows = layer.weight.shape[0] // groups
    factors = np.repeat(per_group, rows, axis=0)  # (N, inputs of a row)
    return dataclasses.replace(
        layer, weight=layer.weight * factors.reshape(*factors.shape, *[1] * (layer.weight.ndim - 2))
    )


def _per_input(layer: Layer, per_channel: FloatArray) -> FloatArray:
    """A figure for each channel as one for each input: behind a flatten, a channel is H * W neighbouring inputs."""
    inputs = layer.weight.shape[1] * (layer.groups if isinstance(layer, FloatConv2d) else 1)
    return np.repeat(per_channel, inputs // per_channel.size)


def _with_layers(graph: FloatGraph, layers: dict[str, Layer]) -> FloatGraph:
    return dataclasses.replace(graph, nodes=tuple(layers.get(node.name, node) for node in graph.nodes))


def _no_chain(graph: FloatGraph, key: str) -> InputError:
    relu6 = len(find_chains(graph, through=frozenset({"relu", "relu6"}))) > len(find_chains(graph))
    remedy = "set equalization.relu6 = 'replace'" if relu6 else f"set {key} = false"
    rule = "a ReLU, with no padding behind it" if key.endswith("absorb_bias") else "ReLU, pools or nothing"
    return InputError(f"{graph.name}: {key} finds no two layers joined by {rule} alone; {remedy}")
