"""Operators whose operands are all constant, evaluated while a file is read: shapes, weights quantised in the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.importers.onnx_file import Operator

Array = npt.NDArray[Any]

_CASTS: dict[int, type] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    6: np.int32,
    7: np.int64,
    10: np.float16,
    11: np.float64,
}


def fold(operator: Operator, operands: list[Array | None], most: int) -> Array | None:
    """The result of an operator on constants, or None where this one is not evaluated here.

    Args:
        operator: whose operands are all constant.
        operands: their values; None for one left out.
        most: bytes that the result may take.
    Raises:
        MemoryError: it would take more, by operands that repeat each other; nothing is allocated.
        ValueError, IndexError, TypeError: operands or attributes that do not fit; the caller names the node.
    """
    attributes = operator.attributes
    match operator.kind, operands:
        case "Constant", []:
            return _constant(attributes)
        case "Identity", [one] if one is not None:
            return one
        case "Cast", [one] if one is not None:
            return one.astype(_CASTS[attributes["to"]])
        case "Transpose", [one] if one is not None:
            axes = attributes.get("perm", tuple(reversed(range(one.ndim))))
            return np.transpose(one, axes)
        case "Reshape", [one, shape] if one is not None and shape is not None:
            return one.reshape(target_shape(one.shape, shape.tolist(), allow_zero=bool(attributes.get("allowzero", 0))))
        case "Flatten", [one] if one is not None:
            axis = attributes.get("axis", 1)
            return one.reshape(int(np.prod(one.shape[:axis], dtype=np.int64)), -1)
        case "Squeeze", [one, *axes] if one is not None:
            return np.squeeze(one, _axes(attributes, axes) or None)
        case "Unsqueeze", [one, *axes] if one is not None:
            return np.expand_dims(one, _axes(attributes, axes))
        case "Gather", [one, index] if one is not None and index is not None:
            axis = attributes.get("axis", 0)
            _check_size(one.nbytes // max(one.shape[axis], 1) * index.size, most)
            return np.asarray(np.take(one, index, axis=axis))
        case "Concat", parts if all(part is not None for part in parts):
            return np.concatenate([part for part in parts if part is not None], axis=attributes["axis"])
        case "Clip", [one, *limits] if one is not None:
            low, high = (*limits, None, None)[:2]
            shapes = [limit.shape for limit in (low, high) if limit is not None]
            _check_size(math.prod(np.broadcast_shapes(one.shape, *shapes)) * one.itemsize, most)
            return np.clip(one, low, high).astype(one.dtype)
    return None


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise MemoryError


def _constant(attributes: dict[str, Any]) -> Array | None:
    if "value" in attributes:
        return np.asarray(attributes["value"])
    for key, dtype in (("value_float", np.float32), ("value_floats", np.float32)):
        if key in attributes:
            return np.array(attributes[key], dtype=dtype)
    for key in ("value_int", "value_ints"):
        if key in attributes:
            return np.array(attributes[key], dtype=np.int64)
    return None


def _axes(attributes: dict[str, Any], operands: list[Array | None]) -> tuple[int, ...]:
    """Axes as an operand (opset 13 and later) or as an attribute (before)."""
    if operands and operands[0] is not None:
        return tuple(int(axis) for axis in operands[0].ravel())
    return tuple(attributes.get("axes", ()))


def target_shape(shape: tuple[int, ...], wanted: list[int], *, allow_zero: bool = False) -> tuple[int, ...]:
    """ONNX Reshape: 0 keeps a dimension, -1 is what is left.

    >>> target_shape((2, 3, 4), [0, -1])
    (2, 12)
    """
    kept = [shape[place] if size == 0 and not allow_zero else int(size) for place, size in enumerate(wanted)]
    count = 1
    for size in shape:
        count *= size
    known = 1
    for size in kept:
        known *= size if size != -1 else 1
    if kept.count(-1) == 1 and known and count % known == 0:
        kept = [count // known if size == -1 else size for size in kept]
        known = count
    if known != count or any(size < 0 for size in kept):
        raise ValueError(f"cannot reshape {shape} to {tuple(wanted)}")
    return tuple(kept)
