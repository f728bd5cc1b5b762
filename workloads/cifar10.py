"""CIFAR-10's files, read without pickle. NumPy only, no torch.

Two forms are read; where a folder has both, the first:

- the **binary version** of the original distribution: ``data_batch_1.bin`` to ``data_batch_5.bin`` and
  ``test_batch.bin``, in the folder or in its ``cifar-10-batches-bin``. Each file is compared with the original by
  sha256. 10,000 records of 3,073 bytes: a label 0..9, then the red, the green and the blue plane of 32x32 pixels,
  row-major (https://www.cs.toronto.edu/~kriz/cifar.html).
- **cifar10.npz**: uint8 arrays ``x_train`` (N, 3, 32, 32), ``y_train`` (N,), ``x_test`` and ``y_test``. Nobody
  published such a file, so there is no digest to compare it with: types, shapes and labels are checked, and whether
  its pixels are the original ones is for whoever made it to say. It may hold fewer images than the distribution.

The Python version of the distribution is a pickle, which when opened runs whatever it says: refused by name.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.files import read_bytes, write_whole

from .npz import Archive

SHAPE = (3, 32, 32)
"""Of an image: channels, rows, columns."""

NPZ_FILE = "cifar10.npz"
BINARY_FOLDER = "cifar-10-batches-bin"
PICKLED_FOLDER = "cifar-10-batches-py"
MOST_IMAGES: Mapping[str, int] = {"train": 50_000, "test": 10_000}
"""In the original distribution; an archive may hold fewer."""

_PIXELS = 3 * 32 * 32
_RECORD_BYTES = 1 + _PIXELS
_BATCH_RECORDS = 10_000

# Source of the digests: of the archive, the MD5 c32a1d4ab5d03f1284b67883e8d87530 is on the distribution's page, and
# the sha256 is in several public loaders; of the six files, torchvision for Ruby (ankane/torchvision-ruby).
_ARCHIVE = "cifar-10-binary.tar.gz"
_ARCHIVE_BYTES = 170_052_171
_ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_MIRRORS: Sequence[str] = ("https://www.cs.toronto.edu/~kriz/",)
_FILES: Mapping[str, Mapping[str, str]] = {
    "train": {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    },
    "test": {"test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"},
}

Split = Literal["train", "test"]
Uint8 = npt.NDArray[np.uint8]


def binary_folder(place: Path) -> Path | None:
    """Where in `place` files of the binary version are, if any."""
    names = [name for files in _FILES.values() for name in files]
    # os.path.exists, unlike Path.exists, says False of a folder that may not be entered
    return next((at for at in (place / BINARY_FOLDER, place) if any(os.path.exists(at / name) for name in names)), None)


def present(place: Path) -> bool:
    """Whether `place` has files of one of the two forms, whatever is in them."""
    return binary_folder(place) is not None or os.path.exists(place / NPZ_FILE)


def whole(place: Path) -> bool:
    """Whether `place` has the archive or all six files of the binary version, whatever is in them."""
    at = binary_folder(place)
    if at is None:
        return os.path.exists(place / NPZ_FILE)
    return all(os.path.exists(at / name) for files in _FILES.values() for name in files)


def pickled(place: Path) -> Path | None:
    """The pickled Python version in `place`, if it is there."""
    names = (PICKLED_FOLDER, "cifar-10-python.tar.gz", "data_batch_1", "test_batch")
    return next((place / name for name in names if os.path.exists(place / name)), None)


def read(place: Path, split: Split, count: Callable[[int], int], remedy: str) -> tuple[Uint8, Uint8]:
    """Read the first images of one split and their labels.

    Args:
        place: A folder that is `present`.
        split: ``train`` or ``test``.
        count: Says how many images, given how many there are; raises where that does not do.
        remedy: Ends the line of a refusal.
    Returns:
        uint8 (count, 3, 32, 32) and uint8 (count,), labels 0..9, in the files' order.
    Raises:
        InputError: A file is absent, unreadable, damaged or, of the binary version, not the original.
    """
    at = binary_folder(place)
    if at is None:
        return _read_npz(place / NPZ_FILE, split, count)
    names = _FILES[split]
    wanted = count(len(names) * _BATCH_RECORDS)
    needed = list(names)[: -(-wanted // _BATCH_RECORDS)]
    records = np.concatenate([_read_batch(at / name, names[name], remedy) for name in needed])[:wanted]
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, *SHAPE), np.ascontiguousarray(records[:, 0])


def _read_batch(path: Path, sha256: str, remedy: str) -> Uint8:
    """uint8 (10,000, 3,073): the records of one file of the binary version."""

    def refuse(what: str) -> InputError:
        return InputError(f"{path}: {what}; {remedy}")

    if not os.path.exists(path):
        raise refuse("absent; the binary version of cifar10 is six files")
    size, right = os.path.getsize(path), _BATCH_RECORDS * _RECORD_BYTES
    if size != right:
        raise refuse(f"{size} bytes, a batch has {right}: {_BATCH_RECORDS} records of {_RECORD_BYTES} bytes")
    content = read_bytes(path)
    records = np.frombuffer(content, np.uint8).reshape(_BATCH_RECORDS, _RECORD_BYTES)
    _check_labels(records[:, 0], refuse)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise refuse(f"sha256 = {digest[:12]}.. does not match the original's {sha256[:12]}..")
    return records


def _read_npz(path: Path, split: Split, count: Callable[[int], int]) -> tuple[Uint8, Uint8]:
    def refuse(what: str) -> InputError:
        return InputError(f"{path}: {what}; make it anew, uint8 x_{split} (N, 3, 32, 32) and y_{split} (N,)")

    archive = Archive(path, refuse)
    images, labels = archive.rows(f"x_{split}", SHAPE), archive.rows(f"y_{split}", ())
    if images.count != labels.count:
        raise refuse(f"x_{split} holds {images.count} images and y_{split} {labels.count} labels")
    if not 1 <= images.count <= MOST_IMAGES[split]:
        raise refuse(f"x_{split} holds {images.count} images; CIFAR-10 has 1..{MOST_IMAGES[split]}")
    wanted = count(images.count)
    all_labels = labels.read(labels.count)
    _check_labels(all_labels, refuse)
    return images.read(wanted), all_labels[:wanted]


def _check_labels(labels: Uint8, refuse: Callable[[str], InputError]) -> None:
    if int(labels.max()) > 9:
        first = int(np.argmax(labels > 9))
        raise refuse(f"label {first} = {labels[first]} is not a class, labels are 0..9")


def fetch(target: Path, elsewhere: str) -> Path:
    """Download the binary version into ``target/cifar-10-batches-bin`` unless its six files are there already.

    The archive is compared with the original's size and sha256, and of it only the six files are written, each
    compared again; whatever else an archive may hold is not looked at.

    Args:
        target: The data set's folder, which exists.
        elsewhere: How to name a folder with a copy, for the refusal.
    Raises:
        InputError: No mirror gave the original archive, or the folder cannot be written.
    """
    folder = target / BINARY_FOLDER
    digests = {name: sha256 for files in _FILES.values() for name, sha256 in files.items()}
    if all(_is_original(folder / name, sha256) for name, sha256 in digests.items()):
        return folder
    content = _download(elsewhere)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot create the folder: {error.strerror}; choose a writable one") from error
    for name, batch in _unpacked(content, digests).items():
        write_whole(folder / name, batch)
    return folder


def _is_original(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _download(elsewhere: str) -> bytes:
    """The original archive's bytes from the first mirror that has them."""
    from tqdm import tqdm

    failures = []
    for mirror in _MIRRORS:
        url = f"{mirror}{_ARCHIVE}"
        content = bytearray()
        try:
            with (
                urllib.request.urlopen(url, timeout=30) as answer,
                tqdm(total=_ARCHIVE_BYTES, unit="B", unit_scale=True, desc=_ARCHIVE, disable=None) as progress,
            ):
                while len(content) <= _ARCHIVE_BYTES and (block := answer.read(1 << 16)):
                    content += block
                    progress.update(len(block))
        # URLError and timeouts are OSErrors; a connection that breaks off in mid-answer is not
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {getattr(error, 'reason', None) or error}")
            continue
        digest = hashlib.sha256(content).hexdigest()
        if digest == _ARCHIVE_SHA256:
            return bytes(content)
        failures.append(f"{url}: sha256 = {digest[:12]}.., not the original's {_ARCHIVE_SHA256[:12]}..")
    raise InputError(f"{_ARCHIVE}: no mirror gave the original file ({'; '.join(failures)}); {elsewhere}")


def _unpacked(content: bytes, digests: Mapping[str, str]) -> dict[str, bytes]:
    """The files of `digests` out of a gzip'd tar archive, each one compared with its digest.

    Nothing is written to where the archive says, links and devices are no files, and no entry is read further than a
    batch is long.
    """
    size = _BATCH_RECORDS * _RECORD_BYTES
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r|gz") as archive:
            for entry in archive:
                name = entry.name.removeprefix(f"{BINARY_FOLDER}/")
                if name not in digests or not entry.isreg() or entry.size != size:
                    continue
                stream = archive.extractfile(entry)
                batch = b"" if stream is None else stream.read(size)
                if hashlib.sha256(batch).hexdigest() == digests[name]:
                    found[name] = batch
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{_ARCHIVE}: cannot be unpacked ({error}); fetch it again") from None
    for name in digests:
        if name not in found:
            raise InputError(f"{_ARCHIVE}: does not hold the original {name}; fetch it again")
    return found
