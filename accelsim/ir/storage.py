"""An integer graph as a directory: `graph.json` and `graph.safetensors` (docs/formats.md).

`graph.json` carries the SHA-256 of the tensors and of itself, so that one altered byte is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from accelsim.errors import InputError
from accelsim.files import read_bytes, write_whole
from accelsim.ir.integer_graph import (
    OP_NAMES,
    Add,
    IntegerGraph,
    Mac,
    Multiplier,
    Node,
    Table,
    TensorType,
)
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

FORMAT, VERSION = "accelsim-graph", 1
_OPS = {name: kind for kind, name in OP_NAMES.items()}
_PLAIN = (
    "stride",
    "padding",
    "dilation",
    "groups",
    "kernel",
    "count_include_pad",
    "clip",
    "function",
    "weight_bits",
    "weight_zero_point",
    "accumulator_width_bits",
)


def save_graph(graph: IntegerGraph, folder: Path) -> None:
    """Write the directory, each file whole; `graph.json`, which vouches for the tensors, last."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    nodes = [_node_to_json(node, tensors) for node in graph.nodes]
    blob = save_tensors(tensors)
    how = graph.requantization
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "tensors_sha256": hashlib.sha256(blob).hexdigest(),
        "activation": {"bits": graph.activation.bits, "signed": graph.activation.signed},
        "requantization": {
            "scheme": how.scheme.value,
            "rounding": how.rounding.value,
            "multiplier_bits": how.multiplier_bits,
            "order": how.order,
            "guard_bits": how.guard_bits,
            "output_overflow": how.output_overflow,
        },
        "zero_points": graph.zero_points,
        "bias_at": graph.bias_at,
        "output": graph.output,
        "output_shape": list(graph.output_shape),
        "nodes": nodes,
    }
    data["sha256"] = _digest(data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot create the folder: {error.strerror}; choose another") from None
    write_whole(folder / "graph.safetensors", blob)
    write_whole(folder / "graph.json", json.dumps(data, indent=1) + "\n")


def load_graph(folder: Path) -> IntegerGraph:
    """Read a graph directory.

    Raises:
        InputError: a file is missing, altered, of another version, or breaks a legality rule.
    """
    path = folder / "graph.json"
    raw = read_bytes(path)
    try:
        data = json.loads(raw)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"{path}: is not an accelsim graph (format {FORMAT!r}); quantize the workload again")
        if data.get("version") != VERSION:
            raise InputError(
                f"{path}: graph version {data.get('version')!r} is not {VERSION}; quantize the workload again"
            )
        if data.pop("sha256", None) != _digest(data):
            raise InputError(f"{path}: its digest does not match its contents; the file was altered, quantize again")
        blob = read_bytes(folder / "graph.safetensors")
        if hashlib.sha256(blob).hexdigest() != data["tensors_sha256"]:
            raise InputError(
                f"{folder / 'graph.safetensors'}: does not match the digest in graph.json; the file was altered, "
                "quantize again"
            )
        tensors = load_tensors(blob)
        return IntegerGraph(
            name=data["name"],
            nodes=tuple(_node_from_json(node, tensors) for node in data["nodes"]),
            output=data["output"],
            output_shape=tuple(data["output_shape"]),
            activation=IntFormat(data["activation"]["bits"], signed=data["activation"]["signed"]),
            requantization=Requantization(
                **{
                    **data["requantization"],
                    "scheme": Scheme(data["requantization"]["scheme"]),
                    "rounding": Rounding(data["requantization"]["rounding"]),
                }
            ),
            zero_points=data["zero_points"],
            bias_at=data["bias_at"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f"{path}: not as written by quantize: {error!r}; quantize again") from None


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _node_to_json(node: Node, tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    out = node.output
    data: dict[str, Any] = {
        "name": node.name,
        "op": node.op,
        "inputs": list(node.inputs),
        "source": node.source,
        "shape": list(out.shape),
        "scale": out.scale.hex(),
        "zero_point": out.zero_point,
    }
    data |= {key: getattr(node, key) for key in _PLAIN if hasattr(node, key) and key in type(node).__dataclass_fields__}

    def keep(key: str, array: np.ndarray[Any, Any], dtype: type) -> None:
        tensors[f"{node.name}.{key}"] = np.ascontiguousarray(array.astype(dtype))

    def keep_multiplier(key: str, multiplier: Multiplier) -> None:
        keep(f"{key}.m0", multiplier.m0, np.int64)
        keep(f"{key}.shift", multiplier.shift, np.int8)
        data[key] = [float(value).hex() for value in multiplier.real]

    match node:
        case Mac():
            keep("weight", node.weight, np.int8)
            keep("bias", node.bias, np.int32)
            keep_multiplier("multiplier", node.multiplier)
        case Add():
            for number, multiplier in enumerate(node.multipliers):
                keep_multiplier(f"multiplier{number}", multiplier)
        case Table():
            keep("entries", node.entries, np.int16)
    return data


def _node_from_json(data: dict[str, Any], tensors: dict[str, np.ndarray[Any, Any]]) -> Node:
    name = data["name"]
    kind = _OPS[data["op"]]
    height, width, channels = data["shape"]
    fields: dict[str, Any] = {
        "name": name,
        "inputs": tuple(data["inputs"]),
        "source": data["source"],
        "output": TensorType(
            height=height,
            width=width,
            channels=channels,
            scale=float.fromhex(data["scale"]),
            zero_point=data["zero_point"],
        ),
    }
    for key in _PLAIN:
        if key in data:
            fields[key] = tuple(data[key]) if isinstance(data[key], list) else data[key]

    def multiplier(key: str) -> Multiplier:
        return Multiplier(
            m0=tensors[f"{name}.{key}.m0"].astype(np.int64),
            shift=tensors[f"{name}.{key}.shift"].astype(np.int64),
            real=np.array([float.fromhex(value) for value in data[key]]),
        )

    if issubclass(kind, Mac):
        fields["weight"] = tensors[f"{name}.weight"].astype(np.int64)
        fields["bias"] = tensors[f"{name}.bias"].astype(np.int64)
        fields["multiplier"] = multiplier("multiplier")
    elif kind is Add:
        fields["multipliers"] = (multiplier("multiplier0"), multiplier("multiplier1"))
    elif kind is Table:
        fields["entries"] = tensors[f"{name}.entries"].astype(np.int64)
    return kind(**fields)
