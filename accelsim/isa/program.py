"""A program: instructions, modes, DRAM image and what a host must know to feed it and to read its result.

A program directory holds `program.bin`, `dram.bin` and `program.json` (docs/formats.md). `program.bin` carries the
digests of everything, itself included; one altered byte anywhere is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware, hardware_from_dict
from accelsim.errors import InputError
from accelsim.files import FilePath, read_bytes, write_whole
from accelsim.isa.check import Order, check_program
from accelsim.isa.encoding import decode_all, encode_all
from accelsim.isa.instructions import Instruction
from accelsim.isa.modes import MODES_BYTES, Modes
from accelsim.numerics import IntFormat, Precision

MAGIC = b"ACCELSIM"
ISA_VERSION = 1
METADATA_VERSION = 2
HEADER = struct.Struct(f"<8sHHI{MODES_BYTES}s8x32s32s32s32s32x")
HEADER_BYTES = HEADER.size
assert HEADER_BYTES == 192

Layout = Literal["nhwc", "columns", "pixel_columns"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TensorRegion:
    """An input or output tensor in DRAM, one byte an element.

    Attributes:
        address: of its first byte.
        batch, shape: (batch, height, width, channels).
        layout: "nhwc"; or "columns", what input-stationary uses: for each block of at most `block` images, K rows of
            the block's images (input), or one (N, batch) matrix (output). "pixel_columns" has the pixels of each image
            in place of images: K rows of a block's pixels, no block holding two images', and (N, batch * H * W).
        block: images or pixels of one block of an input in columns; 0 otherwise.
        scale, zero_point: real = scale * (q - zero_point).
        precision: of the division that quantises an input.
        limits: (smallest, largest) code; None stands for those of the modes' activation format.
        output_shape: of the result in PyTorch, without the batch; empty for the input.
    """

    node: str
    address: int
    batch: int
    shape: tuple[int, int, int]
    layout: Layout = "nhwc"
    block: int = 0
    scale: float
    zero_point: int
    precision: Precision = "float64"
    limits: tuple[int, int] | None = None
    output_shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes."""
        return self.batch * math.prod(self.shape)

    def slice(self) -> slice:
        """Where the region lies in the DRAM image."""
        return slice(self.address, self.address + self.size)

    def pack(self, tensor: Int64, form: IntFormat) -> Bytes:
        """Turn codes (batch, H, W, C) into the region's bytes."""
        if tensor.shape != (self.batch, *self.shape):
            raise InputError(
                f"input {self.node}: shape {tensor.shape} is not (batch, H, W, C) = {(self.batch, *self.shape)}"
            )
        low, high = self.limits or form.limits
        if tensor.size and not (low <= tensor.min() and tensor.max() <= high):
            raise InputError(f"input {self.node}: a code is outside {low}..{high}")
        codes = (tensor & 0xFF).astype(np.uint8)
        if self.layout == "nhwc":
            return codes.ravel()
        return np.concatenate([block.T.ravel() for block in _blocks(codes.reshape(*self._vectors), self.block)])

    @property
    def _vectors(self) -> tuple[int, int, int]:
        """(sets, vectors of each, elements of each): of all images, or of the pixels of each image."""
        height, width, channels = self.shape
        if self.layout == "columns":
            return 1, self.batch, math.prod(self.shape)
        return self.batch, height * width, channels

    def unpack(self, data: Bytes, form: IntFormat) -> Int64:
        """Turn the region's bytes into codes (batch, H, W, C)."""
        codes = data.view(np.int8) if form.signed else data
        if self.layout == "nhwc":
            return codes.reshape(self.batch, *self.shape).astype(np.int64)
        sets, vectors, inner = self._vectors
        if not self.block:
            return np.ascontiguousarray(codes.reshape(inner, -1).T).reshape(self.batch, *self.shape).astype(np.int64)
        whole = np.empty((sets, vectors, inner), dtype=np.int64)
        start = 0
        for block in _blocks(whole, self.block):
            block[...] = codes[start : start + block.size].reshape(inner, -1).T
            start += block.size
        return whole.reshape(self.batch, *self.shape)


def _blocks(vectors: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    """Blocks of at most `size` vectors each, of (sets, vectors, elements), as views."""
    for one in vectors:
        for first in range(0, len(one), size):
            yield one[first : first + size]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one label stands for: the machine operation and the graph nodes it computes, the last being written."""

    name: str
    op: str
    nodes: tuple[str, ...]
    macs: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a node's tensor that one POST writes, for observers: images, rows, columns and channels."""

    instruction: int
    node: str
    image: int
    images: int
    y: int
    y_count: int
    x: int
    x_count: int
    channel: int
    lanes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Everything the machine needs, and nothing of the graph.

    Attributes:
        name: the workload.
        instructions: in program order.
        modes: set once.
        hardware: the machine it was compiled for.
        timing_version: the timing contract its compiler assumed.
        dram: the initial DRAM image, the input region zero.
        input, output: where the host writes and reads.
        layers: indexed by label.
        pieces: what each POST writes.
        shapes: (H, W, C) of each node that is written.
    """

    name: str
    instructions: tuple[Instruction, ...]
    modes: Modes
    hardware: Hardware
    timing_version: int
    dram: Bytes
    input: TensorRegion
    output: TensorRegion
    layers: tuple[Layer, ...]
    pieces: tuple[Piece, ...]
    shapes: dict[str, tuple[int, int, int]]

    @property
    def batch(self) -> int:
        """Images of one run."""
        return self.input.batch

    @cached_property
    def order(self) -> Order:
        """The order its tokens impose.

        The static check gives it, and a program never changes, so that each is checked once, whoever made it and
        however often it is loaded.

        Raises:
            InputError: the program breaks a rule of the static check (`check_program`).
        """
        return check_program(self.instructions, self.hardware, self.modes, self.dram.size)

    def with_input(self, codes: Int64) -> Program:
        """The same program with an input in its DRAM image.

        Args:
            codes: int64 (batch, H, W, C), as `TensorRegion.pack` takes them.
        Raises:
            InputError: as `TensorRegion.pack`.
        """
        image = self.dram.copy()
        image[self.input.slice()] = self.input.pack(codes, self.modes.activation)
        return replace(self, dram=image)

    def metadata(self) -> dict[str, Any]:
        """What `program.json` holds."""
        return {
            "format": "accelsim-program",
            "version": METADATA_VERSION,
            "name": self.name,
            "hardware": self.hardware.model_dump(mode="json"),
            "input": asdict(self.input),
            "output": asdict(self.output),
            "layers": [asdict(layer) for layer in self.layers],
            "pieces": [list(asdict(piece).values()) for piece in self.pieces],
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }

    def save(self, folder: FilePath) -> None:
        """Write the directory; each file is written whole, `program.bin`, which vouches for the others, last."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot create the folder: {error.strerror}; choose another") from None
        metadata = (json.dumps(self.metadata(), indent=1) + "\n").encode()
        image = self.dram.tobytes()
        code = encode_all(self.instructions)
        write_whole(folder / "program.json", metadata)
        write_whole(folder / "dram.bin", image)
        write_whole(folder / "program.bin", self._header(code, image, metadata) + code)

    def _header(self, code: bytes, image: bytes, metadata: bytes) -> bytes:
        def fields(digest: bytes) -> bytes:
            return HEADER.pack(
                MAGIC,
                ISA_VERSION,
                self.timing_version,
                len(self.instructions),
                self.modes.encode(),
                self.hardware.fingerprint(),
                hashlib.sha256(image).digest(),
                hashlib.sha256(metadata).digest(),
                digest,
            )

        return fields(hashlib.sha256(fields(bytes(32)) + code).digest())


def load_program(folder: Path) -> Program:
    """Read a program directory.

    Raises:
        InputError: a file is missing or altered, or a version is not this one's; nothing is executed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a program directory; make one with 'accelsim compile WORKLOAD -o DIR'")
    path = folder / "program.bin"
    data = read_bytes(path)
    if len(data) < HEADER_BYTES:
        raise InputError(f"{path}: {len(data)} bytes are too few for a header of {HEADER_BYTES}; compile it again")
    magic, isa, timing, count, modes, fingerprint, image_hash, metadata_hash, digest = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise InputError(f"{path}: magic {magic!r} is not {MAGIC!r}; this is not an accelsim program")
    if isa != ISA_VERSION:
        raise InputError(f"{path}: ISA version {isa} is not {ISA_VERSION}; compile the program again")
    code = data[HEADER_BYTES:]
    blank = data[: HEADER_BYTES - 64] + bytes(32) + data[HEADER_BYTES - 32 : HEADER_BYTES]
    if hashlib.sha256(blank + code).digest() != digest:
        raise InputError(f"{path}: its digest does not match its contents; the file was altered, compile it again")
    image = _vouched(folder / "dram.bin", image_hash)
    metadata = _vouched(folder / "program.json", metadata_hash)
    try:
        instructions = decode_all(code)
    except InputError as error:
        raise InputError(f"{path}: {error}; compile it again") from None
    if len(instructions) != count:
        raise InputError(f"{path}: holds {len(instructions)} instructions, its header says {count}")
    try:
        return _from_metadata(json.loads(metadata), instructions, Modes.decode(modes), timing, image, fingerprint, path)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{folder / 'program.json'}: not as written by compile: {error!r}; compile it again") from None


def _vouched(path: Path, digest: bytes) -> bytes:
    data = read_bytes(path)
    if hashlib.sha256(data).digest() != digest:
        raise InputError(f"{path}: does not match the digest in program.bin; the file was altered, compile it again")
    return data


def _from_metadata(
    data: dict[str, Any],
    instructions: tuple[Instruction, ...],
    modes: Modes,
    timing: int,
    image: bytes,
    fingerprint: bytes,
    path: Path,
) -> Program:
    if data["format"] != "accelsim-program" or data["version"] != METADATA_VERSION:
        raise ValueError("format or version")
    hardware = hardware_from_dict(data["hardware"], str(path.with_name("program.json")))
    if hardware.fingerprint() != fingerprint:
        raise InputError(f"{path}: was compiled for another machine than program.json describes; compile it again")
    layers = tuple(Layer(**{**layer, "nodes": tuple(layer["nodes"])}) for layer in data["layers"])
    highest = max((instruction.label for instruction in instructions), default=-1)
    if highest >= len(layers):
        raise ValueError(f"instructions name layer {highest}, there are {len(layers)}")
    return Program(
        name=data["name"],
        instructions=instructions,
        modes=modes,
        hardware=hardware,
        timing_version=timing,
        dram=np.frombuffer(image, dtype=np.uint8),
        input=_region(data["input"], len(image), modes.activation),
        output=_region(data["output"], len(image), modes.activation),
        layers=layers,
        pieces=tuple(Piece(**dict(zip(_PIECE_FIELDS, piece, strict=True))) for piece in data["pieces"]),
        shapes={name: tuple(shape) for name, shape in data["shapes"].items()},
    )


def _region(data: dict[str, Any], image_bytes: int, form: IntFormat) -> TensorRegion:
    limits = None if data["limits"] is None else tuple(data["limits"])
    shapes = {"shape": tuple(data["shape"]), "output_shape": tuple(data["output_shape"])}
    region = TensorRegion(**{**data, **shapes, "limits": limits})
    if limits is not None:
        whole = len(limits) == 2 and all(type(limit) is int for limit in limits)
        if not (whole and form.minimum <= limits[0] <= limits[1] <= form.maximum):
            raise ValueError(f"region of {region.node}: limits {limits} are not inside {form.limits}, low to high")
    numbers = (region.address, region.batch, region.block, *region.shape)
    if not all(type(number) is int and number >= 0 for number in numbers) or len(region.shape) != 3:
        raise ValueError(f"region of {region.node}: {numbers} are not sizes")
    if region.layout not in get_args(Layout) or (region.layout == "nhwc" and region.block):
        raise ValueError(f"region of {region.node}: layout {region.layout!r} with blocks of {region.block}")
    if region.precision not in get_args(Precision):
        raise ValueError(f"region of {region.node}: precision {region.precision!r}")
    if region.size < 1 or region.address + region.size > image_bytes:
        raise ValueError(f"region of {region.node}: does not lie in the DRAM image of {image_bytes} bytes")
    return region


_PIECE_FIELDS = tuple(Piece.__dataclass_fields__)
