"""Integer layers changed one by one, each seeing what the layers before it, already changed, give on examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.engine.evaluation import last_uses, run_node, to_lanes
from accelsim.engine.layer import Lanes, Layer, form_sums
from accelsim.errors import InputError
from accelsim.ir.integer_graph import Input, IntegerGraph, Mac, TensorType
from accelsim.ir.reference import quantize_input
from accelsim.numerics import Arithmetic, IntFormat, requantize
from accelsim.quantization.layers import to_float_layout, to_integer_layout

EXACT = Arithmetic(psum_bits=64, width_bits=64, overflow="saturate", saturate_at="end", rows=16, dataflow="ws")
"""Sums that nothing limits: quantisation knows no hardware, and repairs what rounding does, not what overflow does."""
SLICE_IMAGES = 64

Slices = list[Lanes]
"""Codes int16 (H, W, C, B) of a tensor, in slices of images."""


@dataclass(frozen=True)
class Place:
    """A layer of a graph and the type of the tensor it reads."""

    graph: IntegerGraph
    node: Mac
    source: TensorType

    @property
    def weight_scale(self) -> npt.NDArray[np.float64]:
        """S_w of each output channel, (N,), from M = S_x * S_w / S_y."""
        return self.node.multiplier.real * self.node.output.scale / self.source.scale

    def real_weight(self) -> npt.NDArray[np.float64]:
        """S_w * (q - Z_w), (N, C / groups, R, S) or (N, K) in PyTorch's order."""
        steps = to_float_layout(self.node.weight, self.source) - self.node.weight_zero_point
        return np.asarray(steps * self.weight_scale.reshape(-1, *[1] * (steps.ndim - 1)))

    def with_weight(self, codes: npt.NDArray[np.int64]) -> Mac:
        """The layer with other weights, (N, C / groups, R, S) or (N, K) in PyTorch's order, at the same scales."""
        weight = to_integer_layout(codes, self.source)
        moved = self._folded(weight) - self._folded(self.node.weight)
        return dataclasses.replace(self.node, weight=weight, bias=self.node.bias + moved)

    def with_bias_raised(self, reals: npt.NDArray[np.float64], bits: int) -> Mac:
        """The layer with round-half-even(reals / (S_x * S_w)) added to its bias, which saturates at `bits`.

        The bias saturates without what is folded into it, as in lowering. All-zero weights, whose S_w makes M 1, count
        in steps of the output.
        """
        folded = self._folded(self.node.weight)
        steps = np.rint(reals / (self.weight_scale * self.source.scale))
        bias = np.clip(self.node.bias - folded + steps, *IntFormat(bits).limits).astype(np.int64) + folded
        if bias.min() < -(2**31) or bias.max() >= 2**31:
            raise InputError(
                f"{self.graph.name}: {self.node.source or self.node.name}: the corrected bias with the zero point "
                "folded in does not fit 32 bits; use zero_points = 'subtracted'"
            )
        return dataclasses.replace(self.node, bias=bias)

    def _folded(self, weight: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """What folding the input's zero point adds to the bias."""
        if self.graph.zero_points != "folded":
            return np.zeros(weight.shape[0], dtype=np.int64)
        return -self.source.zero_point * weight.reshape(weight.shape[0], -1).sum(axis=1)

    def mean_output(self, inputs: Slices) -> npt.NDArray[np.float64]:
        """S_y times the mean over images and positions of the requantised sum, (N,), before zero point and clip."""
        layer = Layer(self.graph, self.node, EXACT)
        total, count = np.zeros(self.node.out_channels, dtype=np.int64), 0
        bias = 0 if layer.bias_first else self.node.bias[:, None]
        for codes in inputs:
            sums = form_sums(layer, codes, EXACT).astype(np.int64) + bias
            m0, shift = self.node.multiplier.m0[:, None], self.node.multiplier.shift[:, None]
            scaled = requantize(sums, m0, shift, self.graph.requantization)
            total += scaled.sum(axis=(0, 2))
            count += scaled.shape[0] * scaled.shape[2]
        return self.node.output.scale * (total / count)


def rewrite(
    graph: IntegerGraph, examples: npt.NDArray[np.floating[Any]], edit: Callable[[Place, Slices], Mac]
) -> IntegerGraph:
    """Evaluate a graph node by node, replacing each convolution and linear layer by what `edit` makes of it.

    Args:
        graph: a legal one.
        examples: float64 (N, *input shape), N >= 1.
        edit: takes a layer and the codes of its input, computed with the layers before as edited; returns the layer.
    Returns:
        The graph of the edited layers. Its bits on the examples are those of the machine where no sum overflows.
    """
    codes = quantize_input(graph, examples)
    entered = [to_lanes(codes[first : first + SLICE_IMAGES]) for first in range(0, len(codes), SLICE_IMAGES)]
    tensors: dict[str, Slices] = {}
    edited = {node.name: node for node in graph.nodes}
    last_use = last_uses(graph)
    for position, node in enumerate(graph.nodes):
        sources = [tensors[name] for name in node.inputs]
        if isinstance(node, Mac):
            place = Place(graph, node, graph.by_name[node.inputs[0]].output)
            edited[node.name] = node = edit(place, sources[0])
        layers = {node.name: (Layer(graph, node, EXACT) if isinstance(node, Mac) else None, EXACT)}
        if isinstance(node, Input):
            tensors[node.name] = entered
        else:
            parts = zip(*sources, strict=True)
            tensors[node.name] = [run_node(graph, node, part[0], list(part), layers) for part in parts]
        for name in {node.name, *node.inputs}:
            if last_use.get(name, position) <= position:
                tensors.pop(name, None)
    return dataclasses.replace(graph, nodes=tuple(edited.values()))
