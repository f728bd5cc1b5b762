"""The onnx package's own node tests, in reach of the importer: cases by a rule, one data input, all else constant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

KINDS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QuantizeLinear", "DequantizeLinear")
"""A case is about one of these if its model is that operator alone."""
CODES = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"


@dataclass(frozen=True)
class Case:
    """A node test: its model with everything but the data constant, the data, and what must come out."""

    name: str
    model: onnx.ModelProto
    data: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]


def in_scope(model: onnx.ModelProto) -> str | None:
    """None, or why a case of the six operators is out of scope: decided by types and attributes, never by its name."""
    (node,) = model.graph.node
    codes = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    strange = codes - CODES - floats - {onnx.TensorProto.INT32}
    if strange:
        return f"type {onnx.TensorProto.DataType.Name(min(strange))}"
    if any(attribute.name == "block_size" and attribute.i for attribute in node.attribute):
        return "scales by block"
    return None


def cases() -> tuple[list[Case], dict[str, str]]:
    """Cases in scope, and the reasons of those that are not."""
    found, left = [], {}
    for folder in sorted(FOLDER.iterdir()):
        model = onnx.load(folder / "model.onnx")
        if [node.op_type for node in model.graph.node][1:] or model.graph.node[0].op_type not in KINDS:
            continue
        reason = in_scope(model)
        if reason is not None:
            left[folder.name] = reason
            continue
        found.append(_case(folder, model))
    return found, left


def _case(folder: Path, model: onnx.ModelProto) -> Case:
    def tensor(path: Path) -> np.ndarray[Any, Any]:
        proto = onnx.TensorProto()
        proto.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(proto)

    files = sorted((folder / "test_data_set_0").glob("input_*.pb"), key=lambda path: int(path.stem[6:]))
    arrays = [tensor(path) for path in files]
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value, array in list(zip(model.graph.input, arrays, strict=True))[1:]:
        fixed.graph.initializer.append(numpy_helper.from_array(array, value.name))
    return Case(folder.name, fixed, arrays[0], tensor(folder / "test_data_set_0" / "output_0.pb"))
