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
    Dequantize,
    IntegerGraph,
    Mac,
    MatMul,
    Multiplier,
    Node,
    Quantize,
    Table,
    TensorType,
)
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme

FORMAT, VERSION = "accelsim-graph", 2
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
    "heads",
    "second",
)
_OMITTED = {"kind": "codes", "precision": "float64", "rounding": "operands"}
"""Keys written only where they differ: what the host does, which graphs from PyTorch do not have."""


def save_graph(graph: IntegerGraph, folder: Path) -> None:
    """Write the directory, each file whole; `graph.json`, which vouches for the tensors, last."""
    text, blob = _files(graph)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot create the folder: {error.strerror}; choose another") from None
    write_whole(folder / "graph.safetensors", blob)
    write_whole(folder / "graph.json", text)


def graph_digest(graph: IntegerGraph) -> str:
    """SHA-256 of everything in a graph: two graphs of one digest are saved as the same files."""
    text, _ = _files(graph)
    return hashlib.sha256(text.encode()).hexdigest()


def _files(graph: IntegerGraph) -> tuple[str, bytes]:
    """`graph.json`, which holds the digest of the other, and `graph.safetensors`."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    content = _content(graph, tensors)
    blob = save_tensors(tensors)
    data: dict[str, Any] = {
        key: hashlib.sha256(blob).hexdigest() if key == "tensors_sha256" else value for key, value in content.items()
    }
    data["sha256"] = _digest(data)
    return _text(data), blob


def _content(graph: IntegerGraph, tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """`graph.json` but for its digests; what it leaves to the other file is put into `tensors`."""
    how = graph.requantization
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "tensors_sha256": None,
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
        "nodes": [_node_to_json(node, tensors) for node in graph.nodes],
    }


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
        as_written = _text(data).encode() == raw  # one more space would change no value, and still be an alteration
        if data.pop("sha256", None) != _digest(data) or not as_written:
            raise InputError(f"{path}: its digest does not match its contents; the file was altered, quantize again")
        blob = read_bytes(folder / "graph.safetensors")
        if hashlib.sha256(blob).hexdigest() != data["tensors_sha256"]:
            raise InputError(
                f"{folder / 'graph.safetensors'}: does not match the digest in graph.json; the file was altered, "
                "quantize again"
            )
        tensors = _tensors(blob)
        graph = IntegerGraph(
            name=_typed(data, "name", str),
            nodes=tuple(_node_from_json(node, tensors) for node in _typed(data, "nodes", list)),
            output=_typed(data, "output", str),
            output_shape=_integers(data, "output_shape"),
            activation=IntFormat(
                _typed(data["activation"], "bits", int), signed=_typed(data["activation"], "signed", bool)
            ),
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
        _check_nothing_else(data, tensors, graph)
        return graph
    except KeyError as error:
        raise InputError(f"{path}: not as written by quantize: {error} is missing; quantize again") from None
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, SafetensorError) as error:
        raise InputError(f"{path}: not as written by quantize: {str(error)[:200]}; quantize again") from None


def _check_nothing_else(data: dict[str, Any], tensors: dict[str, np.ndarray[Any, Any]], graph: IntegerGraph) -> None:
    """Refuse what the graph does not hold: keys and tensors that would be read over."""
    known: dict[str, np.ndarray[Any, Any]] = {}
    content = json.loads(json.dumps(_content(graph, known)))
    pairs = [("graph.json", data, content), ("activation", data["activation"], content["activation"])]
    pairs += [(f"node {own['name']}", given, own) for given, own in zip(data["nodes"], content["nodes"], strict=True)]
    for where, given, own in pairs:
        for key, value in given.items():
            if key not in own:
                raise ValueError(f"{where}: key {key!r} is unknown there, or written with its usual value")
            if where != "graph.json" and value != own[key]:
                raise ValueError(f"{where}: {key} = {value!r} is not how {own[key]!r} is written")
    if strange := sorted(tensors.keys() - known.keys()):
        raise ValueError(f"graph.safetensors: tensor {strange[0]!r} belongs to no node")


def _tensors(blob: bytes) -> dict[str, np.ndarray[Any, Any]]:
    try:
        return load_tensors(blob)
    except KeyError as error:
        raise ValueError(f"graph.safetensors holds elements of type {error}, which NumPy does not have") from None


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"


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
        "limits": None if out.limits is None else list(out.limits),
    }
    data |= {key: getattr(node, key) for key in _PLAIN if hasattr(node, key) and key in type(node).__dataclass_fields__}

    optional = {"kind": out.kind} | {key: getattr(node, key) for key in ("precision", "rounding") if hasattr(node, key)}
    data |= {key: value for key, value in optional.items() if value != _OMITTED[key]}

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
        case MatMul():
            keep_multiplier("multiplier", node.multiplier)
        case Add():
            for number, multiplier in enumerate(node.multipliers):
                keep_multiplier(f"multiplier{number}", multiplier)
        case Table():
            keep("entries", node.entries, np.int16)
        case Quantize() | Dequantize():
            keep("scales", node.scales, np.float32)
            keep("zero_points", node.zero_points, np.int32)
    return data


_LISTS = {"stride": 2, "padding": 4, "dilation": 2, "kernel": 2, "clip": 2}
_TYPES: dict[str, type] = {"count_include_pad": bool, "function": str, "second": str}


def _typed(data: dict[str, Any], key: str, kind: type) -> Any:
    """The value of a key, of exactly this type: true is not an integer, nor is 1.0."""
    value = data[key]
    given: type = type(value)
    if given is not kind:
        raise TypeError(f"{key} = {value!r} is not {'an integer' if kind is int else f'of type {kind.__name__}'}")
    if kind is int and not -(2**31) <= value < 2**31:
        raise ValueError(f"{key} = {value!r} does not fit 32 bits")
    return value


def _integers(data: dict[str, Any], key: str, count: int | None = None) -> tuple[int, ...]:
    values = _typed(data, key, list)
    if count is not None and len(values) != count:
        raise ValueError(f"{key} = {values!r} does not hold {count} integers")
    return tuple(_typed({key: value}, key, int) for value in values)


def _pair(data: dict[str, Any], key: str) -> tuple[int, int]:
    low, high = _integers(data, key, 2)
    return low, high


def _node_from_json(data: dict[str, Any], tensors: dict[str, np.ndarray[Any, Any]]) -> Node:
    name = _typed(data, "name", str)
    op = _typed(data, "op", str)
    if op not in _OPS:
        raise ValueError(f"op = {op!r} is not one of {', '.join(_OPS)}")
    kind = _OPS[op]
    height, width, channels = _integers(data, "shape", 3)
    fields: dict[str, Any] = {
        "name": name,
        "inputs": tuple(_typed({"inputs": source}, "inputs", str) for source in _typed(data, "inputs", list)),
        "source": _typed(data, "source", str),
        "output": TensorType(
            height=height,
            width=width,
            channels=channels,
            scale=float.fromhex(_typed(data, "scale", str)),
            zero_point=_typed(data, "zero_point", int),
            kind=_typed({**_OMITTED, **data}, "kind", str),
            limits=None if data["limits"] is None else _pair(data, "limits"),
        ),
    }
    for key in _PLAIN:
        if key in _LISTS and key in data:
            fields[key] = _integers(data, key, _LISTS[key])
        elif key in data:
            optional = key == "accumulator_width_bits" and data[key] is None
            fields[key] = None if optional else _typed(data, key, _TYPES.get(key, int))

    for key in ("precision", "rounding"):
        if key in data and key in kind.__dataclass_fields__:
            fields[key] = _typed(data, key, str)

    def stored(key: str, dtype: type) -> np.ndarray[Any, np.dtype[Any]]:
        array = tensors[f"{name}.{key}"]
        if array.dtype != dtype:
            raise TypeError(f"tensor {name}.{key} is {array.dtype}, not {np.dtype(dtype)}")
        return array

    def tensor(key: str, dtype: type) -> np.ndarray[Any, np.dtype[np.int64]]:
        return stored(key, dtype).astype(np.int64)

    def multiplier(key: str) -> Multiplier:
        return Multiplier(
            m0=tensor(f"{key}.m0", np.int64),
            shift=tensor(f"{key}.shift", np.int8),
            real=np.array([float.fromhex(value) for value in _typed(data, key, list)]),
        )

    if issubclass(kind, Mac):
        fields["weight"] = tensor("weight", np.int8)
        fields["bias"] = tensor("bias", np.int32)
        fields["multiplier"] = multiplier("multiplier")
    elif kind is MatMul:
        fields["multiplier"] = multiplier("multiplier")
    elif kind is Add:
        fields["multipliers"] = (multiplier("multiplier0"), multiplier("multiplier1"))
    elif kind is Table:
        fields["entries"] = tensor("entries", np.int16)
    elif issubclass(kind, Quantize | Dequantize):
        fields["scales"] = stored("scales", np.float32)
        fields["zero_points"] = tensor("zero_points", np.int32)
    return kind(**fields)
