"""Every tensor of a run as .npy files with a manifest, for other tools to compare with."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.files import write_json, write_whole
from accelsim.ir import IntegerGraph

MANIFEST = "manifest.json"


def dump_tensors(graph: IntegerGraph, tensors: dict[str, npt.NDArray[np.int64]], folder: Path) -> list[Path]:
    """Write the codes of nodes as ``<number>_<name>.npy`` and a manifest, last, that says what each file holds.

    Args:
        graph: names the nodes, in its order, with scale and zero point.
        tensors: codes (images, H, W, C) of any of its nodes.
        folder: made where it is not there.
    Returns:
        The files written, the manifest last. Codes are int8 or uint8, as the activation format is signed or not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot create the folder: {error.strerror}; choose another") from None
    dtype = np.int8 if graph.activation.signed else np.uint8
    paths, entries = [], []
    for number, node in enumerate(graph.nodes):
        if node.name not in tensors:
            continue
        codes = tensors[node.name].astype(dtype)
        stream = io.BytesIO()
        np.save(stream, codes, allow_pickle=False)
        path = folder / f"{number:03}_{_file_name(node.name)}.npy"
        write_whole(path, stream.getvalue())
        paths.append(path)
        entry: dict[str, Any] = {
            "node": node.name,
            "op": node.op,
            "file": path.name,
            "shape": list(codes.shape),
            "axes": "image, y, x, channel",
            "dtype": codes.dtype.name,
            "scale": node.output.scale,
            "zero_point": node.output.zero_point,
            "sha256": hashlib.sha256(stream.getvalue()).hexdigest(),
        }
        entries.append(entry)
    manifest = folder / MANIFEST
    write_json(
        manifest,
        {
            "format": "accelsim-tensors",
            "version": 1,
            "workload": graph.name,
            "output": graph.output,
            "tensors": entries,
        },
    )
    return [*paths, manifest]


def _file_name(name: str) -> str:
    """A node's name with anything a file system may dislike replaced."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:100]
