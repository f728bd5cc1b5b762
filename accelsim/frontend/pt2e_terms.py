"""The words in which a PT2E program is read: quantisers, weights, tensors waiting for their codes, names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from accelsim.frontend.capture import operator_of
from accelsim.ir import TensorType
from accelsim.ir.float_graph import FloatAdd, FloatConv2d, FloatLinear, Shape
from accelsim.numerics import IntFormat

INT8 = IntFormat(8)
DECOMPOSED = "quantized_decomposed."
SUPPORTED = (
    "conv2d, linear, sums of two tensors, max, average and adaptive average pools, flatten and functions of one "
    "element, between quantize and dequantize operators"
)
ELEMENTWISE = frozenset(
    f"aten.{word}"
    for word in (
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "tanh", "sigmoid", "hardswish", "silu"),
        *(
            "hardsigmoid",
            "gelu",
            "leaky_relu",
            "elu",
            "mish",
            "softplus",
            "exp",
            "neg",
            "abs",
            "mul",
            "div",
            "add",
            "sub",
        ),
    )
)
"""Functions of one element. On codes they are a table of 256 entries, which PyTorch itself fills."""
CLAMPS = frozenset(("aten.relu", "aten.relu6", "aten.hardtanh", "aten.clamp", "aten.clamp_min", "aten.clamp_max"))
"""Those that a convolution, linear layer or sum takes into its clip: rounding keeps order, so they commute with it."""
IDENTITY = frozenset(
    ("aten.dropout", "aten.feature_dropout", "aten.clone", "aten.contiguous", "aten.detach", "aten.alias", "aten.to")
)


@dataclass(frozen=True)
class Quantizer:
    """What a quantize operator does, in codes of int8 (uint8 ones less 128): round(x / S) + Z, inside the limits."""

    scale: float
    zero_point: int
    low: int
    high: int

    def codes(self, values: Tensor) -> Tensor:
        """As `quantized_decomposed.quantize_per_tensor` computes it: float32, times 1 / S, ties to even."""
        return torch.clamp(torch.round(values * (1.0 / self.scale)) + self.zero_point, self.low, self.high)


@dataclass(frozen=True)
class Exact:
    """A dequantised tensor, then functions of one element that have not been given codes yet.

    Attributes:
        node: the integer node whose codes it is; "" for the model's input before it is quantised.
        shape: PyTorch's, without the batch.
        last: the operator that computes it.
        chain: functions, first to last, with their names.
    """

    node: str
    shape: Shape
    last: Node
    chain: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()


@dataclass(frozen=True)
class Pending:
    """A convolution, linear layer or sum in float, whose quantiser is still to come.

    Attributes:
        made: what it computes.
        operator: where it stands; gives the node its name.
        sources: integer nodes it reads.
        clamps: clamps behind it, first to last.
        weight: codes and scales of a convolution or linear layer.
    """

    made: FloatConv2d | FloatLinear | FloatAdd
    operator: Node
    sources: tuple[str, ...]
    shape: Shape
    last: Node
    clamps: tuple[Callable[[Tensor], Tensor], ...] = ()
    weight: Weight | None = None


@dataclass(frozen=True)
class Weight:
    """Weights as stored: codes int64 in PyTorch's shape, S_w float64 (N,), Z_w, and the limits of the codes."""

    codes: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float64]
    zero_point: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """The narrowest signed format that holds every code there may be."""
        return max(2, *((v if v >= 0 else ~v).bit_length() + 1 for v in (self.low, self.high)))


class Names:
    """Names of nodes as `frontend.names` chooses them, from the module paths that the export recorded."""

    def __init__(self, module: GraphModule):
        self.paths = {path for node in module.graph.nodes for path, _ in _stack(node)}
        self.taken: set[str] = set()

    def input(self) -> str:
        return self.fresh("input")

    def fresh(self, stem: str) -> str:
        """The stem, or the stem with a number where something has that name."""
        name, number = stem, 0
        while name in self.taken | self.paths:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name

    def of(self, node: Node) -> str:
        """The path of a leaf module, else the operation with a number from 1 behind the path of its module."""
        path = path_of(node)
        leaf = path and not any(other.startswith(f"{path}.") for other in self.paths)
        if leaf and path not in self.taken:
            self.taken.add(path)
            return path
        word = word_of(node).rpartition(".")[2]
        stem = path if leaf else ".".join(filter(None, [path, word]))
        number = 2 if leaf else 1
        while (name := f"{stem}_{number}") in self.taken | self.paths:
            number += 1
        self.taken.add(name)
        return name


def _stack(node: Node) -> list[tuple[str, str]]:
    return [(str(path), str(kind)) for path, kind in (node.meta.get("nn_module_stack") or {}).values()]


def path_of(node: Node) -> str:
    stack = _stack(node)
    return stack[-1][0] if stack else ""


def word_of(node: Node) -> str:
    """The operator without its overload, in-place ones as the others: "aten.add"."""
    return operator_of(node).rstrip("_") if node.op == "call_function" else str(node.target)


def layout_of(shape: Shape) -> tuple[int, int, int]:
    return (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, 1, shape[0])


def tensor_type(shape: tuple[int, int, int], quantizer: Quantizer) -> TensorType:
    return TensorType(
        height=shape[0], width=shape[1], channels=shape[2], scale=quantizer.scale, zero_point=quantizer.zero_point
    )
