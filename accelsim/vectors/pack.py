"""A pack of vectors: a folder of tensors as text and .npy, a manifest, benches, and the report of what it covers."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError, did_you_mean
from accelsim.files import parse_npy, read_bytes, write_whole
from accelsim.vectors.edges import cycles_of, edges, shapes
from accelsim.vectors.layers import Layer
from accelsim.vectors.manifest import (
    FORMAT,
    LEVELS,
    MANIFEST,
    VERSION,
    ArrayEntry,
    LayerEntry,
    Level,
    Manifest,
    TensorEntry,
    manifest_text,
    read_manifest,
)
from accelsim.vectors.rules import broken_rule
from accelsim.vectors.target import replaced
from accelsim.vectors.text import decode, digits, encode

Int64 = npt.NDArray[np.int64]

LARGEST_BYTES = 1 << 30
"""A pack beyond this is refused."""
MOST_CYCLES = 1 << 20
"""Cycles of one layer's blocks at level cycle."""
_AXES: dict[str, tuple[str, ...]] = {
    "input": ("image", "y", "x", "channel"),
    "weight": ("n", "r", "s", "c"),
    "bias": ("n",),
    "m0": ("n",),
    "shift": ("n",),
    "entries": ("code",),
    "accumulator": ("image", "y", "x", "channel"),
    "ppu_input": ("image", "y", "x", "channel"),
    "output": ("image", "y", "x", "channel"),
    "tile.activation": ("set", "chunk", "word", "row"),
    "tile.weight": ("block", "chunk", "row", "column"),
    "tile.psum": ("block", "chunk", "word", "column"),
    "tile.accumulator": ("block", "chunk", "word", "column"),
    "tile.ppu_input": ("block", "word", "column"),
    "tile.output": ("block", "word", "column"),
}
_PARAMETERS = ("bias", "m0", "shift", "entries", "tile.start", "tile.bias", "tile.m0", "tile.shift")
_EXPECTED = ("accumulator", "ppu_input", "output", "psum")


def axes_of(name: str, dimensions: int) -> list[str]:
    """Names of a tensor's axes, the last varying fastest."""
    if name == "weight" and dimensions == 2:
        return ["n", "k"]
    if name.startswith("cycle."):
        side = "row" if name.removesuffix("_valid") in ("cycle.activation", "cycle.switch") else "column"
        return ["block", "cycle", side]
    base = name.rstrip("01").rstrip("_") if name.startswith(("input", "m0_", "shift_")) else name
    return list(_AXES.get(base, ("block", "column")))


def level_of(name: str) -> Level:
    """The level at which a tensor is written."""
    first = name.partition(".")[0]
    return cast(Level, first) if first in ("tile", "cycle") else "layer"


def _role(name: str) -> str:
    last = name.rpartition(".")[2].removesuffix("_valid")
    if last in _EXPECTED:
        return "expected"
    return "parameter" if name in _PARAMETERS or name.startswith(("m0_", "shift_")) else "operand"


def _container(bits: int) -> int:
    return next(size for size in (8, 16, 32, 64) if bits <= size)


def element_bits(layer: Layer, name: str) -> tuple[int, str]:
    """Bits and dtype of one element of a tensor."""
    entry = layer.entry
    sums, numerics = entry.sums, entry.numerics
    last = name.rpartition(".")[2]
    code = (8, "int8" if numerics.activation_signed else "uint8")
    if last.endswith("_valid") or last == "switch":
        return 1, "uint8"
    if last.startswith("input") or last == "output":
        return code
    if last.startswith("shift"):
        return 8, "int8"
    if last.startswith("m0"):
        bits = 64 if numerics.scheme in ("reciprocal", "float64") else 32
    elif last == "bias":
        bits = 32
    elif last == "entries":
        bits = 16
    else:
        assert sums is not None
        wide = sums.zero_points == "subtracted"
        if last == "activation":
            return (16, "int16") if wide else code
        if last == "weight":
            return (16, "int16") if wide and name != "weight" else (8, "int8")
        if sums.policy == "exact":  # as narrow as the values allow, one width for a layer
            bits = 32 if _fits_32(layer) else 64
        elif last == "psum":
            bits = _container(sums.psum_bits)
        else:
            bits = _container(sums.width_bits)
        if last == "ppu_input":  # a 32-bit bias on top
            bits = 64
    return bits, f"int{bits}"


def _fits_32(layer: Layer) -> bool:
    held = [layer.arrays[name] for name in ("tile.accumulator", "tile.psum", "tile.start") if name in layer.arrays]
    return all(int(array.min()) >= -(2**31) and int(array.max()) < 2**31 for array in held)


# --- writing -----------------------------------------------------------------------------------------------


def write_pack(
    folder: Path,
    layers: Sequence[Layer],
    *,
    name: str,
    level: Level,
    images: int,
    command: str,
    versions: dict[str, str],
    array: ArrayEntry,
    extra: dict[str, str],
) -> Manifest:
    """Write a pack, after every limit was checked; the manifest, last, vouches for every file.

    Args:
        folder: made where it is not there; must be empty or hold a pack, whose files are replaced, all or none.
        layers: from `make_layers`.
        level: what is written of each.
        command, versions: how to make the pack again.
        extra: further files by name, benches and reports.
    Raises:
        InputError: the folder cannot be made or written, holds files that are no pack's, or the pack would exceed
            `LARGEST_BYTES` or `MOST_CYCLES`. The folder is as it was.
    """
    planned = _plan(folder, layers, level)
    tensors = [f"{layer.entry.label}.{key}" for layer, keys in zip(layers, planned, strict=True) for key in keys]
    new = {MANIFEST, *extra, *(f"{file}.{form}" for file in tensors for form in ("hex", "npy"))}
    with replaced(folder, new) as staging:
        entries = []
        for layer, keys in zip(layers, planned, strict=True):
            entry, arrays = layer.entry, dict(layer.arrays)
            if entry.sums is not None and level == "cycle":
                arrays |= edges(entry.sums, arrays)
                entry = entry.model_copy(update={"cycles": cycles_of(entry.sums)})
            written = [_write_tensor(staging, layer, key, arrays[key]) for key in keys]
            entries.append(entry.model_copy(update={"tensor": written}))
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            name=name,
            level=level,
            images=images,
            command=command,
            checked="every output equals the reference evaluation of the integer graph, bit for bit",
            versions=versions,
            files={file: hashlib.sha256(text.encode()).hexdigest() for file, text in extra.items()},
            array=array,
            layer=entries,
        )
        for file, text in {**extra, MANIFEST: manifest_text(manifest)}.items():
            write_whole(staging / file, text)
    return manifest


def _plan(folder: Path, layers: Sequence[Layer], level: Level) -> list[list[str]]:
    """Names of the tensors to write of each layer; refuses what exceeds a limit before anything is made or written."""
    planned, total = [], 0
    for layer in layers:
        entry = layer.entry
        sizes = {key: array.size for key, array in layer.arrays.items()}
        if entry.sums is not None and level == "cycle":
            cycles = cycles_of(entry.sums)
            if len(entry.sums.blocks) * cycles.total > MOST_CYCLES:
                raise InputError(
                    f"layer {entry.name}: {len(entry.sums.blocks)} blocks of {cycles.total:,} cycles are more than the "
                    f"{MOST_CYCLES:,} cycles of a pack's layer; export it with --level tile"
                )
            sizes |= {key: math.prod(shape) for key, shape in shapes(entry.sums).items()}
        planned.append([key for key in sizes if LEVELS.index(level_of(key)) <= LEVELS.index(level)])
        total += sum(_bytes(layer, key, sizes[key]) for key in planned[-1])
        if total > LARGEST_BYTES:
            raise InputError(
                f"{folder}: the pack would exceed {LARGEST_BYTES:,} bytes at layer {entry.name}; export fewer layers "
                "(--layer), fewer images, or --level layer"
            )
    return planned


def _bytes(layer: Layer, name: str, size: int) -> int:
    bits, _ = element_bits(layer, name)
    return size * (max(bits, 8) // 8 + -(-bits // 4))


def _write_tensor(folder: Path, layer: Layer, name: str, array: Int64) -> TensorEntry:
    bits, dtype = element_bits(layer, name)
    per_line = array.shape[-1] if level_of(name) != "layer" else 1
    file = f"{layer.entry.label}.{name}"
    text = encode(array.reshape(-1, per_line), bits).encode()
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array.astype(dtype)), allow_pickle=False)
    write_whole(folder / f"{file}.hex", text)
    write_whole(folder / f"{file}.npy", stream.getvalue())
    return TensorEntry(
        name=name,
        role=cast(Any, _role(name)),
        level=level_of(name),
        axes=axes_of(name, array.ndim),
        shape=list(array.shape),
        dtype=cast(Any, dtype),
        bits=cast(Any, bits),
        per_line=per_line,
        file=file,
        hex_sha256=hashlib.sha256(text).hexdigest(),
        npy_sha256=hashlib.sha256(stream.getvalue()).hexdigest(),
    )


# --- reading -----------------------------------------------------------------------------------------------


@dataclass
class Pack:
    """A pack on disk; tensors are read, and their digests checked, when they are asked for."""

    folder: Path
    manifest: Manifest

    @cached_property
    def by_file(self) -> dict[str, tuple[LayerEntry, TensorEntry]]:
        """Every tensor by its file's name without the suffix."""
        return {tensor.file: (layer, tensor) for layer in self.manifest.layer for tensor in layer.tensor}

    def read(self, tensor: TensorEntry) -> Int64:
        """The tensor, int64.

        Raises:
            InputError: its file is not there, or was altered since.
        """
        path = self.folder / f"{tensor.file}.npy"
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() != tensor.npy_sha256:
            raise InputError(f"{path}: is not the file its manifest was written for; export the pack again")
        array = parse_npy(data, path, "export the pack again")
        if list(array.shape) != tensor.shape or array.dtype.name != tensor.dtype:
            raise InputError(
                f"{path}: holds {array.dtype} {array.shape}, and its manifest says {tensor.dtype} "
                f"{tuple(tensor.shape)}; export the pack again"
            )
        return array.astype(np.int64)

    def layer(self, entry: LayerEntry) -> Layer:
        """A layer with its layer-level arrays, from which `evaluation.compute` makes the others."""
        return Layer(entry, {t.name: self.read(t) for t in entry.tensor if t.level == "layer"})


def load_pack(folder: Path) -> Pack:
    """Open a pack and check its manifest.

    Raises:
        InputError: no pack, or one whose manifest contradicts itself.
    """
    pack = Pack(folder, read_manifest(folder))
    for layer in pack.manifest.layer:
        if broken := broken_rule(layer):
            raise InputError(f"{folder / MANIFEST}: layer {layer.name}: {broken}; export the pack again")
    for file, (layer, tensor) in pack.by_file.items():
        where = f"{folder / MANIFEST}: tensor {file}"
        if Path(file).name != file or file.startswith("."):
            raise InputError(f"{where}: file names hold no folder")
        if len(tensor.axes) != len(tensor.shape) or min(tensor.shape, default=0) < 1:
            raise InputError(f"{where}: shape {tensor.shape} and axes {tensor.axes} do not fit")
        if tensor.axes != axes_of(tensor.name, len(tensor.shape)) or tensor.level != level_of(tensor.name):
            raise InputError(f"{where}: axes {tensor.axes} and level {tensor.level} are not those of {tensor.name}")
        if tensor.per_line not in (1, tensor.shape[-1]):
            raise InputError(f"{where}: per_line = {tensor.per_line} is neither 1 nor the last axis")
        if tensor.level != "layer" and layer.sums is None:
            raise InputError(f"{where}: {layer.name} has tiles and no sums")
    if len(pack.by_file) != sum(len(layer.tensor) for layer in pack.manifest.layer):
        raise InputError(f"{folder / MANIFEST}: two tensors share a file")
    return pack


@dataclass
class Dumped:
    """What a design gave for one tensor: int64, and where it is unknown (x, z or missing)."""

    values: Int64
    unknown: npt.NDArray[np.bool_]


def read_dump(pack: Pack, folder: Path) -> dict[str, Dumped]:
    """Read every .hex and .npy of a design's dump, by the pack's own file names.

    Raises:
        InputError: the folder holds none, a file the pack does not have, both forms of one tensor, or a file of another
            shape, type or syntax.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give one that holds files named as in the pack")
    found: dict[str, Dumped] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".hex", ".npy"):
            continue
        if path.stem not in pack.by_file:
            hint = did_you_mean(path.stem, pack.by_file) or f"; its manifest lists {len(pack.by_file)} tensors"
            raise InputError(f"{path}: the pack has no tensor {path.stem!r}{hint}")
        if path.stem in found:
            raise InputError(f"{path}: {path.stem} is there as .hex and as .npy; give one of them")
        _, tensor = pack.by_file[path.stem]
        found[path.stem] = _read_hex(path, tensor) if path.suffix == ".hex" else _read_npy(path, tensor)
    if not found:
        raise InputError(f"{folder}: holds no .hex and no .npy file; name dumps as the pack's files")
    return found


def _read_hex(path: Path, tensor: TensorEntry) -> Dumped:
    text = read_bytes(path).decode("latin-1")
    where = str(path)
    values, unknown = decode(text, tensor.lines, tensor.per_line, tensor.bits, signed=tensor.signed, where=where)
    return Dumped(values.reshape(tensor.shape), unknown.reshape(tensor.shape))


def _read_npy(path: Path, tensor: TensorEntry) -> Dumped:
    array = parse_npy(read_bytes(path), path, "save it with numpy.save")
    if array.dtype.kind not in "iu":
        raise InputError(f"{path}: holds no array of integers; save one as {tensor.dtype}")
    if list(array.shape) != tensor.shape:
        raise InputError(f"{path}: shape {array.shape} is not the pack's {tuple(tensor.shape)}")
    if array.dtype.kind == "u" and int(array.max()) >= 1 << 63:  # int64 would make it negative
        raise InputError(
            f"{path}: holds {int(array.max())}, beyond any of the pack's values; save it as {tensor.dtype}"
        )
    return Dumped(array.astype(np.int64), np.zeros(array.shape, dtype=np.bool_))


def line_digits(tensor: TensorEntry) -> int:
    """Hexadecimal digits of one line of a tensor's file."""
    return digits(tensor.per_line, tensor.bits)
