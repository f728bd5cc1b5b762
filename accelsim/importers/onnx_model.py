"""An ONNX model as an integer graph, with the way between ONNX's tensors and the graph's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.config import QuantizationScheme, load_quantization
from accelsim.errors import InputError
from accelsim.files import FilePath
from accelsim.importers.onnx_file import OnnxFile, read_onnx
from accelsim.importers.onnx_lowering import UINT8, Lowering
from accelsim.importers.onnx_values import Chain, Codes, HostTensor, Layout
from accelsim.ir import Input, IntegerGraph, Mac, Node, with_accumulator_widths
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

ONNX_REQUANTIZATION = Requantization(scheme=Scheme.FLOAT32, rounding=Rounding.HALF_EVEN)
"""QLinearConv and QLinearMatMul: float32(v) * M, M = S_x * S_w / S_y in float32, ties to even."""


@dataclass(frozen=True, eq=False)
class Carried:
    """How one ONNX tensor is held.

    Attributes:
        node: whose tensor has it.
        layout: where its elements lie.
        dtype: ONNX's type of it.
        shift: ONNX's code minus the graph's: 128 where uint8 codes became int8.
        scale, zero_point: of a tensor that ONNX has as float32 and the graph as codes; else None.
    """

    node: str
    layout: Layout
    dtype: np.dtype[Any]
    shift: int = 0
    scale: np.float32 | None = None
    zero_point: int = 0


@dataclass(frozen=True, eq=False)
class Imported:
    """What `import_onnx` returns.

    Attributes:
        graph: the integer graph.
        tensors: of every ONNX tensor between operators that the graph holds too, by its name in the file.
        output: the file's output among them.
        batched: whether dimension 0 of the file's tensors is the batch.
    """

    graph: IntegerGraph
    tensors: dict[str, Carried]
    output: str
    batched: bool
    input_layout: Layout
    input_dtype: np.dtype[Any]
    input_shift: int

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The graph's input (N, H, W, C) of the file's input (N, ...), codes or float32 as the file has it.

        Raises:
            InputError: another shape or type.
        """
        batch = values if self.batched else values[None]
        if batch.shape[1:] != self.input_layout.shape or values.dtype != self.input_dtype:
            raise InputError(
                f"input: {values.dtype} {values.shape} is not {self.input_dtype} (N, *{self.input_layout.shape})"
            )
        stored = self.input_layout.to_stored(batch)
        if self.input_dtype != np.float32:
            return stored.astype(np.int64) - self.input_shift
        from accelsim.ir import quantize_input

        return quantize_input(self.graph, np.moveaxis(stored, 3, 1))

    def decode(self, name: str, tensors: dict[str, Any]) -> npt.NDArray[Any]:
        """An ONNX tensor, in ONNX's shape and type, from the tensors of an evaluation of the graph.

        A DequantizeLinear at the file's output is done here: float32(q - Z) * S, in float32.
        """
        carried = self.tensors[name]
        found = carried.layout.from_stored(np.asarray(tensors[carried.node]))
        if carried.scale is not None:
            found = (found.astype(np.int64) + carried.shift - carried.zero_point).astype(np.float32) * carried.scale
        elif carried.dtype != np.float32:
            found = found.astype(np.int64) + carried.shift
        found = found.astype(carried.dtype)
        return found if self.batched else found[0]


def load_onnx(path: FilePath, scheme: QuantizationScheme | None = None) -> IntegerGraph:
    """Read a quantised ONNX model, in QDQ or QOperator form, as an integer graph (docs/onnx.md).

    Args:
        path: the file; external data must lie in its folder.
        scheme: whose requantization, zero_points (where it states them; else folded if possible), bias_at and
            accumulator_width_bits are used; formats and ranges are the file's, and one that asks for others is refused.
            None requantises as ONNX does: float32 multipliers, ties to even.
    Raises:
        InputError: onnx is not installed; the file is damaged, uses something unsupported or is not quantised
            throughout; a multiplier does not fit the scheme. One line, nothing large is allocated before.

    >>> load_onnx("nowhere.onnx")
    Traceback (most recent call last):
    accelsim.errors.InputError: nowhere.onnx: no such file; check the path
    """
    return import_onnx(path, scheme).graph


def import_onnx(path: FilePath, scheme: QuantizationScheme | None = None) -> Imported:
    """`load_onnx`, with the way between ONNX's tensors and the graph's."""
    file = read_onnx(Path(path))
    if scheme is not None:
        _check_settled(file, scheme)
    how = ONNX_REQUANTIZATION if scheme is None else scheme.requantization.numerics()
    single = scheme is None or scheme.requantization.multiplier_arithmetic == "float32"
    try:
        lowering = Lowering(file, how, single=single, signed=True)
        lowering.run()
        if lowering.activation_dtypes == {UINT8}:  # a graph of uint8 codes: no code is moved
            lowering = Lowering(file, how, single=single, signed=False)
            lowering.run()
    except RecursionError:
        raise InputError(f"{file.path}: is nested too deeply; simplify it") from None
    return _Assembly(file, lowering, how, scheme).imported()


APPLIED = ("requantization", "zero_points", "bias_at", "accumulator_width_bits")
"""Parts of a scheme that a file does not settle itself."""


def _check_settled(file: OnnxFile, scheme: QuantizationScheme) -> None:
    """Refuse a scheme that asks for formats or ranges, which are the file's; the presets int8 and onnx ask for none."""
    usual = QuantizationScheme(), load_quantization("onnx")
    for key in QuantizationScheme.model_fields:
        if key not in APPLIED and getattr(scheme, key) not in [getattr(one, key) for one in usual]:
            raise InputError(
                f"{file.path}: is quantised already, so [{key}] of the scheme would change nothing; set only "
                f"{', '.join(APPLIED)}, on top of the preset onnx or int8"
            )


class _Assembly:
    """Nodes of a finished lowering as a graph."""

    def __init__(self, file: OnnxFile, lowering: Lowering, how: Requantization, scheme: QuantizationScheme | None):
        self.file = file
        self.lowering = lowering
        self.how = how
        self.scheme = scheme

    def imported(self) -> Imported:
        file, lowering = self.file, self.lowering
        output = lowering.values[file.output]
        if not isinstance(output, Codes | Chain | HostTensor) or (isinstance(output, Chain) and output.functions):
            raise InputError(f"{file.path}: output {file.output!r} is not quantised; put a QuantizeLinear before it")
        tensors = {
            name: self._carried(value)
            for name, value in lowering.values.items()
            if isinstance(value, Codes | HostTensor) or (isinstance(value, Chain) and not value.functions)
        }
        carried = tensors[file.output]
        nodes = self._used(carried.node)
        source = nodes[0]
        assert isinstance(source, Input)
        mode = self._needed_zero_points(nodes)
        if self.scheme is not None and "zero_points" in self.scheme.model_fields_set:
            if (mode, self.scheme.zero_points) == ("subtracted", "folded"):
                raise InputError(
                    f"{file.path}: has zero points that cannot be folded into biases of 32 bits; use zero_points = "
                    "'subtracted' in the scheme"
                )
            mode = self.scheme.zero_points
        if mode == "folded":
            nodes = [self._folded(node, {one.name: one for one in nodes}) for node in nodes]
        graph = IntegerGraph(
            name=file.name,
            nodes=tuple(nodes),
            output=carried.node,
            output_shape=self._output_shape(carried),
            activation=lowering.form,
            requantization=self.how,
            zero_points=mode,
            bias_at="ppu" if self.scheme is None else self.scheme.bias_at,
        )
        if self.scheme is not None and self.scheme.accumulator_width_bits:
            graph = with_accumulator_widths(graph, self.scheme.accumulator_width_bits)
        kept = {name: one for name, one in tensors.items() if one.node in graph.by_name}
        read = lowering.read_input()
        return Imported(
            graph=graph,
            tensors=kept,
            output=file.output,
            batched=lowering.batched,
            input_layout=read.layout,
            input_dtype=file.input_dtype,
            input_shift=lowering.shift(file.input_dtype),
        )

    def _carried(self, value: Codes | Chain | HostTensor) -> Carried:
        lowering = self.lowering
        if isinstance(value, HostTensor):
            return Carried(value.node, value.layout, value.dtype, lowering.shift(value.dtype))
        if isinstance(value, Codes):
            return Carried(value.node, value.layout, value.scale.dtype, lowering.shift(value.scale.dtype))
        codes, scale = value.codes, value.codes.scale  # the scale it is made real on, restated or not
        shift = lowering.shift(scale.dtype)
        return Carried(codes.node, codes.layout, np.dtype(np.float32), shift, scale.scale, scale.zero_point)

    def _used(self, output: str) -> list[Node]:
        """The nodes the output follows from, in order, the input first."""
        nodes = self.lowering.nodes
        wanted = {output}
        for name in reversed(nodes):
            if name in wanted:
                wanted.update(nodes[name].inputs)
        used = [node for name, node in nodes.items() if name in wanted]
        if not used or not isinstance(used[0], Input):
            raise InputError(f"{self.file.path}: its output does not follow from its input")
        return used

    def _needed_zero_points(self, nodes: list[Node]) -> Any:
        """Folded, unless a weight has a zero point or a folded bias would not fit 32 bits."""
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if isinstance(node, Mac):
                folded = self._folded(node, by_name)
                assert isinstance(folded, Mac)
                if node.weight_zero_point or not _fits(folded.bias):
                    return "subtracted"
        return "folded"

    def _folded(self, node: Node, by_name: dict[str, Node]) -> Node:
        if not isinstance(node, Mac):
            return node
        zero = by_name[node.inputs[0]].output.zero_point
        return replace(node, bias=node.bias - zero * node.weight.reshape(node.out_channels, -1).sum(axis=1))

    def _output_shape(self, carried: Carried) -> tuple[int, ...]:
        """ONNX's, where the graph's order (C, H, W) gives the same; else (C, H, W) as it is stored."""
        layout = carried.layout
        height, width, channels = layout.stored
        stored = Layout((channels, height, width), layout.stored)
        if np.array_equal(stored.places(), layout.places()):
            return layout.shape
        return stored.shape


def _fits(bias: npt.NDArray[np.int64]) -> bool:
    form = IntFormat(32)
    return bool(form.minimum <= bias.min() and bias.max() <= form.maximum)
