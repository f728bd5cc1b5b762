"""The folder a pack is written to: a pack takes an earlier one's place whole, and touches nothing but a pack's files.

A pack is made in a folder inside the target and moved out of it once it is complete, the manifest last. What an
interrupted export leaves is either that folder without a manifest, which the next export removes, or with one, and
then the next export ends the moving first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from accelsim.errors import InputError
from accelsim.files import check_folder, read_bytes
from accelsim.vectors.manifest import MANIFEST, Manifest, read_manifest

STAGING = ".accelsim-export"
"""Where a pack is made, inside the folder it is for."""


def check_target(folder: Path) -> None:
    """Refuse a folder a pack cannot be written to, before the work whose results it would hold.

    Args:
        folder: not there, empty, or an earlier pack's, with whatever else lies in it.
    Raises:
        InputError: it cannot be made or written, holds files and no pack, or a manifest that is no pack's.
    """
    check_folder(folder)
    names = sorted(set(_names(folder)) - {STAGING})
    if MANIFEST in names:
        _manifest_of(folder)
    elif names and not (folder / STAGING / MANIFEST).exists():
        raise InputError(f"{folder}: holds {names[0]} and no {MANIFEST}; give an empty or a new folder")


@contextlib.contextmanager
def replaced(folder: Path, new: Collection[str]) -> Iterator[Path]:
    """Give a folder to make a pack in; at the end of the block its files take the earlier pack's place.

    If the block raises, `folder` is as it was.

    Args:
        folder: made where it is not there.
        new: names of the files the block writes, `MANIFEST` among them.
    Raises:
        InputError: as `check_target`, or a file that no pack wrote, or that was changed since, would be lost.
    """
    check_target(folder)
    staging, made = folder / STAGING, not folder.exists()
    with _one_line(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (staging / MANIFEST).exists():
            _move(folder)
        elif staging.exists():
            shutil.rmtree(staging)
    _check_owned(folder, new)
    try:
        with _one_line(folder):
            staging.mkdir()
        yield staging
        with _one_line(folder):
            _move(folder)
    except BaseException:  # Ctrl-C, too, must not leave litter; once files were moved, the next export goes on
        if not (staging / MANIFEST).exists():
            shutil.rmtree(staging, ignore_errors=True)
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise


def _move(folder: Path) -> None:
    """Move a complete pack out of its staging folder; where that was interrupted, what is left of it."""
    staging = folder / STAGING
    new = files_of(read_manifest(staging))
    old = files_of(_manifest_of(folder)) if (folder / MANIFEST).exists() else {}
    for name in old.keys() - new.keys():
        (folder / name).unlink(missing_ok=True)
    for name in new:
        if (staging / name).exists():
            os.replace(staging / name, folder / name)
    os.replace(staging / MANIFEST, folder / MANIFEST)
    shutil.rmtree(staging)


def files_of(manifest: Manifest) -> dict[str, str]:
    """SHA-256 of every file of a pack but its manifest, by name; names that hold a folder are no pack's."""
    found = dict(manifest.files)
    for layer in manifest.layer:
        for tensor in layer.tensor:
            found |= {f"{tensor.file}.hex": tensor.hex_sha256, f"{tensor.file}.npy": tensor.npy_sha256}
    return {name: digest for name, digest in found.items() if Path(name).name == name and name != MANIFEST}


def _check_owned(folder: Path, new: Collection[str]) -> None:
    """Refuse to lose a file that the earlier pack did not write, or one of its benches that was changed since."""
    manifest = _manifest_of(folder) if (folder / MANIFEST).exists() else None
    benches = {} if manifest is None else manifest.files
    owned = {} if manifest is None else files_of(manifest)
    for name in sorted(_names(folder)):
        path = folder / name
        if name in new and name not in owned and name != MANIFEST:
            raise InputError(f"{path}: no pack wrote this file, and the new one has one of its name; move it away")
        if name in owned and (not path.is_file() or path.is_symlink()):
            raise InputError(f"{path}: is no longer the file the pack wrote; move it away")
        # A tensor that was altered is what exporting again is for; a bench may hold somebody's work.
        if name in owned and name in benches and hashlib.sha256(read_bytes(path)).hexdigest() != benches[name]:
            raise InputError(f"{path}: was changed since the pack was written; move it away, or export elsewhere")


def _manifest_of(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except InputError:
        raise InputError(
            f"{folder}: its {MANIFEST} is not that of a pack this version can read, so its files stay; give an empty "
            "or a new folder"
        ) from None


def _names(folder: Path) -> list[str]:
    with _one_line(folder):
        return os.listdir(folder) if folder.is_dir() else []


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: cannot write a pack here: {error.strerror}; choose another folder") from None
