"""The integer graph: what the accelerator computes, to the bit.

Tensors are (batch, H, W, C) integers in one activation format for the whole graph; a vector of K is (1, 1, K) or keeps
the (H, W, C) of the image it was flattened from. real = S * (q - Z). docs/numerics.md states every operation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError, did_you_mean
from accelsim.files import FilePath
from accelsim.ir.float_graph import window_extent
from accelsim.numerics import Arithmetic, IntFormat, Precision, Requantization, Rounding, Scheme, chunks

ZeroPoints = Literal["folded", "subtracted"]
Kind = Literal["codes", "int32", "float32"]
AddRounding = Literal["operands", "sum"]
BiasAt = Literal["ppu", "accumulator"]
SecondOperand = Literal["tokens", "channels"]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """Shape (height, width, channels) without the batch, scale S > 0 and zero point Z of an activation tensor.

    `limits`, both inclusive, hold every code of the tensor; None stands for those of the graph's container format. So
    4-bit, unsigned 4-bit and restricted -127..127 tensors live in one int8 graph. Z, which padding feeds, lies inside.
    `kind` is what the elements are: codes; or, in a tensor that only the host holds, int32 sums or float32 reals, whose
    scale is 1 and zero point 0.
    """

    height: int
    width: int
    channels: int
    scale: float
    zero_point: int = 0
    limits: tuple[int, int] | None = None
    kind: Kind = "codes"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def size(self) -> int:
        """Elements, one byte each whatever their bits."""
        return self.height * self.width * self.channels

    def limits_in(self, container: IntFormat) -> tuple[int, int]:
        """(smallest, largest) code, in a graph of this container format."""
        return container.limits if self.limits is None else self.limits


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation; `name` is unique and shown in reports, `source` tells where the user's model has it."""

    name: str
    inputs: tuple[str, ...]
    output: TensorType
    source: str = ""

    @property
    def op(self) -> str:
        """The operation's name in files and reports."""
        return OP_NAMES[type(self)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Node):
    """The network's input, quantised by the host; of kind "float32" where a `Quantize` does it.

    Attributes:
        precision: of the division by S.
    """

    precision: Precision = "float64"


@dataclass(frozen=True, kw_only=True, eq=False)
class Multiplier:
    """Stored requantisation of one node: integers per output channel (or one), and the real M they came from.

    Attributes:
        m0, shift: int64 (N,), as `Requantization.derive` gives them; the only figures used to compute.
        real: float64 (N,), M, for readers; written as hexadecimal floats.
    """

    m0: Int64Array
    shift: Int64Array
    real: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mac(Node):
    """A sum of products: convolution or linear layer, bias, requantisation, zero point, clip.

    Attributes:
        weight: int64; Conv2d (N, R, S, C/groups), Linear (N, K) with k in (h, w, c) order.
        weight_bits: 2..8, signed.
        weight_zero_point: Z_w; 0 where zero points are folded.
        bias: int64 (N,), in units of S_x * S_w, with -Z_x * sum(w) folded in where zero points are folded.
        multiplier: M = S_x * S_w / S_y per output channel.
        clip: the activation's limits inside the output's (ReLU: Z_y below).
        accumulator_width_bits: narrower accumulator for this layer, or None for the hardware's.

    With an output of kind "int32" (ONNX ConvInteger, MatMulInteger) the result is the sum itself, bias included,
    its low 32 bits; `multiplier` then has no channel and `clip` is int32's limits.
    """

    weight: Int64Array
    weight_bits: int = 8
    weight_zero_point: int = 0
    bias: Int64Array
    multiplier: Multiplier
    clip: tuple[int, int]
    accumulator_width_bits: int | None = None

    @property
    def out_channels(self) -> int:
        """N."""
        return int(self.weight.shape[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2d(Mac):
    """Convolution; padding (top, bottom, left, right) feeds Z_x."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        """(R, S)."""
        return int(self.weight.shape[1]), int(self.weight.shape[2])

    @property
    def is_depthwise(self) -> bool:
        """One input channel and one output channel a group: runs on the array's diagonal."""
        return self.groups > 1 and self.weight.shape[3] == 1 and self.out_channels == self.groups


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Mac):
    """Matrix product with all elements of the input, in (h, w, c) order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatMul(Node):
    """Products of two activation tensors, head by head: requantisation, zero point, clip; no bias.

    Tokens are the positions (y, x) of a tensor, row by row; its channels are the heads' one after another. Row t of
    head h of the first operand is its token t's channels h*K .. h*K + K - 1, and

    - second = "tokens": Y[t, h*N + n] = sum over k of A[t, h*K + k] * B[k, h*N + n], k being a token of the second
      operand (attention's values);
    - second = "channels": Y[t, h*N + n] = sum over k of A[t, h*K + k] * B[n, h*K + k], n being a token of the second
      operand (queries and keys).

    K is one run for each output, cut into chunks as for a linear layer.

    Attributes:
        inputs: A, whose positions the output keeps, and B.
        heads: into which the channels of both, and of the output, are cut evenly.
        second: what K goes over in B.
        multiplier: one, M = S_a * S_b * scale / S_y.
        clip: as of a `Mac`.
        accumulator_width_bits: as of a `Mac`.
    """

    heads: int
    second: SecondOperand
    multiplier: Multiplier
    clip: tuple[int, int]
    accumulator_width_bits: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool2d(Node):
    """Largest q of a window; padding takes no part. Keeps S, Z and limits."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class AvgPool2d(Node):
    """Z + round(sum(q - Z) / count), an exact division; count: the window, or its positions inside.

    Keeps S, Z and limits: a mean lies between its values.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    count_include_pad: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """clamp(Z_y + requant(q1 - Z1) + requant(q2 - Z2)), exact sum, one clamp. One multiplier an input.

    Attributes:
        rounding: "operands", as above; or "sum", `numerics.add_rounded_once` with M1 and M2, which needs requantisation
            in float32 with half_even. No machine here adds so: the host does.
    """

    multipliers: tuple[Multiplier, Multiplier]
    clip: tuple[int, int]
    rounding: AddRounding = "operands"


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip(Node):
    """clamp(q); keeps S, Z and limits: a ReLU that could not be made part of the operation before it."""

    clip: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(Node):
    """entries[q - minimum of the container]; `function` names what it tabulates. entries: int64 (2**bits,).

    Every entry lies inside the output's limits, those for codes outside the input's limits included.
    """

    entries: Int64Array
    function: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scaled(Node):
    """What `Quantize` and `Dequantize` have: S and Z of the tensor, or of each channel.

    Attributes:
        scales: float32 (1,) or (C,), S > 0.
        zero_points: int64, the same shape.
    """

    scales: npt.NDArray[np.float32]
    zero_points: Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantize(_Scaled):
    """clamp(round-half-even(x / S) + Z) of a float32 tensor, division in float32 (ONNX QuantizeLinear). Host.

    With S and Z by channel the output's own are 1 and 0, and only a `Dequantize` may read it.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Dequantize(_Scaled):
    """float32(q - Z) * S, in float32, of codes or int32 sums (ONNX DequantizeLinear). Host."""


OP_NAMES: dict[type[Node], str] = {
    Input: "input",
    Conv2d: "conv2d",
    Linear: "linear",
    MatMul: "matmul",
    MaxPool2d: "max_pool2d",
    AvgPool2d: "avg_pool2d",
    Add: "add",
    Clip: "clip",
    Table: "table",
    Quantize: "quantize",
    Dequantize: "dequantize",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerGraph:
    """Nodes in a topological order with what they share.

    Attributes:
        name: the workload's name.
        nodes: the first is the `Input`.
        output: name of the node whose tensor is the result.
        output_shape: shape of the result in PyTorch, without the batch; see `to_pytorch`.
        activation: container format of every activation tensor: what lanes, memories and tables hold. A tensor's own
            codes may have narrower `TensorType.limits`.
        requantization: scheme of every multiplier.
        zero_points: "folded" sums raw q_x * q_w; "subtracted" takes Z_x and Z_w off at the array's edge.
        bias_at: where biases are added: "ppu", or "accumulator" as the start value, clamped like any value.
    """

    name: str
    nodes: tuple[Node, ...]
    output: str
    output_shape: tuple[int, ...]
    activation: IntFormat
    requantization: Requantization
    zero_points: ZeroPoints = "folded"
    bias_at: BiasAt = "ppu"
    by_name: dict[str, Node] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})
        check_integer_graph(self)

    @property
    def input(self) -> Input:
        """The input node."""
        first = self.nodes[0]
        assert isinstance(first, Input)
        return first

    def users(self, name: str) -> list[Node]:
        """Nodes that read the output of `name`."""
        return [node for node in self.nodes if name in node.inputs]

    def limits_of(self, name: str) -> tuple[int, int]:
        """(smallest, largest) code of a node's output: its own limits, or the container's."""
        return self.by_name[name].output.limits_in(self.activation)

    def to_pytorch(self, tensor: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Reorder an output (batch, H, W, C) to PyTorch's (batch, *output_shape)."""
        return np.ascontiguousarray(np.moveaxis(tensor, 3, 1)).reshape(tensor.shape[0], *self.output_shape)

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of one image, padding included; 0 for the kinds of nodes that have none.

        Raises:
            TypeError: an operation whose products nobody has said how to count.
        """
        match node:
            case Mac():
                return node.output.size * (node.weight.size // node.out_channels)
            case MatMul():
                return node.output.size * products_of(self, node)
            case Input() | MaxPool2d() | AvgPool2d() | Add() | Clip() | Table() | Quantize() | Dequantize():
                return 0
        raise TypeError(f"{type(node).__name__}: its multiply-accumulates cannot be counted")

    def save(self, folder: FilePath) -> None:
        """Write the graph as a directory, which `load_graph` reads back; the folder is made where it is missing.

        Raises:
            InputError: the folder cannot be made, or a file cannot be written.
        """
        from accelsim.ir.storage import save_graph  # storage builds graphs, so it is loaded after them

        save_graph(self, Path(folder))


def products_of(graph: IntegerGraph, node: MatMul) -> int:
    """K of a product of two tensors."""
    return graph.by_name[node.inputs[0]].output.channels // node.heads


def mac_chunks(graph: IntegerGraph, node: Mac | MatMul, arithmetic: Arithmetic) -> list[range]:
    """The chunks of one output's K, from `numerics.chunks`, for a layer with products."""
    if isinstance(node, MatMul):
        return chunks(
            (1, 1), products_of(graph, node), rows=arithmetic.rows, dataflow=arithmetic.dataflow, packed_row=True
        )
    if isinstance(node, Conv2d):
        packed = node.groups == 1 and node.dilation[1] == 1
        dataflow = "ws" if node.is_depthwise else arithmetic.dataflow
        channels = int(node.weight.shape[3])
        return chunks(node.kernel, channels, rows=arithmetic.rows, dataflow=dataflow, packed_row=packed)
    return chunks(
        (1, 1), int(node.weight.shape[1]), rows=arithmetic.rows, dataflow=arithmetic.dataflow, packed_row=True
    )


def largest_sum(graph: IntegerGraph, node: Mac | MatMul) -> int:
    """A magnitude no partial sum of products of a layer can exceed, whatever the input.

    By the weights' l1 norm; for a product of two tensors, K times the largest codes of both.
    """
    if isinstance(node, MatMul):
        largest = 1
        for name in node.inputs:
            output = graph.by_name[name].output
            zero = output.zero_point if graph.zero_points == "subtracted" else 0
            largest *= max(abs(limit - zero) for limit in graph.limits_of(name))
        return products_of(graph, node) * largest
    low, high = graph.limits_of(node.inputs[0])
    subtract = graph.zero_points == "subtracted"
    zero = graph.by_name[node.inputs[0]].output.zero_point if subtract else 0
    weight = node.weight - node.weight_zero_point if subtract else node.weight
    l1 = np.abs(weight.reshape(node.out_channels, -1)).sum(axis=1)
    return int(l1.max()) * max(abs(low - zero), abs(high - zero))


def check_integer_graph(graph: IntegerGraph) -> None:
    """Legality rules; raise `InputError` naming graph, node and rule. Run when a graph is made, so after every pass."""
    if not graph.nodes or not isinstance(graph.nodes[0], Input):
        raise InputError(f"integer graph {graph.name}: the first node must be the input")
    if not 2 <= graph.activation.bits <= 8:
        raise InputError(f"integer graph {graph.name}: activation_bits = {graph.activation.bits} is outside 2..8")
    for key, value, known in (
        ("zero_points", graph.zero_points, get_args(ZeroPoints)),
        ("bias_at", graph.bias_at, get_args(BiasAt)),
    ):
        if value not in known:  # anything else would act as the second choice
            raise InputError(f"integer graph {graph.name}: {key} = {value!r} is not one of {', '.join(known)}")
    seen: set[str] = set()
    for position, node in enumerate(graph.nodes):
        where = f"integer graph {graph.name}: node {node.name}"
        if node.name in seen:
            raise InputError(f"{where}: the name is used twice")
        missing = [name for name in node.inputs if name not in seen]
        if missing:
            raise InputError(f"{where}: reads {missing[0]!r}, which no earlier node computes")
        if isinstance(node, Input) != (position == 0):
            raise InputError(f"{where}: the input must be the first node and the only one")
        arity = 0 if isinstance(node, Input) else 2 if isinstance(node, Add | MatMul) else 1
        if len(node.inputs) != arity:
            raise InputError(f"{where}: has {len(node.inputs)} inputs; {arity} are needed")
        _check_tensor(node.output, graph.activation, where)
        _check_kinds(graph, node, where)
        _check_overflow(graph, node, where)
        _check_node(graph, node, [graph.by_name[name].output for name in node.inputs], where)
        seen.add(node.name)
    if graph.output not in seen:
        raise InputError(f"integer graph {graph.name}: output {graph.output!r} is not a node")
    if math.prod(graph.output_shape) != graph.by_name[graph.output].output.size:
        raise InputError(f"integer graph {graph.name}: output_shape {graph.output_shape} does not hold the output")


def _check_tensor(tensor: TensorType, form: IntFormat, where: str) -> None:
    if min(tensor.shape) < 1:
        raise InputError(f"{where}: shape {tensor.shape} must be positive")
    if not (math.isfinite(tensor.scale) and tensor.scale > 0):
        raise InputError(f"{where}: scale = {tensor.scale} must be positive and finite")
    if tensor.kind not in get_args(Kind):
        raise InputError(f"{where}: kind = {tensor.kind!r} is not one of {', '.join(get_args(Kind))}")
    if tensor.kind != "codes" and (tensor.scale, tensor.zero_point) != (1.0, 0):
        raise InputError(f"{where}: a tensor of kind {tensor.kind!r} has scale 1 and zero point 0")
    if tensor.kind != "codes" and tensor.limits is not None:
        raise InputError(f"{where}: a tensor of kind {tensor.kind!r} has no limits")
    low, high = tensor.limits_in(form)
    if not form.minimum <= low <= high <= form.maximum:
        raise InputError(
            f"{where}: limits {tensor.limits} must lie in {form.minimum}..{form.maximum}, the container's, low to high"
        )
    if tensor.kind == "codes" and not low <= tensor.zero_point <= high:
        raise InputError(f"{where}: zero_point = {tensor.zero_point} is outside {low}..{high}")


def _check_overflow(graph: IntegerGraph, node: Node, where: str) -> None:
    """A wrapping output keeps the low bits of the container, and nothing narrower."""
    if graph.requantization.output_overflow == "wrap" and graph.limits_of(node.name) != graph.activation.limits:
        raise InputError(
            f"{where}: limits {node.output.limits} need output_overflow = 'saturate', because wrapping keeps the low "
            f"{graph.activation.bits} bits of the container; saturate, or give every tensor the container's format"
        )


_READS: dict[type[Node], tuple[Kind, ...]] = {Quantize: ("float32",), Dequantize: ("codes", "int32")}
_WRITES: dict[type[Node], tuple[Kind, ...]] = {
    Input: ("codes", "float32"),
    Conv2d: ("codes", "int32"),
    Linear: ("codes", "int32"),
    Dequantize: ("float32",),
}


def _check_kinds(graph: IntegerGraph, node: Node, where: str) -> None:
    """Only codes reach the array; what the host alone holds is read by what the host does."""
    if node.output.kind not in _WRITES.get(type(node), ("codes",)):
        raise InputError(f"{where}: {node.op} cannot give a tensor of kind {node.output.kind!r}")
    for name in node.inputs:
        source = graph.by_name[name]
        if source.output.kind not in _READS.get(type(node), ("codes",)):
            raise InputError(f"{where}: {node.op} cannot read {name}, a tensor of kind {source.output.kind!r}")
        if isinstance(source, Quantize) and source.scales.size > 1 and not isinstance(node, Dequantize):
            raise InputError(f"{where}: reads {name}, whose scales go by channel; only dequantize can")


def host_operators(graph: IntegerGraph) -> list[Node]:
    """The nodes that reference and engine evaluate and no machine has: they need the host.

    `Quantize`, `Dequantize`, sums as int32 outputs, and additions in float32.
    """
    return [
        node
        for node in graph.nodes
        if node.output.kind != "codes"
        or isinstance(node, Quantize)
        or (isinstance(node, Add) and node.rounding == "sum")
    ]


def refuse_matmul(graph: IntegerGraph, what: str) -> None:
    """Refuse a graph with a product of two tensors where only weights are known; `what` begins the message.

    Raises:
        InputError: it names the first such node.
    """
    for node in graph.nodes:
        if isinstance(node, MatMul):
            raise InputError(
                f"{graph.name}: {what}: node {node.name}: products of two activation tensors are not supported there; "
                "`run`, `compile`, `simulate`, `cosim` and the energy report take them"
            )


def refuse_host_operators(graph: IntegerGraph, what: str) -> None:
    """Refuse a graph of which a part runs on the host; `what` begins the message.

    Raises:
        InputError: it names the first such node and what to do instead.
    """
    for node in host_operators(graph):
        if isinstance(node, Add):
            reason, remedy = (
                "adds in float32 with one rounding",
                "import it with --quantization int8, where each operand is requantised",
            )
        elif isinstance(node, Input):
            reason, remedy = "takes float32 numbers", "quantise it with one scale for the tensor"
        elif isinstance(node, Mac):
            reason, remedy = f"{node.op} with int32 sums as its output", "requantise them (QLinearConv, QLinearMatMul)"
        else:
            reason, remedy = f"{node.op} inside the network", "leave it to the network's input and output"
        raise InputError(
            f"{graph.name}: {what}: node {node.name}: {reason} runs on the host (run by reference and engine); {remedy}"
        )


def _check_node(graph: IntegerGraph, node: Node, inputs: list[TensorType], where: str) -> None:
    form = graph.activation
    smallest, largest = graph.limits_of(node.name)
    if isinstance(node, Mac | MatMul | Add | Clip):
        low, high = node.clip
        if node.output.kind == "int32":
            smallest, largest = IntFormat(32).limits
        if not smallest <= low <= high <= largest:
            raise InputError(f"{where}: clip {node.clip} must lie in {smallest}..{largest}, low to high")
    match node:
        case Mac():
            _check_mac(graph, node, inputs[0], where)
        case MatMul():
            _check_matmul(graph, node, inputs, where)
        case MaxPool2d() | AvgPool2d():
            _check_window(node.kernel, node.stride, node.padding, where)
            shape = (*window_shape(inputs[0], node.kernel, node.stride, node.padding, (1, 1)), inputs[0].channels)
            _need_shape(node, shape, where)
            _need_same_codes(graph, node, inputs[0], where)
            if max(node.padding[:2]) >= node.kernel[0] or max(node.padding[2:]) >= node.kernel[1]:
                raise InputError(f"{where}: padding {node.padding} must be smaller than the window {node.kernel}")
        case Add():
            if inputs[0].shape != inputs[1].shape:
                raise InputError(f"{where}: adds shapes {inputs[0].shape} and {inputs[1].shape}")
            _need_shape(node, inputs[0].shape, where)
            for multiplier in node.multipliers:
                _check_multiplier(graph, multiplier, (1,), where)
            _check_add_rounding(graph, node, where)
        case Clip() | Table():
            _need_shape(node, inputs[0].shape, where)
            if isinstance(node, Clip):
                _need_same_codes(graph, node, inputs[0], where)
            elif node.entries.shape != (1 << form.bits,):
                raise InputError(f"{where}: a table has {1 << form.bits} entries, not {node.entries.shape}")
            elif node.entries.min() < smallest or node.entries.max() > largest:
                raise InputError(f"{where}: a table entry is outside {smallest}..{largest}")
        case Quantize() | Dequantize():
            _need_shape(node, inputs[0].shape, where)
            _check_scaled(graph, node, where)
        case Input():
            if node.precision not in get_args(Precision):
                raise InputError(f"{where}: precision = {node.precision!r} is not one of float64, float32")
        case _:
            raise InputError(f"{where}: unknown operation {type(node).__name__}")


def _check_mac(graph: IntegerGraph, node: Mac, source: TensorType, where: str) -> None:
    channels = node.out_channels
    if isinstance(node, Conv2d):
        if min(node.groups, *node.dilation) < 1:
            raise InputError(f"{where}: groups = {node.groups} and dilation = {node.dilation} must be at least 1")
        if node.weight.ndim != 4 or source.channels != node.weight.shape[3] * node.groups or channels % node.groups:
            raise InputError(
                f"{where}: weight {node.weight.shape} with {node.groups} groups does not fit {source.channels} channels"
            )
        _check_window(node.kernel, node.stride, node.padding, where)
        shape = (*window_shape(source, node.kernel, node.stride, node.padding, node.dilation), channels)
    else:
        if node.weight.ndim != 2 or node.weight.shape[1] != source.size:
            raise InputError(f"{where}: weight {node.weight.shape} does not fit an input of {source.size}")
        shape = (1, 1, channels)
    _need_shape(node, shape, where)
    if not 2 <= node.weight_bits <= 8:
        raise InputError(f"{where}: weight_bits = {node.weight_bits} is outside 2..8")
    form = IntFormat(node.weight_bits)
    if node.weight.min() < form.minimum or node.weight.max() > form.maximum:
        raise InputError(f"{where}: a weight is outside {form.minimum}..{form.maximum}, {node.weight_bits} bits")
    if not form.minimum <= node.weight_zero_point <= form.maximum:
        raise InputError(f"{where}: weight_zero_point = {node.weight_zero_point} is outside the weights' format")
    if node.weight_zero_point and graph.zero_points == "folded":
        raise InputError(f"{where}: weight_zero_point = {node.weight_zero_point} needs zero_points = 'subtracted'")
    if node.bias.shape != (channels,):
        raise InputError(f"{where}: bias has shape {node.bias.shape}, not ({channels},)")
    if node.bias.min() < -(2**31) or node.bias.max() >= 2**31:
        raise InputError(f"{where}: a bias does not fit 32 bits; use a larger output or weight scale")
    _check_width(node.accumulator_width_bits, where)
    if node.output.kind == "int32":
        if node.clip != IntFormat(32).limits:
            raise InputError(f"{where}: clip {node.clip} of int32 sums must be {IntFormat(32).limits}")
        _check_multiplier(graph, node.multiplier, (0,), where)
    else:
        _check_multiplier(graph, node.multiplier, (channels,), where)


def _check_matmul(graph: IntegerGraph, node: MatMul, inputs: list[TensorType], where: str) -> None:
    a, b = inputs
    if node.second not in get_args(SecondOperand):
        raise InputError(f"{where}: second = {node.second!r} is not one of {', '.join(get_args(SecondOperand))}")
    if node.heads < 1 or a.channels % node.heads or b.channels % node.heads:
        raise InputError(f"{where}: heads = {node.heads} must divide {a.channels} and {b.channels} channels")
    k, tokens = a.channels // node.heads, b.height * b.width
    of_second = tokens if node.second == "tokens" else b.channels // node.heads
    if k != of_second:
        raise InputError(f"{where}: sums {k} products a head, and its second operand has {of_second} {node.second}")
    outputs = b.channels if node.second == "tokens" else tokens * node.heads
    _need_shape(node, (a.height, a.width, outputs), where)
    if graph.zero_points == "folded" and (a.zero_point or b.zero_point):
        raise InputError(
            f"{where}: zero points {a.zero_point} and {b.zero_point} of two activation tensors cannot be folded into "
            "a bias; use zero_points = 'subtracted', or symmetric activations"
        )
    _check_width(node.accumulator_width_bits, where)
    _check_multiplier(graph, node.multiplier, (1,), where)


def _check_width(bits: int | None, where: str) -> None:
    if bits is not None and not 8 <= bits <= 64:
        raise InputError(f"{where}: accumulator_width_bits = {bits} is outside 8..64")


def _check_add_rounding(graph: IntegerGraph, node: Add, where: str) -> None:
    if node.rounding not in get_args(AddRounding):
        raise InputError(f"{where}: rounding = {node.rounding!r} is not one of {', '.join(get_args(AddRounding))}")
    how = graph.requantization
    once = (Scheme.FLOAT32, Rounding.HALF_EVEN, "saturate")
    if node.rounding == "sum" and (how.scheme, how.rounding, how.output_overflow) != once:
        raise InputError(f"{where}: rounding = 'sum' needs scheme float32, rounding half_even and saturation")


def _check_scaled(graph: IntegerGraph, node: Quantize | Dequantize, where: str) -> None:
    codes = node.output if isinstance(node, Quantize) else graph.by_name[node.inputs[0]].output
    scales, zeros = node.scales, node.zero_points
    if scales.dtype != np.float32 or scales.shape not in ((1,), (codes.channels,)) or zeros.shape != scales.shape:
        raise InputError(f"{where}: scales {scales.shape} and zero points {zeros.shape} are not (1,) or by channel")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise InputError(f"{where}: scales must be positive and finite")
    form = graph.activation if codes.kind == "codes" else IntFormat(32)
    if zeros.min() < form.minimum or zeros.max() > form.maximum:
        raise InputError(f"{where}: a zero point is outside {form.minimum}..{form.maximum}")
    own = (1.0, 0) if scales.size > 1 else (float(scales[0]), int(zeros[0]))
    if isinstance(node, Quantize) and (codes.scale, codes.zero_point) != own:
        raise InputError(f"{where}: the output's scale and zero point must be {own}")


def _check_window(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int], where: str
) -> None:
    if min(*kernel, *stride) < 1 or min(padding) < 0:
        raise InputError(
            f"{where}: window {kernel} and stride {stride} must be at least 1, padding {padding} at least 0"
        )


def _check_multiplier(graph: IntegerGraph, multiplier: Multiplier, shape: tuple[int, ...], where: str) -> None:
    how = graph.requantization
    for name, array in (("m0", multiplier.m0), ("shift", multiplier.shift), ("real", multiplier.real)):
        if array.shape != shape:
            raise InputError(f"{where}: multiplier {name} has shape {array.shape}, not {shape}")
    for m0, shift in {*zip(multiplier.m0.tolist(), multiplier.shift.tolist(), strict=True)}:
        reason = how.refuses(m0, shift)
        if reason:
            raise InputError(f"{where}: multiplier (m0, shift) = ({m0}, {shift}): {reason}")


def window_shape(
    source: TensorType,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Output (height, width) of a window sliding over `source`."""
    top, bottom, left, right = padding
    return (
        window_extent(source.height, top, bottom, kernel[0], stride[0], dilation[0]),
        window_extent(source.width, left, right, kernel[1], stride[1], dilation[1]),
    )


def _need_shape(node: Node, shape: tuple[int, ...], where: str) -> None:
    if min(shape) < 1 or node.output.shape != tuple(shape):
        raise InputError(f"{where}: output shape {node.output.shape} does not follow from its input; expected {shape}")


def _need_same_codes(graph: IntegerGraph, node: Node, source: TensorType, where: str) -> None:
    if (node.output.scale, node.output.zero_point) != (source.scale, source.zero_point):
        raise InputError(f"{where}: {node.op} keeps scale and zero point of its input")
    if graph.limits_of(node.name) != graph.limits_of(node.inputs[0]):
        raise InputError(f"{where}: {node.op} keeps the limits of its input, {graph.limits_of(node.inputs[0])}")


def with_accumulator_widths(graph: IntegerGraph, widths: Mapping[str, int | None]) -> IntegerGraph:
    """The same graph with other accumulator widths: of the layers named, None being the hardware's.

    Raises:
        InputError: a name is no layer of the graph with products, or a width is outside 8..64.
    """
    layers = {node.name for node in graph.nodes if isinstance(node, Mac | MatMul)}
    if unknown := sorted(widths.keys() - layers):
        hint = did_you_mean(unknown[0], layers)
        raise InputError(f"graph {graph.name}: {unknown[0]!r} is no layer with an accumulator{hint}")

    def narrowed(node: Node) -> Node:
        if isinstance(node, Mac | MatMul) and node.name in widths:
            return replace(node, accumulator_width_bits=widths[node.name])
        return node

    return replace(graph, nodes=tuple(map(narrowed, graph.nodes)))
