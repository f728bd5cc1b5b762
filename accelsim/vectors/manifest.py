"""manifest.toml: what a pack of vectors holds, and everything needed to read it (docs/vectors.md, section 2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from accelsim.config import Section, build, read_toml
from accelsim.errors import InputError
from accelsim.numerics import Arithmetic, Dataflow, IntFormat, Overflow, Requantization, Rounding, Scheme
from accelsim.vectors.text import digits

FORMAT: Literal["accelsim-vectors"] = "accelsim-vectors"
VERSION = 1
MANIFEST = "manifest.toml"

Code = Annotated[int, Field(ge=-128, le=255)]
"""A code or zero point: of int8 or uint8."""
Extent = Annotated[int, Field(ge=0, lt=1 << 31)]
"""A size, a position or a count; products of them are Python's, and what they size is checked against the tensors."""
Level = Literal["layer", "tile", "cycle"]
Policy = Literal["saturating", "wrapping", "exact"]
LEVELS: tuple[Level, ...] = ("layer", "tile", "cycle")
OVERFLOW: dict[Policy, Overflow] = {"saturating": "saturate", "wrapping": "wrap", "exact": "wrap"}
EXACT_BITS = 64
"""Width in which no sum of int8 products can overflow: what the policy `exact` is computed in."""


class TensorEntry(Section):
    """One tensor, as `file`.hex and `file`.npy."""

    name: str
    role: Literal["operand", "parameter", "expected"]
    level: Level
    axes: list[str]
    shape: list[Extent]
    dtype: Literal["int8", "uint8", "int16", "int32", "int64"]
    bits: Literal[1, 8, 16, 32, 64]
    per_line: int = Field(ge=1, lt=1 << 31)
    file: str
    hex_sha256: str
    npy_sha256: str

    @property
    def lines(self) -> int:
        """Lines of the hex file."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size // self.per_line

    @property
    def signed(self) -> bool:
        """Whether elements are two's complement."""
        return not self.dtype.startswith("u")

    @property
    def line_digits(self) -> int:
        """Hexadecimal digits of a line."""
        return digits(self.per_line, self.bits)


class Numerics(Section):
    """How a layer's integers are computed: docs/numerics.md, in the words of its sections."""

    activation_bits: int = Field(ge=2, le=8)
    activation_signed: bool
    z_x: list[Code]
    z_y: Code
    clip: list[Code]
    scheme: Literal["fixed_point", "power_of_two", "reciprocal", "float32", "float64"]
    rounding: Literal["floor", "half_up", "half_even", "half_away", "toward_zero", "tflite_double"]
    multiplier_bits: int
    order: Literal["multiply_first", "shift_first"]
    guard_bits: int
    output_overflow: Literal["saturate", "wrap"]

    @property
    def activation(self) -> IntFormat:
        """Format of activations."""
        return IntFormat(self.activation_bits, signed=self.activation_signed)

    @property
    def requantization(self) -> Requantization:
        """The scheme."""
        return Requantization(
            scheme=Scheme(self.scheme),
            rounding=Rounding(self.rounding),
            multiplier_bits=self.multiplier_bits,
            order=self.order,
            guard_bits=self.guard_bits,
            output_overflow=self.output_overflow,
        )


class Sums(Section):
    """How a convolution or linear layer accumulates, and the tiles its sums are cut into.

    Attributes:
        policy: what an addition that leaves its range does; "exact" is 64 bits wide, so that none does.
        running: output-stationary: a sum goes on from chunk to chunk in the PE; else each chunk's partial sum starts
            at 0 and is then added to the accumulator.
        diagonal: depthwise: tile row i is channel i of the block, and only weights on the diagonal are not 0.
        chunks: [first k, length] of each chunk of K, in the order they are added (diagonal: [tap, 1]).
        blocks: [first output channel, lanes, activation set] of each block of at most C channels.
        sets: different activations a chunk can have: 1, the groups, or the blocks of a depthwise layer.
        words: output positions of all images: M.
    """

    policy: Policy
    psum_bits: int = Field(ge=8, le=64)
    width_bits: int = Field(ge=8, le=64)
    zero_points: Literal["folded", "subtracted"]
    weight_bits: int = Field(ge=2, le=8)
    z_w: Code
    bias_at: Literal["ppu", "accumulator"]
    running: bool
    diagonal: bool
    rows: int = Field(ge=1, lt=1 << 31)
    columns: int = Field(ge=1, lt=1 << 31)
    words: int = Field(ge=1, lt=1 << 31)
    sets: int = Field(ge=1, lt=1 << 31)
    chunks: list[list[Extent]]
    blocks: list[list[Extent]]

    @property
    def arithmetic(self) -> Arithmetic:
        """The additions of one tile."""
        dataflow: Dataflow = "os" if self.running else "ws"
        return Arithmetic(
            psum_bits=self.psum_bits,
            width_bits=self.width_bits,
            overflow=OVERFLOW[self.policy],
            saturate_at="every_add",
            rows=self.rows,
            dataflow=dataflow,
        )


class Geometry(Section):
    """Shapes (image, y, x, channel), and the window of a convolution or pool."""

    input: list[Extent]
    output: list[Extent]
    kernel: list[Extent] = Field(default=[1, 1])
    stride: list[Extent] = Field(default=[1, 1])
    padding: list[Extent] = Field(default=[0, 0, 0, 0])
    dilation: list[Extent] = Field(default=[1, 1])
    groups: Extent = 1
    count_include_pad: bool = True


class Cycles(Section):
    """When each tile of a block is loaded and streamed on this repository's machine; cycle 0 is the first load or read.

    Attributes:
        total: cycles of a block, up to the last sum that leaves the array.
        load: ws, for each chunk: cycle its weight row 0 is read. Empty for os.
        stream: ws, for each chunk: cycle word 0 enters row 0; os, for each tile of R words: its first piece does.
    """

    total: Extent
    load: list[Extent]
    stream: list[Extent]


class LayerEntry(Section):
    """One layer: a node of the network, or one directed case."""

    number: int
    name: str
    op: Literal["conv2d", "linear", "max_pool2d", "avg_pool2d", "add", "clip", "table"]
    inputs: list[str]
    covers: str = ""
    simple: bool
    numerics: Numerics
    geometry: Geometry
    sums: Sums | None = None
    cycles: Cycles | None = None
    tensor: list[TensorEntry] = Field(default=[])

    @property
    def label(self) -> str:
        """What the layer's file names begin with."""
        safe = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in self.name)[:60]
        return f"{self.number:03}_{safe}"


class ArrayEntry(Section):
    """The array whose tiles these are."""

    hardware: str
    rows: int = Field(ge=1, lt=1 << 31)
    columns: int = Field(ge=1, lt=1 << 31)
    dataflow: Literal["ws", "os"]


class Manifest(Section):
    """The whole of manifest.toml; `files` has the SHA-256 of every file that is no tensor's, by name."""

    format: Literal["accelsim-vectors"]
    version: int
    name: str
    level: Level
    images: int
    command: str
    checked: str
    versions: dict[str, str]
    files: dict[str, str] = Field(default={})
    array: ArrayEntry
    layer: list[LayerEntry]


def read_manifest(folder: Path) -> Manifest:
    """Read and validate a pack's manifest.

    Raises:
        InputError: there is none, or it breaks a rule of its schema; the line says which.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(f"{folder}: holds no {MANIFEST}; give a folder that 'accelsim vectors export' wrote")
    data = read_toml(path)
    if data.get("format") == FORMAT and data.get("version") != VERSION:
        raise InputError(f"{path}: version = {data.get('version')!r} is not {VERSION}; export the pack again")
    return build(Manifest, data, str(path))


def manifest_text(manifest: Manifest) -> str:
    """The manifest as TOML; the same manifest gives the same bytes."""
    return "\n".join(_table(manifest.model_dump(mode="json", exclude_defaults=False), ())) + "\n"


def _table(data: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in data.items() if not _is_table(value) and value is not None}
    lines = [f"{key if key.isidentifier() else _value(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in data.items():
        if isinstance(value, dict):
            lines += ["", f"[{'.'.join((*path, key))}]", *_table(value, (*path, key))]
        elif _is_table(value):
            for entry in value:
                lines += ["", f"[[{'.'.join((*path, key))}]]", *_table(entry, (*path, key))]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: Any) -> str:
    """TOML and JSON write booleans, integers, arrays of them and strings alike, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
