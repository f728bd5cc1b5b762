"""Tensors as text for `$readmemh`: one line a row of elements, element 0 in the least significant bits.

`encode` and `decode` are inverse; docs/vectors.md, section 3, states the packing for those who read it elsewhere.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError

Int64 = npt.NDArray[np.int64]

CONTAINERS = (8, 16, 32, 64)
"""Bits of one element of numbers; flags take 1."""
_NOT_DIGITS = re.compile(r"[^0-9a-f]")
_ADDRESS = re.compile(r"@[0-9a-f]{1,16}", re.ASCII)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


class Decoded(NamedTuple):
    """Values int64 (lines, per_line), and which of them hold an x or z digit, or were never given."""

    values: Int64
    unknown: npt.NDArray[np.bool_]


def digits(per_line: int, bits: int) -> int:
    """Hexadecimal digits of one line."""
    return -(-per_line * bits // 4)


def encode(values: Int64, bits: int) -> str:
    """Write integers (lines, per_line) as hexadecimal lines, two's complement, most significant digit first.

    Args:
        values: low `bits` bits of each are kept; element k of a line is in bits [bits * k + bits - 1 : bits * k].
        bits: 1, 8, 16, 32 or 64.

    >>> encode(np.array([[1, -1, 2, 3], [-128, 127, 0, 0]]), 8)
    '0302ff01\\n00007f80\\n'
    >>> encode(np.array([[1, 0, 0, 0, 1]]), 1)
    '11\\n'
    """
    lines, per_line = values.shape
    if bits == 1:
        data = np.packbits((values & 1).astype(np.uint8), axis=1, bitorder="little")
    else:
        data = values.astype(f"<i{bits // 8}").view(np.uint8).reshape(lines, per_line * bits // 8)
    text = np.ascontiguousarray(data[:, ::-1]).tobytes().hex()
    wide, kept = 2 * data.shape[1], digits(per_line, bits)
    return "".join(f"{text[i + wide - kept : i + wide]}\n" for i in range(0, len(text), wide))


def decode(text: str, lines: int, per_line: int, bits: int, *, signed: bool, where: str) -> Decoded:
    """Read what `encode`, `$writememh` or a text editor wrote.

    Args:
        text: one number a line, of any case, with underscores, comments and ``@address`` as `$readmemh` takes them; a
            shorter number is extended with zeros; x and z are unknown digits.
        signed: how an element's bits become its value.
        where: the file, for errors.
    Raises:
        InputError: a number too long or not hexadecimal, or more lines than `lines`.

    >>> decode("0302ff01 // four\\n@1 7f80", 2, 4, 8, signed=True, where="x.hex").values.tolist()
    [[1, -1, 2, 3], [-128, 127, 0, 0]]
    """
    wide = digits(per_line, bits)
    rows = ["x" * wide] * lines
    place = 0
    for number, line in enumerate(_COMMENT.sub(_line_breaks, text).splitlines(), 1):
        for word in line.replace("_", "").lower().split():
            if word.startswith("@"):
                place = _address(word, number, where)
                continue
            # A whole line such as 0x1a is a simulator's, digit 2 unknown; a shorter or longer one has C's prefix.
            if word.startswith("0x") and len(word) != wide:
                raise InputError(f"{where}:{number}: {word[:20]!r} has a prefix; write the digits alone")
            if place >= lines:
                raise InputError(f"{where}:{number}: line {place} is one too many; {lines} lines belong here")
            if len(word) > wide and word[: len(word) - wide].strip("0"):
                raise InputError(
                    f"{where}:{number}: {word[:20]!r} has {len(word)} digits; a line of {per_line} elements of {bits} "
                    f"bits has {wide}"
                )
            if strange := re.sub("[0-9a-fxz]", "", word):
                raise InputError(f"{where}:{number}: {strange[0]!r} is not a hexadecimal digit, x or z")
            rows[place] = word.rjust(wide, "0")[-wide:]
            place += 1
    return _elements(rows, per_line, bits, signed=signed)


def _line_breaks(comment: re.Match[str]) -> str:
    return "\n" * comment[0].count("\n") or " "


def _address(word: str, number: int, where: str) -> int:
    if not _ADDRESS.fullmatch(word):
        raise InputError(
            f"{where}:{number}: {word[:20]!r} is not an address; write @ and up to 16 hexadecimal digits, of the "
            "line's number from 0"
        )
    return int(word[1:], 16)


def _elements(rows: list[str], per_line: int, bits: int, *, signed: bool) -> Decoded:
    unknown = np.zeros((len(rows), per_line), dtype=np.bool_)
    for index, row in enumerate(rows):
        if _NOT_DIGITS.search(row):
            for place, digit in enumerate(reversed(row)):
                if digit in "xz":
                    unknown[index, place * 4 // bits : (place * 4 + 3) // bits + 1] = True
            rows[index] = _NOT_DIGITS.sub("0", row)
    wide = -(-per_line * bits // 8)
    data = np.frombuffer(bytes.fromhex("".join(row.rjust(2 * wide, "0") for row in rows)), dtype=np.uint8)
    data = np.ascontiguousarray(data.reshape(len(rows), wide)[:, ::-1])
    if bits == 1:
        return Decoded(np.unpackbits(data, axis=1, count=per_line, bitorder="little").astype(np.int64), unknown)
    kind: Any = f"<{'i' if signed else 'u'}{bits // 8}"
    return Decoded(data.view(kind).reshape(len(rows), per_line).astype(np.int64), unknown)


def hexadecimal(value: int, bits: int) -> str:
    """A value's two's complement digits, for people.

    >>> hexadecimal(-2, 8), hexadecimal(5, 32)
    ('0xfe', '0x00000005')
    """
    return f"0x{value & (1 << bits) - 1:0{-(-bits // 4)}x}"
