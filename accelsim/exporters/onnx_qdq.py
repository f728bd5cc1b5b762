"""An integer graph as an ONNX model in QDQ form: float operators between DequantizeLinear and QuantizeLinear.

docs/interchange.md states what each node becomes, what ONNX cannot say, and by how much onnxruntime then differs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.files import FilePath, write_whole
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    Conv2d,
    Input,
    IntegerGraph,
    Linear,
    Mac,
    MaxPool2d,
    Multiplier,
    Node,
    Table,
    TensorType,
    host_operators,
    refuse_matmul,
)
from accelsim.ir.integer_graph import largest_sum
from accelsim.numerics import Rounding, Scheme
from accelsim.quantization.tables import FUNCTIONS, TableCodes, tabulate

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 17
IR_VERSION = 8
"""Of opset 17; onnxruntime reads it since 1.12."""


class ExportWarning(UserWarning):
    """The exported network computes something else than the integer graph, in a way that leaves it meaningful."""


def export_onnx(graph: IntegerGraph, path: FilePath, *, codes: bool = False) -> None:
    """Write a graph as an ONNX file in QDQ form (docs/interchange.md), whole or not at all.

    Args:
        graph: from `quantize`, `import_pt2e` or `load_graph`.
        path: ends in .onnx.
        codes: give every node's codes as an output too, "NAME/codes".
    Raises:
        InputError: another ending, a file that cannot be written, onnx is not installed, or a bias without its folded
            zero point does not fit 32 bits.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise InputError(f"{target}: an ONNX file's name ends in .onnx; change it")
    write_whole(target, to_onnx(graph, codes=codes).SerializeToString(deterministic=True))


def to_onnx(graph: IntegerGraph, *, codes: bool = False) -> ModelProto:
    """Return the graph as a checked ONNX model: float in and out, shapes as in PyTorch, any batch.

    Args:
        graph: a legal integer graph.
        codes: give every node's codes as an output too, "NAME/codes", int8 or uint8 (N, C, H, W) or (N, K).
    Warns:
        ExportWarning: once for each thing ONNX cannot say: roundings, wrapping, narrow accumulators, sums.
    Raises:
        InputError: onnx is not installed; a bias without its folded zero point does not fit 32 bits; a node other than
            a sum needs the host.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("exporting needs the onnx package; install accelsim[onnx]") from None
    refuse_matmul(graph, "cannot be exported as ONNX")
    for node in host_operators(graph):
        if not isinstance(node, Add):  # ONNX adds as the host does
            raise InputError(
                f"{graph.name}: node {node.name}: {node.op} of {node.output.kind} on the host is not exported; "
                "keep the ONNX file it came from"
            )
    for note in differences(graph):
        warnings.warn(f"{graph.name}: {note}", ExportWarning, stacklevel=2)
    model = _Writer(graph, codes=codes).model()
    onnx.checker.check_model(model, full_check=True)
    return model


def differences(graph: IntegerGraph) -> list[str]:
    """What an ONNX runtime does otherwise than this graph says, a line each."""
    how, notes = graph.requantization, []
    if how.rounding is not Rounding.HALF_EVEN or how.order != "multiply_first":
        said = how.rounding.value + (", shift first" if how.order != "multiply_first" else "")
        lower = "; codes come out half a step higher on average" if how.rounding is Rounding.FLOOR else ""
        notes.append(f"ONNX rounds once, half to even, where this graph rounds {said}{lower}")
    if how.output_overflow == "wrap":
        notes.append("ONNX saturates outputs that this graph wraps")
    narrow = []
    for node in graph.nodes:
        if isinstance(node, Mac) and node.accumulator_width_bits is not None:
            bias = int(np.abs(node.bias).max()) if graph.bias_at == "accumulator" else 0
            if largest_sum(graph, node) + bias >= 1 << (node.accumulator_width_bits - 1):
                narrow.append(f"{node.name} ({node.accumulator_width_bits})")
    if narrow:
        notes.append(f"ONNX sums exactly where these layers have narrow accumulators: {', '.join(narrow)}")
    if sums := [node.name for node in graph.nodes if isinstance(node, Add) and node.rounding == "operands"]:
        notes.append(f"ONNX rounds a sum once, this graph each operand; codes may differ by one: {', '.join(sums)}")
    return notes


class _Writer:
    """One pass over a graph; built, asked once for its `model`, and dropped."""

    def __init__(self, graph: IntegerGraph, *, codes: bool):
        self.graph, self.with_codes = graph, codes
        self.dtype: type[np.integer[Any]] = np.int8 if graph.activation.signed else np.uint8
        self.nodes: list[NodeProto] = []
        self.stored: dict[str, TensorProto] = {}
        self.rank: dict[str, int] = {}

    def model(self) -> ModelProto:
        """Every node, then input, outputs and version."""
        from onnx import TensorProto, helper

        graph, source = self.graph, self.graph.input
        for node in graph.nodes:
            self._node(node)
        output = graph.by_name[graph.output]
        final = f"{output.name}/output"
        last = self._real(output.name)
        if len(graph.output_shape) == self.rank[output.name] - 1:
            self._op("Identity", [last], final)
        else:
            self._reshape(last, graph.output_shape, final)
        outputs = [helper.make_tensor_value_info(final, TensorProto.FLOAT, ["N", *graph.output_shape])]
        if self.with_codes:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
            outputs += [
                helper.make_tensor_value_info(f"{node.name}/codes", kind, ["N", *self._shape(node)])
                for node in graph.nodes
            ]
        made = helper.make_graph(
            self.nodes,
            graph.name,
            [helper.make_tensor_value_info(source.name, TensorProto.FLOAT, ["N", *self._shape(source)])],
            outputs,
            list(self.stored.values()),
        )
        return helper.make_model(
            made,
            producer_name="accelsim",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )

    # Parts ------------------------------------------------------------------------------------------------

    def _op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One operator, named as its output; the operator that computes a node has the node's own name."""
        from onnx import helper

        stem, _, part = output.rpartition("/")
        computed = self.graph.by_name.get(stem)
        owns = "codes" if isinstance(computed, Clip | Table) else "real"  # those are what their quantiser makes them
        name = stem if part == owns else output
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def _store(self, name: str, array: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.stored[name] = numpy_helper.from_array(np.array(array, order="C"), name)  # scalars stay scalars
        return name

    def _shape(self, node: Node) -> tuple[int, ...]:
        """PyTorch's, without the batch."""
        height, width, channels = node.output.shape
        return (channels, height, width) if self.rank[node.name] == 4 else (channels,)

    def _scale(self, stem: str, tensor: TensorType, scale: float | None = None) -> list[str]:
        """Initialisers of a scale and a zero point."""
        return [
            self._store(f"{stem}/scale", np.array(tensor.scale if scale is None else scale, dtype=np.float32)),
            self._store(f"{stem}/zero_point", np.array(tensor.zero_point, dtype=self.dtype)),
        ]

    def _quantize(self, node: Node, real: str, limits: tuple[int, int]) -> None:
        """Codes of a float tensor, inside limits: a Clip where they are not those of the stored type."""
        tensor, container = node.output, np.iinfo(self.dtype)
        low, high = limits
        if low == tensor.zero_point > container.min and high == container.max:
            real = self._op("Relu", [real], f"{node.name}/limited")
        elif (low, high) != (container.min, container.max):
            ends = np.float32(tensor.scale) * (np.array(limits, dtype=np.float32) - np.float32(tensor.zero_point))
            names = [self._store(f"{node.name}/{key}", np.array(ends[i])) for i, key in enumerate(("low", "high"))]
            real = self._op("Clip", [real, *names], f"{node.name}/limited")
        self._op("QuantizeLinear", [real, *self._scale(node.name, tensor)], f"{node.name}/codes")

    def _real(self, name: str) -> str:
        """A node's codes in float; one operator for all who read it."""
        real = f"{name}/dequantized"
        if not any(node.output[0] == real for node in self.nodes):
            tensor = self.graph.by_name[name].output
            self._op("DequantizeLinear", [f"{name}/codes", *self._scale(name, tensor)], real)
        return real

    def _reshape(self, tensor: str, shape: tuple[int, ...], output: str) -> str:
        wanted = self._store(f"{output}/shape", np.array([-1, *shape], dtype=np.int64))
        return self._op("Reshape", [tensor, wanted], output)

    # Nodes ------------------------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        ranks = [self.rank[name] for name in node.inputs]
        self.rank[node.name] = ranks[0] if ranks else 4
        limits = self._limits(node)
        match node:
            case Input():
                image = node.output.height * node.output.width > 1
                reads = [
                    user for user in self.graph.users(node.name) if isinstance(user, Conv2d | MaxPool2d | AvgPool2d)
                ]
                self.rank[node.name] = 4 if image or reads else 2
                self._quantize(node, node.name, limits)
            case Conv2d():
                self.rank[node.name] = 4
                self._quantize(node, self._conv(node), limits)
            case Linear():
                self.rank[node.name] = 2
                self._quantize(node, self._linear(node), limits)
            case MaxPool2d() | AvgPool2d():
                self.rank[node.name] = 4
                self._quantize(node, self._pool(node), limits)
            case Add():
                self._quantize(node, self._add(node), limits)
            case Clip():
                self._quantize(node, self._real(node.inputs[0]), limits)
            case Table():
                self._table(node, limits)
            case _:
                raise InputError(f"{self.graph.name}: node {node.name}: {node.op} has no ONNX form here")

    def _limits(self, node: Node) -> tuple[int, int]:
        if isinstance(node, Mac | Add | Clip):
            return node.clip
        if isinstance(node, MaxPool2d | AvgPool2d):  # they stay inside their input's
            info = np.iinfo(self.dtype)
            return int(info.min), int(info.max)
        return self.graph.limits_of(node.name)

    def _image(self, node: Node) -> str:
        """The input of a node that reads images, in float (N, C, H, W)."""
        (name,) = node.inputs
        real = self._real(name)
        if self.rank[name] == 4:
            return real
        height, width, channels = self.graph.by_name[name].output.shape
        return self._reshape(real, (channels, height, width), f"{node.name}/image")

    def _mac(self, node: Mac, weight: npt.NDArray[np.int64]) -> tuple[str, str]:
        """Dequantised weight and bias; S_w is what the stored multiplier stands for."""
        source = self.graph.by_name[node.inputs[0]].output
        m = represented(self.graph, node.multiplier)
        s_x, s_y = np.float32(source.scale), np.float32(node.output.scale)
        s_w = (m * float(s_y) / float(s_x)).astype(np.float32)
        channels = node.out_channels
        zeros = np.full(channels, node.weight_zero_point, dtype=np.int8)
        parts = [
            self._store(f"{node.name}/weight", weight.astype(np.int8)),
            self._store(f"{node.name}/weight/scale", s_w),
            self._store(f"{node.name}/weight/zero_point", zeros),
        ]
        real = self._op("DequantizeLinear", parts, f"{node.name}/weight/dequantized", axis=0)
        bias = node.bias
        if self.graph.zero_points == "folded":
            bias = bias + source.zero_point * node.weight.reshape(channels, -1).sum(axis=1)
        if bias.min() < -(2**31) or bias.max() >= 2**31:
            raise InputError(f"{self.graph.name}: node {node.name}: its bias does not fit ONNX's 32 bits")
        parts = [
            self._store(f"{node.name}/bias", bias.astype(np.int32)),
            self._store(f"{node.name}/bias/scale", s_x * s_w),
            self._store(f"{node.name}/bias/zero_point", np.zeros(channels, dtype=np.int32)),
        ]
        return real, self._op("DequantizeLinear", parts, f"{node.name}/bias/dequantized", axis=0)

    def _conv(self, node: Conv2d) -> str:
        weight, bias = self._mac(node, np.moveaxis(node.weight, 3, 1))
        return self._op(
            "Conv",
            [self._image(node), weight, bias],
            f"{node.name}/real",
            kernel_shape=node.kernel,
            strides=node.stride,
            pads=_pads(node.padding),
            dilations=node.dilation,
            group=node.groups,
        )

    def _linear(self, node: Linear) -> str:
        (name,) = node.inputs
        height, width, channels = self.graph.by_name[name].output.shape
        image = node.weight.reshape(node.out_channels, height, width, channels)
        weight, bias = self._mac(node, np.moveaxis(image, 3, 1).reshape(node.out_channels, -1))
        real = self._real(name)
        if self.rank[name] == 4:
            real = self._op("Flatten", [real], f"{node.name}/vector", axis=1)
        return self._op("Gemm", [real, weight, bias], f"{node.name}/real", transB=1)

    def _pool(self, node: MaxPool2d | AvgPool2d) -> str:
        window = {"kernel_shape": node.kernel, "strides": node.stride, "pads": _pads(node.padding)}
        if isinstance(node, MaxPool2d):
            return self._op("MaxPool", [self._image(node)], f"{node.name}/real", **window)
        include = int(node.count_include_pad)
        return self._op("AveragePool", [self._image(node)], f"{node.name}/real", count_include_pad=include, **window)

    def _add(self, node: Add) -> str:
        """Each operand in the scale its multiplier stands for, which is its own unless the multiplier is coarse."""
        operands = []
        for position, (name, multiplier) in enumerate(zip(node.inputs, node.multipliers, strict=True)):
            tensor = self.graph.by_name[name].output
            scale = float(represented(self.graph, multiplier)[0]) * node.output.scale
            stem = f"{node.name}/{position}"
            real = self._op(
                "DequantizeLinear", [f"{name}/codes", *self._scale(stem, tensor, scale)], f"{stem}/dequantized"
            )
            if self.rank[name] != self.rank[node.name]:
                height, width, channels = tensor.shape
                shape = (channels, height, width) if self.rank[node.name] == 4 else (channels,)
                real = self._reshape(real, shape, f"{stem}/shaped")
            operands.append(real)
        return self._op("Add", operands, f"{node.name}/real")

    def _table(self, node: Table, limits: tuple[int, int]) -> None:
        """tanh and sigmoid by name where the entries are theirs; any other table by looking its entries up."""
        from onnx import TensorProto

        form, source, target = self.graph.activation, self.graph.by_name[node.inputs[0]].output, node.output
        if node.function in FUNCTIONS:
            codes = TableCodes(target.scale, target.zero_point, self.graph.limits_of(node.name))
            known = tabulate(node.function, form, (source.scale, source.zero_point), codes)
            if np.array_equal(known, node.entries):
                kind = {"tanh": "Tanh", "sigmoid": "Sigmoid"}[node.function]
                self._quantize(node, self._op(kind, [self._real(node.inputs[0])], f"{node.name}/function"), limits)
                return
        integer = self._op("Cast", [f"{node.inputs[0]}/codes"], f"{node.name}/integer", to=TensorProto.INT64)
        first = self._store(f"{node.name}/minimum", np.array(form.minimum, dtype=np.int64))
        index = self._op("Sub", [integer, first], f"{node.name}/index")
        entries = self._store(f"{node.name}/entries", node.entries.astype(self.dtype))
        self._op("Gather", [entries, index], f"{node.name}/codes", axis=0)


def represented(graph: IntegerGraph, multiplier: Multiplier) -> npt.NDArray[np.float64]:
    """The real numbers that stored multipliers stand for, float64 (n,): what the machine multiplies by."""
    how = graph.requantization
    m0, shift = multiplier.m0, multiplier.shift
    match how.scheme:
        case Scheme.FIXED_POINT:
            return np.ldexp(m0.astype(np.float64), -(how.multiplier_bits - 1 + shift).astype(np.int64))
        case Scheme.POWER_OF_TWO:
            return np.ldexp(1.0, -shift)
        case Scheme.RECIPROCAL:
            return 1.0 / m0.astype(np.float64)
        case Scheme.FLOAT32:
            return m0.astype(np.int32).view(np.float32).astype(np.float64)
        case Scheme.FLOAT64:
            return m0.astype(np.int64).view(np.float64).copy()
    raise InputError(f"{graph.name}: requantization scheme {how.scheme.value} has no ONNX form here")


def _pads(padding: tuple[int, int, int, int]) -> list[int]:
    """(top, bottom, left, right) in ONNX's order."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]
