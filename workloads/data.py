"""Labelled images, as the networks in this package were trained to see them. NumPy only, no torch.

===================== ====== ====== ============= ========================== ====================== =============
name                  train  test   original      at size 32                 at size 28             at 64 and 224
===================== ====== ====== ============= ========================== ====================== =============
``mnist``             60,000 10,000 28x28, 0..255 pixel/255, framed by two 0 pixel/255              not made
``fashion-mnist``     60,000 10,000 28x28, 0..255 the same                   the same               not made
``digits`` (embedded) 1,438  359    8x8, 0..16    pixel/16, repeated 4x4     pixel/16, repeated 3x3 repeated 8x8
                                                                             framed by two 0        and 28x28
``cifar10``           50,000 10,000 32x32 RGB,    pixel/255                  not made               bilinear, see
                                    0..255                                                          `scaled_up`
===================== ====== ====== ============= ========================== ====================== =============

All become float32 (N, channels, size, size) in 0..1, where a frame of two zeros adds two rows or columns on each side;
there is one channel, and three, red, green and blue, for CIFAR-10.
No mean is subtracted: black stays 0, so a quantised input can have the zero point 0 and zero padding is exact.

MNIST and Fashion-MNIST are read from the four idx files of the original distributions, gzip'd or plain, and
compared with the originals by sha256: a folder that holds something else is refused, never read as if it were
the data set asked for. CIFAR-10 is read from the binary version of its distribution, compared likewise, or from a
folder's own ``cifar10.npz``, which nothing can be compared with and which may hold fewer images; see `cifar10`.
Nothing is downloaded unless asked: ``python -m accelsim.workloads.data mnist`` or `fetch`.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import http.client
import io
import math
import os
import sys
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError, did_you_mean
from accelsim.files import read_bytes, write_whole

from . import cifar10

Split = Literal["train", "test"]

ENVIRONMENT_VARIABLE = "ACCELSIM_DATA"
DIGITS_FILE = Path(__file__).with_name("embedded") / "digits.npz"
_DIGITS_SHA256 = "dcba6ca147c0743222dd05be09900c9e73158cff15e6f83493fdb8cb3b515b11"


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Dataset:
    """One split, or its first images, of a data set.

    Attributes:
        images: float32 (N, channels, size, size), 0..1, in the data set's original order.
        labels: int64 (N,), 0..9.
        name: One of `DATASETS`.
        split: ``train`` or ``test``.
        source: The folder the files were read from.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    name: str
    split: Split
    source: Path


@dataclass(frozen=True)
class _IdxFile:
    """One file of an original distribution: gzip'd as published, and its decoded idx bytes."""

    name: str  # of the plain file; the published one has .gz appended
    shape: tuple[int, ...]  # of the decoded uint8 array
    gzip_bytes: int
    gzip_sha256: str
    plain_sha256: str

    @property
    def magic(self) -> int:
        """The first four bytes of the decoded file: 0, 0, 8 (uint8), number of dimensions."""
        return 0x0800 | len(self.shape)

    @property
    def plain_bytes(self) -> int:
        """Size of the decoded file: magic, one 32-bit length per dimension, the elements."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


# Source of the digests: the original distributions' gzip'd files, whose MD5 are also those in torchvision.
_IDX_FILES: Mapping[str, Mapping[Split, tuple[_IdxFile, _IdxFile]]] = {
    "mnist": {
        "train": (
            _IdxFile(
                "train-images-idx3-ubyte",
                (60000, 28, 28),
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            _IdxFile(
                "train-labels-idx1-ubyte",
                (60000,),
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
        ),
        "test": (
            _IdxFile(
                "t10k-images-idx3-ubyte",
                (10000, 28, 28),
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            _IdxFile(
                "t10k-labels-idx1-ubyte",
                (10000,),
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    },
    "fashion-mnist": {
        "train": (
            _IdxFile(
                "train-images-idx3-ubyte",
                (60000, 28, 28),
                26421880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            _IdxFile(
                "train-labels-idx1-ubyte",
                (60000,),
                29515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
        ),
        "test": (
            _IdxFile(
                "t10k-images-idx3-ubyte",
                (10000, 28, 28),
                4422102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            _IdxFile(
                "t10k-labels-idx1-ubyte",
                (10000,),
                5148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    },
}

_MIRRORS: Mapping[str, Sequence[str]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
}

DATASETS: tuple[str, ...] = (*_IDX_FILES, "digits", "cifar10")
"""The names `load_dataset` knows."""

CHANNELS: Mapping[str, int] = {dataset: 3 if dataset == "cifar10" else 1 for dataset in DATASETS}
"""Of the images of each data set: grey, or red, green and blue."""

SIZES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_IDX_FILES, (28, 32)),
    "digits": (28, 32, 64, 224),
    "cifar10": (32, 64, 224),
}
"""The heights (and equal widths) of the images that `load_dataset` makes of each data set."""

MOST_BYTES = 1 << 30
"""Images scaled up beyond this are refused: a whole split at 224x224 takes tens of gigabytes."""


def load_dataset(
    dataset: str,
    folder: Path | None,
    split: Split,
    limit: int | None = None,
    *,
    size: int = 32,
    channels: int | None = None,
    download: bool = False,
) -> Dataset:
    """Read one split of a data set, preprocessed as its networks were trained on it.

    Args:
        dataset: One of `DATASETS`.
        folder: The folder with the data set's files, or one that holds such folders named after the data sets.
            None: the environment variable ACCELSIM_DATA, in the same two forms; if that is not set,
            ``~/.cache/accelsim/<dataset>``. Not used for ``digits``, which is embedded.
        split: ``train`` or ``test``.
        limit: Only the first `limit` images, 1 to as many as the split has; None for all.
        size: One of `SIZES`: height and width of the images, which a workload's card calls ``input_size``.
        channels: 3 repeats grey images as red, green and blue; None leaves the data set's own.
        download: Fetch the files if they are absent (see `fetch`). False never touches the network.
    Raises:
        InputError: An unknown name, split or size, a limit out of range, a file that is absent, unreadable, damaged
            or not the original. Never falls back to other data.
    """
    _check_name(dataset)
    if split not in ("train", "test"):
        raise InputError(f"split = {split!r} is not a split of {dataset}; use 'train' or 'test'")
    if size not in SIZES[dataset]:
        *others, last = map(str, SIZES[dataset])
        raise InputError(f"size = {size} is not a size of {dataset}'s images; use {', '.join(others)} or {last}")
    if channels not in (None, CHANNELS[dataset]):
        if (channels, CHANNELS[dataset]) != (3, 1):
            raise InputError(f"channels = {channels} cannot be made of {dataset}'s {CHANNELS[dataset]}; leave them out")
        grey = load_dataset(dataset, folder, split, limit, size=size, download=download)
        return dataclasses.replace(grey, images=grey.images.repeat(3, axis=1))
    if dataset == "digits":
        return _load_digits(split, limit, size)
    if dataset == "cifar10":
        return _load_cifar10(folder, split, limit, size, download)
    image_file, label_file = _IDX_FILES[dataset][split]
    count = _count(dataset, split, limit, available=image_file.shape[0])
    if download and not _present(dataset, folder):
        fetch(dataset, folder)
    source = find_folder(dataset, folder)
    labels = _read_idx(_existing(dataset, source, label_file), dataset, label_file)
    pixels = _read_idx(_existing(dataset, source, image_file), dataset, image_file)[:count]
    images = _framed(pixels.astype(np.float32) / np.float32(255), size)
    return Dataset(images, labels[:count].astype(np.int64), dataset, split, source)


def _load_digits(split: Split, limit: int | None, size: int) -> Dataset:
    """Read the embedded 8x8 digits and enlarge them by repeating every pixel as often as fits into `size`.

    The originals were 32x32 bitmaps; a pixel of the 8x8 image counts the set bits of one 4x4 block, 0..16.
    Repeating count/16 over the block gives each of its pixels the block's mean, an exact multiple of 1/16 in
    float32. At size 28 the blocks are 3x3 inside a frame of two zeros.
    """
    content = read_bytes(DIGITS_FILE)
    digest = hashlib.sha256(content).hexdigest()
    if digest != _DIGITS_SHA256:
        raise InputError(
            f"{DIGITS_FILE}: sha256 = {_short(digest)} does not match the released file's "
            f"{_short(_DIGITS_SHA256)}; install accelsim again"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        counts, labels, test_rows = arrays["images"], arrays["labels"], arrays["test_rows"]
    in_split = np.isin(np.arange(len(labels)), test_rows, invert=split == "train")
    count = _count("digits", split, limit, available=int(in_split.sum()), bytes_each=4 * size**2)
    rows = np.flatnonzero(in_split)[:count]
    small = counts[rows].astype(np.float32) / np.float32(16)
    enlarged = small.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    return Dataset(_framed(enlarged, size), labels[rows].astype(np.int64), "digits", split, DIGITS_FILE.parent)


def _load_cifar10(folder: Path | None, split: Split, limit: int | None, size: int, download: bool) -> Dataset:
    if download and not any(cifar10.whole(place) for place in _places("cifar10", folder)[0]):
        fetch("cifar10", folder)
    source = find_folder("cifar10", folder)
    pixels, labels = cifar10.read(
        source,
        split,
        lambda available: _count("cifar10", split, limit, available=available, bytes_each=12 * size**2),
        f"fetch the files again: {_fetch_command('cifar10', source)}",
    )
    images = pixels.astype(np.float32)
    images /= np.float32(255)
    images = scaled_up(images, size)
    return Dataset(images, labels.astype(np.int64), "cifar10", split, source)


def _framed(pixels: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Return (N, side, side) as (N, 1, size, size), the same number of zeros on all four sides."""
    frame = (size - pixels.shape[1]) // 2
    return np.pad(pixels, ((0, 0), (frame, frame), (frame, frame)))[:, np.newaxis]


def scaled_up(images: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Enlarge images bilinearly between the centres of their pixels, as `torch.nn.functional.interpolate` does.

    Pixel i of the result lies at x = (i + 1/2) * old / size - 1/2 of the original, at least 0, and is
    (1 - f) * pixel[floor(x)] + f * pixel[floor(x) + 1], f being x - floor(x), in float32, rows first; beyond the last
    pixel, that pixel. Elementwise, so the same bits on every machine.

    Args:
        images: (N, C, old, old).
        size: At least `old`.

    >>> scaled_up(np.array([[[[0, 1], [2, 3]]]], dtype=np.float32), 4)[0, 0, :2].tolist()
    [[0.0, 0.25, 0.75, 1.0], [0.5, 0.75, 1.25, 1.5]]
    """
    old = images.shape[-1]
    if size == old:
        return images
    place = np.maximum((np.arange(size) + 0.5) * old / size - 0.5, 0.0)
    before = place.astype(np.int64)
    after = np.minimum(before + 1, old - 1)
    share = (place - before).astype(np.float32)
    rows = images[:, :, before] * (1 - share)[:, None] + images[:, :, after] * share[:, None]
    return rows[..., before] * (1 - share) + rows[..., after] * share


def find_folder(dataset: str, folder: Path | None = None) -> Path:
    """Return the folder that holds a data set's files; where it is looked for is told at `load_dataset`.

    Raises:
        InputError: An unknown name, or no file of that data set's names there.
    """
    _check_name(dataset)
    if dataset == "digits":
        return DIGITS_FILE.parent
    places, said_by = _places(dataset, folder)
    for place in places:
        if _has_files(dataset, place):
            return place
    tried = " and ".join(str(place) for place in places)
    found = next(filter(None, map(cifar10.pickled, places)), None) if dataset == "cifar10" else None
    if found is not None:
        raise InputError(
            f"{found}: the Python version of CIFAR-10, a pickle, which is never opened here; "
            f"fetch the binary version: {_fetch_command(dataset, folder)}"
        )
    kind = "idx file" if dataset in _IDX_FILES else "file"
    raise InputError(
        f"{tried}: no {kind} of {dataset} here ({said_by}); give the folder with --data or "
        f"{ENVIRONMENT_VARIABLE}, or download the files: {_fetch_command(dataset, folder)}"
    )


def fetch(dataset: str, folder: Path | None = None) -> Path:
    """Download what is absent or damaged of a data set's files, and return the folder they are in.

    Files go to `folder` if it is named after the data set, else to ``folder/<dataset>``; without `folder` the
    same with ACCELSIM_DATA, else to ``~/.cache/accelsim/<dataset>``. Each is compared with the original's
    size and sha256 before it appears under its name. Mirrors are tried in turn.

    Raises:
        InputError: An unknown name, ``digits`` (nothing to download), no mirror gave the original file, or
            the folder cannot be written.
    """
    _check_name(dataset)
    if dataset == "digits":
        raise InputError("dataset = 'digits' is embedded in the package, there is nothing to download")
    places, _ = _places(dataset, folder)
    target = next((place for place in places[1:] if place.name == dataset), places[0])
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: cannot create the folder: {error.strerror}; choose a writable one") from error
    if dataset == "cifar10":
        cifar10.fetch(target, _elsewhere())
        return target
    for pair in _IDX_FILES[dataset].values():
        for file in pair:
            path = target / f"{file.name}.gz"
            if not _is_original(path, file):
                write_whole(path, _download(dataset, file))
    return target


def _check_name(dataset: str) -> None:
    if dataset not in DATASETS:
        raise InputError(
            f"dataset = {dataset!r} is not known; use one of {', '.join(DATASETS)}{did_you_mean(dataset, DATASETS)}"
        )


def _count(dataset: str, split: Split, limit: int | None, *, available: int, bytes_each: int = 0) -> int:
    count = available if limit is None else limit
    if count * bytes_each > MOST_BYTES and bytes_each > 12 * 32**2:
        raise InputError(
            f"{dataset} {split}: {count} images scaled up take {count * bytes_each / 1e9:.1f} GB; "
            f"use at most {MOST_BYTES // bytes_each}"
        )
    if limit is None:
        return available
    if not 1 <= limit <= available:
        raise InputError(f"{dataset} {split}: {limit} images asked for, the split has {available}; use 1..{available}")
    return limit


def _places(dataset: str, folder: Path | None) -> tuple[tuple[Path, ...], str]:
    """The folders that may hold the files, in the order they are tried, and who named them."""
    if folder is not None:
        return (folder / dataset, folder), "the folder given"
    named = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if named:
        return (Path(named) / dataset, Path(named)), f"the environment's {ENVIRONMENT_VARIABLE}"
    try:
        home = Path.home()
    except RuntimeError as error:  # a container's user without HOME and without an entry in passwd
        raise InputError(f"{dataset}: no home folder is known; set {ENVIRONMENT_VARIABLE}") from error
    return (home / ".cache" / "accelsim" / dataset,), "the default folder"


def _has_files(dataset: str, place: Path) -> bool:
    """Whether `place` has at least one of the data set's files, whatever is in it."""
    if dataset == "cifar10":
        return cifar10.present(place)
    return any(_candidates(place, file) for pair in _IDX_FILES[dataset].values() for file in pair)


def _present(dataset: str, folder: Path | None) -> bool:
    """Whether one place has all four files, whatever is in them."""
    places, _ = _places(dataset, folder)
    files = [file for pair in _IDX_FILES[dataset].values() for file in pair]
    return any(all(_candidates(place, file) for file in files) for place in places)


def _candidates(place: Path, file: _IdxFile) -> list[Path]:
    # os.path.exists, unlike Path.exists, says False of a folder that may not be entered
    return [path for path in (place / f"{file.name}.gz", place / file.name) if os.path.exists(path)]


def _existing(dataset: str, source: Path, file: _IdxFile) -> Path:
    """The gzip'd file if it is there, else the plain one."""
    found = _candidates(source, file)
    if not found:
        raise InputError(
            f"{source / file.name}.gz: absent, as is the plain file; {dataset} is read from four idx files; "
            f"download them: {_fetch_command(dataset, source)}"
        )
    return found[0]


def _fetch_command(dataset: str, folder: Path | None) -> str:
    return f"python -m accelsim.workloads.data {dataset}" + ("" if folder is None else f" --data {folder}")


def _read_idx(path: Path, dataset: str, file: _IdxFile) -> npt.NDArray[np.uint8]:
    """Read one idx file: uint8 of ``file.shape``. Damage is named precisely where it can be; digest last.

    Source of the format: magic 0, 0, type (8 is uint8), number of dimensions; each length as 32 bits,
    big-endian; then the elements, row-major (LeCun, Cortes, Burges: THE MNIST DATABASE).
    """
    remedy = f"fetch the file again: {_fetch_command(dataset, path.parent)}"

    def refuse(what: str) -> InputError:
        return InputError(f"{path}: {what}; {remedy}")

    content = read_bytes(path)
    plain = content
    if path.suffix == ".gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                plain = stream.read(file.plain_bytes + 1)  # one too many is enough to refuse, and bounds the memory
        except EOFError:
            raise refuse(
                f"truncated, the gzip stream breaks off after {len(content)} of {file.gzip_bytes} bytes"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise refuse(f"not a valid gzip file ({error})") from None

    rank = len(file.shape)
    header_bytes = 4 + 4 * rank
    if len(plain) < header_bytes:
        raise refuse(f"truncated, {len(plain)} bytes where the idx header alone has {header_bytes}")
    magic = int.from_bytes(plain[:4], "big")
    if magic != file.magic:
        raise refuse(f"magic = 0x{magic:08x} is not 0x{file.magic:08x}, an idx file of uint8 with {rank} dimensions")
    shape = tuple(int(length) for length in np.frombuffer(plain, dtype=">u4", count=rank, offset=4))
    if shape != file.shape:
        raise refuse(f"dimensions = {shape} are not {dataset}'s {file.shape}")
    if len(plain) < file.plain_bytes:
        raise refuse(f"truncated, {len(plain)} bytes where the header promises {file.plain_bytes}")
    if len(plain) > file.plain_bytes:
        raise refuse(f"longer than the {file.plain_bytes} bytes that the header promises")
    elements = np.frombuffer(plain, dtype=np.uint8, offset=header_bytes).reshape(file.shape)
    if rank == 1 and int(elements.max()) > 9:
        first = int(np.argmax(elements > 9))
        raise refuse(f"label {first} = {elements[first]} is not a class, labels are 0..9")
    digest, original = hashlib.sha256(content).hexdigest(), file.gzip_sha256
    if path.suffix != ".gz":
        original = file.plain_sha256
    if digest != original:
        raise refuse(
            f"sha256 = {_short(digest)} does not match the original's {_short(original)}{_whose(digest, dataset)}"
        )
    return elements


def _whose(digest: str, dataset: str) -> str:
    """``" (it is fashion-mnist's)"`` if the digest is a file of another data set, else an empty string."""
    for name, splits in _IDX_FILES.items():
        for pair in splits.values():
            for file in pair:
                if name != dataset and digest in (file.gzip_sha256, file.plain_sha256):
                    return f" (it is {name}'s)"
    return ""


def _short(digest: str) -> str:
    return f"{digest[:12]}.."


def _is_original(path: Path, file: _IdxFile) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == file.gzip_sha256
    except OSError:
        return False


def _download(dataset: str, file: _IdxFile) -> bytes:
    """Return the original gzip'd file's bytes from the first mirror that has them."""
    from tqdm import tqdm

    failures = []
    for mirror in _MIRRORS[dataset]:
        url = f"{mirror}{file.name}.gz"
        content = bytearray()
        try:
            with (
                urllib.request.urlopen(url, timeout=30) as answer,
                tqdm(total=file.gzip_bytes, unit="B", unit_scale=True, desc=file.name, disable=None) as progress,
            ):
                while len(content) <= file.gzip_bytes and (block := answer.read(1 << 16)):
                    content += block
                    progress.update(len(block))
        # URLError and timeouts are OSErrors; a connection that breaks off in mid-answer is not
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {getattr(error, 'reason', None) or error}")
            continue
        digest = hashlib.sha256(content).hexdigest()
        if digest == file.gzip_sha256:
            return bytes(content)
        failures.append(f"{url}: sha256 = {_short(digest)}, not the original's {_short(file.gzip_sha256)}")
    raise InputError(
        f"{dataset}/{file.name}.gz: no mirror gave the original file ({'; '.join(failures)}); {_elsewhere()}"
    )


def _elsewhere() -> str:
    return f"copy the file from elsewhere and name its folder with --data or {ENVIRONMENT_VARIABLE}"


def main(arguments: list[str] | None = None) -> int:
    """Fetch a data set from the command line; return the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m accelsim.workloads.data",
        description="Download a data set, keeping the files that are whole.",
    )
    parser.add_argument("dataset", help=", ".join((*_IDX_FILES, "cifar10")))
    parser.add_argument("--data", type=Path, help=f"folder (default: {ENVIRONMENT_VARIABLE}, else ~/.cache/accelsim)")
    given = parser.parse_args(arguments)
    try:
        print(f"{given.dataset}: {fetch(given.dataset, given.data)}")
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
