"""An ONNX file as checked, plain data: operators in order, constants as arrays, one input.

Nothing of the file is believed: sizes are compared with the bytes that are there before anything is allocated, external
data stays in the file's folder, and every name is defined before it is read, which also rules out cycles.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError

if TYPE_CHECKING:
    import onnx

LARGEST_FILE = 1 << 31
"""Bytes: protobuf's own limit."""
LARGEST_TENSOR = 1 << 22
"""Elements of an activation tensor of one image; a buffer of any machine here is smaller."""

_DTYPES: dict[str, type] = {
    "FLOAT": np.float32,
    "FLOAT16": np.float16,
    "DOUBLE": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_TYPED_FIELDS = {
    "FLOAT": "float_data",
    "DOUBLE": "double_data",
    "INT64": "int64_data",
    "INT32": "int32_data",
    "INT8": "int32_data",
    "UINT8": "int32_data",
    "BOOL": "int32_data",
    "FLOAT16": "int32_data",
}


@dataclass(frozen=True, eq=False)
class Operator:
    """One node of the file.

    Attributes:
        name: the node's, or where it has none its first output's.
        kind: operator type; with its domain before it where that is not ONNX's own: "com.microsoft.QLinearAdd".
        inputs: names; "" for an optional one left out.
        attributes: integers, floats, texts, arrays, and tuples of integers or floats.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """What is left of a file once it is checked.

    Attributes:
        path, name: of the file, and of its graph.
        operators: in an order in which every operand is there.
        constants: initialisers by name.
        input, input_dtype, input_shape: the only input; the first dimension is None where the file leaves it open.
        output: name of the only output.
        opset: version of ONNX's own operators.
    """

    path: str
    name: str
    operators: tuple[Operator, ...]
    constants: dict[str, npt.NDArray[Any]]
    input: str
    input_dtype: np.dtype[Any]
    input_shape: tuple[int | None, ...]
    output: str
    opset: int


def read_onnx(path: Path) -> OnnxFile:
    """Read and check a file.

    Raises:
        InputError: it is no ONNX model, damaged, uses what is not supported, or reads beyond its folder.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types
    except ImportError:
        raise InputError(f"{path}: reading ONNX needs the package onnx; pip install 'accelsim[onnx]'") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(_file_bytes(path))
        return _Reader(path, model).file()
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is no ONNX model, or damaged: {str(error)[:120]}; export it again") from None


def _file_bytes(path: Path) -> bytes:
    from accelsim.files import read_bytes

    try:
        found = path.stat()
    except (OSError, ValueError):
        return read_bytes(path)  # which says what is wrong
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: is no regular file; name an ONNX file")
    if found.st_size >= LARGEST_FILE:
        raise InputError(f"{path}: {found.st_size} bytes are more than the 2 GiB an ONNX file can have")
    return read_bytes(path)


class _Reader:
    """One pass over a parsed model."""

    def __init__(self, path: Path, model: onnx.ModelProto):
        import onnx

        self.onnx = onnx
        self.path = path
        self.model = model

    def refuse(self, reason: str) -> InputError:
        return InputError(f"{self.path}: {reason}")

    def text(self, value: str | bytes) -> str:
        """A name; protobuf gives the bytes themselves where they are no UTF-8."""
        if isinstance(value, bytes):
            raise self.refuse(f"a name, {value[:60]!r}, is not UTF-8")
        return value

    def file(self) -> OnnxFile:
        model, graph = self.model, self.model.graph
        if not model.HasField("graph") or not graph.node:
            raise self.refuse("holds no graph with nodes; it is no ONNX model, or empty")
        if model.functions:
            raise self.refuse(
                f"defines a function, {self.text(model.functions[0].name)!r}; inline functions when exporting"
            )
        if model.training_info or graph.sparse_initializer:
            raise self.refuse("holds training information or sparse tensors; export it for inference, dense")
        opset = self._opset()
        constants: dict[str, npt.NDArray[Any]] = {}
        for tensor in graph.initializer:
            name = self.text(tensor.name)
            if not name or name in constants:
                raise self.refuse(f"initializer {name!r} has no name, or one used twice")
            constants[name] = self.array(tensor, f"initializer {name!r}")
        inputs = [value for value in graph.input if self.text(value.name) not in constants]
        if len(inputs) != 1 or not inputs[0].name:
            names = ", ".join(repr(value.name) for value in inputs[:8]) or "none"
            raise self.refuse(
                f"needs exactly one input that is no initializer, and has {names}; make the others constant"
            )
        if len(graph.output) != 1:
            raise self.refuse(f"has {len(graph.output)} outputs; accelsim takes a network with one")
        dtype, shape = self._input(inputs[0])
        operators = self._operators({*constants, inputs[0].name})
        name = self.text(graph.name) or self.path.stem
        made = {output for operator in operators for output in operator.outputs} | {inputs[0].name}
        output = self.text(graph.output[0].name)
        if output not in made:
            raise self.refuse(f"output {output!r} is computed by no node")
        return OnnxFile(
            str(self.path), name, operators, constants, inputs[0].name, np.dtype(dtype), shape, output, opset
        )

    def _opset(self) -> int:
        versions = [one.version for one in self.model.opset_import if one.domain in ("", "ai.onnx")]
        if len(versions) != 1 or versions[0] < 1:
            raise self.refuse("states no version of ONNX's operators (opset_import), or several")
        return int(versions[0])

    def _dtype(self, code: int, where: str) -> type:
        try:
            name = self.onnx.TensorProto.DataType.Name(code)
        except ValueError:
            name = str(code)
        if name not in _DTYPES:
            raise self.refuse(f"{where}: type {name} is not supported; accelsim takes {', '.join(_DTYPES)}")
        return _DTYPES[name]

    def _input(self, value: onnx.ValueInfoProto) -> tuple[type, tuple[int | None, ...]]:
        where = f"input {value.name!r}"
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise self.refuse(f"{where}: is no tensor with a shape")
        tensor = value.type.tensor_type
        dtype = self._dtype(tensor.elem_type, where)
        shape: list[int | None] = []
        for place, dim in enumerate(tensor.shape.dim):
            if dim.HasField("dim_value"):
                if dim.dim_value < 1:
                    raise self.refuse(f"{where}: dimension {place} is {dim.dim_value}; it must be positive")
                shape.append(int(dim.dim_value))
            elif place == 0:
                shape.append(None)
            else:
                raise self.refuse(f"{where}: dimension {place} is open; only the batch, dimension 0, may be")
        if not 1 <= len(shape) <= 4:
            raise self.refuse(f"{where}: has {len(shape)} dimensions; accelsim takes 1 to 4")
        if math.prod(size or 1 for size in shape[1:]) > LARGEST_TENSOR:
            raise self.refuse(f"{where}: shape {shape} has more than the {LARGEST_TENSOR} elements an image may have")
        return dtype, tuple(shape)

    def _operators(self, known: set[str]) -> tuple[Operator, ...]:
        operators = []
        known = {*known, ""}
        for node in self.model.graph.node:
            domain = "" if self.text(node.domain) in ("", "ai.onnx") else f"{node.domain}."
            inputs, outputs = tuple(map(self.text, node.input)), tuple(map(self.text, node.output))
            kind = self.text(node.op_type)
            name = self.text(node.name) or (outputs[0] if outputs else kind)
            where = f"node {name!r} ({domain}{kind})"
            missing = [one for one in inputs if one not in known]
            if missing:
                raise self.refuse(
                    f"{where}: reads {missing[0]!r}, which nothing before it defines; the graph has a cycle, is "
                    "unsorted or lacks an input"
                )
            if not outputs or not outputs[0]:
                raise self.refuse(f"{where}: has no output")
            for output in filter(None, outputs):
                if output in known:
                    raise self.refuse(f"{where}: its output {output!r} is defined twice")
                known.add(output)
            attributes = {}
            for attribute in node.attribute:
                if not self.text(attribute.name) or attribute.name in attributes:
                    raise self.refuse(f"{where}: an attribute has no name or is given twice")
                attributes[attribute.name] = self._attribute(attribute, where)
            operators.append(Operator(name, f"{domain}{kind}", inputs, outputs, attributes))
        return tuple(operators)

    def _attribute(self, attribute: onnx.AttributeProto, where: str) -> Any:
        kinds = self.onnx.AttributeProto
        if attribute.type == kinds.INT:
            return int(attribute.i)
        if attribute.type == kinds.FLOAT:
            return float(attribute.f)
        if attribute.type == kinds.STRING:
            return attribute.s.decode(errors="replace")
        if attribute.type == kinds.TENSOR:
            return self.array(attribute.t, f"{where}: attribute {attribute.name!r}")
        if attribute.type == kinds.INTS:
            return tuple(attribute.ints)
        if attribute.type == kinds.FLOATS:
            return tuple(attribute.floats)
        kind = kinds.AttributeType.Name(attribute.type) if attribute.type in kinds.AttributeType.values() else "unknown"
        raise self.refuse(f"{where}: attribute {attribute.name!r} of type {kind}: subgraphs and such are not supported")

    def array(self, tensor: onnx.TensorProto, where: str) -> npt.NDArray[Any]:
        """A tensor's values; its bytes are counted before an array is made."""
        dtype = np.dtype(self._dtype(tensor.data_type, where))
        shape = tuple(tensor.dims)
        if len(shape) > 8 or any(size < 0 for size in shape):
            raise self.refuse(f"{where}: shape {shape[:8]} is none a tensor can have")
        if tensor.HasField("segment"):
            raise self.refuse(f"{where}: is stored in segments; export it whole")
        count = math.prod(shape)  # Python's integers: nothing wraps
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            raw = self._external(tensor, count * dtype.itemsize, where)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
        else:
            return self._typed(tensor, dtype, shape, count, where)
        if len(raw) != count * dtype.itemsize:
            raise self.refuse(
                f"{where}: shape {shape} of {dtype} needs {count * dtype.itemsize} bytes, and {len(raw)} are there"
            )
        return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(shape)

    def _typed(
        self, tensor: onnx.TensorProto, dtype: np.dtype[Any], shape: tuple[int, ...], count: int, where: str
    ) -> npt.NDArray[Any]:
        field = getattr(tensor, _TYPED_FIELDS[self.onnx.TensorProto.DataType.Name(tensor.data_type)])
        if len(field) != count:
            raise self.refuse(f"{where}: shape {shape} needs {count} values, and {len(field)} are there")
        values = np.array(field, dtype=np.float64 if dtype.kind == "f" and dtype.itemsize > 2 else np.int64)
        if dtype == np.float16:  # its bits, in the low half of each integer
            return values.astype(np.uint16).view(np.float16).reshape(shape)
        if dtype.kind in "iu" and values.size:
            limits = np.iinfo(dtype)
            if values.min() < limits.min or values.max() > limits.max:
                raise self.refuse(f"{where}: a value is outside {limits.min}..{limits.max}, the limits of {dtype}")
        return values.astype(dtype).reshape(shape)

    def _external(self, tensor: onnx.TensorProto, size: int, where: str) -> bytes:
        """Bytes of a tensor from a file beside the model: a plain file inside its folder, long enough."""
        entries = {self.text(entry.key): self.text(entry.value) for entry in tensor.external_data}
        location = entries.get("location", "")
        folder = os.path.realpath(self.path.parent)
        target = os.path.join(folder, location)
        if (
            not location
            or "\0" in location
            or os.path.isabs(location)
            or os.path.realpath(target) != os.path.normpath(target)
        ):
            raise self.refuse(f"{where}: external data {location!r} is no plain path inside the model's folder")
        if os.path.commonpath([folder, os.path.normpath(target)]) != folder:
            raise self.refuse(f"{where}: external data {location!r} leaves the model's folder")
        numbers = {key: entries.get(key, "")[:40] for key in ("offset", "length")}
        if any(not value.isdecimal() or len(value) > 15 for value in numbers.values() if value):
            raise self.refuse(f"{where}: external data has offset or length {numbers}, which are no sizes")
        offset, length = int(numbers["offset"] or 0), int(numbers["length"] or size)
        try:
            found = os.stat(target)
            if not stat.S_ISREG(found.st_mode) or found.st_size < offset + length or length != size:
                raise self.refuse(
                    f"{where}: external data {location!r} of {found.st_size} bytes does not hold {size} at {offset}"
                )
            with open(target, "rb") as stream:
                stream.seek(offset)
                return stream.read(length)
        except OSError as error:
            raise self.refuse(f"{where}: external data {location!r}: {error.strerror}") from None
