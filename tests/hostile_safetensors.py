"""safetensors files that lie: about their length, their offsets, their shapes or their types."""

from __future__ import annotations

import json
import struct
from typing import Any


def file(header: bytes | dict[str, Any], body: bytes = b"") -> bytes:
    """The length of the header, the header, the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FILES = {
    "empty": b"",
    "endless_header": b"\xff" * 8,
    "header_beyond_the_file": struct.pack("<Q", 1 << 40) + b"{}",
    "no_json": file(b"hello"),
    "deep_json": file(b'{"a":' * 100_000),
    "not_utf8": file(b'{"\xff":1}'),
    "overlapping_offsets": file({"a": tensor("I8", [8], 0, 8), "b": tensor("I8", [8], 0, 8)}, bytes(8)),
    "offset_beyond_the_file": file({"a": tensor("I8", [8], 0, 8)}, bytes(4)),
    "gap": file({"a": tensor("I8", [4], 4, 8)}, bytes(8)),
    "reversed_offsets": file({"a": tensor("I8", [4], 4, 0)}, bytes(4)),
    "huge_shape": file({"a": tensor("I8", [1 << 50], 0, 8)}, bytes(8)),
    "wrapping_shape": file({"a": tensor("I64", [1 << 32, 1 << 32], 0, 0)}),
    "huge_empty_shape": file({"a": tensor("I8", [0, 1 << 62], 0, 0)}),
    "negative_shape": file({"a": tensor("I8", [-1], 0, 8)}, bytes(8)),
    "unknown_type": file({"a": tensor("F13", [8], 0, 8)}, bytes(8)),
    "bfloat16": file({"a": tensor("BF16", [4], 0, 8)}, bytes(8)),
    "float4": file({"a": tensor("F4", [16], 0, 8)}, bytes(8)),
    "bytes_behind": file({"a": tensor("I8", [4], 0, 4)}, bytes(9)),
}
