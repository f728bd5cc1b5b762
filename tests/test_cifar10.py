"""CIFAR-10's files: the archive of arrays, the binary version, what is refused, and the download."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from accelsim.workloads import cifar10, data, npz

from accelsim.cli import main
from accelsim.errors import InputError

DRAW = np.random.default_rng(10)
PIXELS = DRAW.integers(0, 256, (5, 3, 32, 32)).astype(np.uint8)
LABELS = np.array([6, 9, 0, 4, 1], np.uint8)
MAKE = "make it anew, uint8 x_test (N, 3, 32, 32) and y_test (N,)"


@pytest.fixture(autouse=True)
def no_data_elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELSIM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def refused(message: str) -> pytest.RaisesExc[InputError]:
    """Expect an InputError of exactly this text."""
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def pack(folder: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_LZMA) -> Path:
    """Write ``cifar10.npz`` of raw entries into the data set's folder."""
    (folder / "cifar10").mkdir(exist_ok=True)
    path = folder / "cifar10" / "cifar10.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return path


def entries(**changed: np.ndarray | bytes) -> dict[str, bytes]:
    arrays = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:4], "y_test": LABELS[:4], **changed}
    return {name: content if isinstance(content, bytes) else npy(content) for name, content in arrays.items()}


# --- the archive of arrays --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_archive_gives_pixels_of_255ths_in_the_arrays_order(method, tmp_path):
    path = pack(tmp_path, entries(), method)
    read = data.load_dataset("cifar10", tmp_path, "train")
    assert (read.images == PIXELS / np.float32(255)).all()
    assert (read.images.dtype, read.labels.dtype) == (np.float32, np.int64)
    assert read.labels.tolist() == LABELS.tolist()
    assert (read.name, read.split, read.source) == ("cifar10", "train", path.parent)
    with np.load(path, allow_pickle=False) as arrays:  # NumPy reads the same
        assert (arrays["x_test"] / np.float32(255) == data.load_dataset("cifar10", path.parent, "test").images).all()


def test_first_images_are_decoded_without_the_rest(tmp_path):
    pack(tmp_path, entries())
    part = data.load_dataset("cifar10", tmp_path, "train", 2)
    assert (part.images == PIXELS[:2] / np.float32(255)).all()
    assert part.labels.tolist() == [6, 9]
    with refused("cifar10 train: 6 images asked for, the split has 5; use 1..5"):
        data.load_dataset("cifar10", tmp_path, "train", 6)


def test_no_smaller_size_is_made(tmp_path):
    with refused("size = 28 is not a size of cifar10's images; use 32, 64 or 224"):
        data.load_dataset("cifar10", tmp_path, "test", size=28)


def header(shape: str, dtype: str = "|u1", fortran: bool = False) -> bytes:
    """An .npy file's start, written from NumPy's description of the format, version 1.0."""
    text = f"{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


MALFORMED = {
    "pickled objects": (
        {"x_test": header("(4, 3, 32, 32)", "|O") + b"\x80\x04."},
        "x_test holds Python objects, a pickle, which is never opened",
    ),
    "floats": ({"x_test": PIXELS[:4] / 255}, "x_test holds float64"),
    "signed bytes": ({"x_test": PIXELS[:4].view(np.int8)}, "x_test holds int8"),
    "channels last": ({"x_test": PIXELS[:4].transpose(0, 2, 3, 1).copy()}, "x_test has the shape (4, 32, 32, 3)"),
    "no channels": ({"x_test": PIXELS[:4, 0]}, "x_test has the shape (4, 32, 32)"),
    "Fortran order": (
        {"x_test": np.asfortranarray(PIXELS[:4])},
        "x_test has the shape (4, 3, 32, 32) in Fortran order",
    ),
    "labels in columns": ({"y_test": LABELS[:4, None]}, "y_test has the shape (4, 1)"),
    "a label missing": ({"y_test": LABELS[:3]}, "x_test holds 4 images and y_test 3 labels"),
    "label 10": ({"y_test": LABELS[:4] * 2}, "label 0 = 12 is not a class, labels are 0..9"),
    "no images": (
        {"x_test": PIXELS[:0], "y_test": LABELS[:0]},
        "x_test holds 0 images; CIFAR-10 has 1..10000",
    ),
    "more images than there are": (
        {"x_test": header("(10001, 3, 32, 32)"), "y_test": np.zeros(10_001, np.uint8)},
        "x_test holds 10001 images; CIFAR-10 has 1..10000",
    ),
    "a shape beyond all memory": (
        {"x_test": header("(1099511627776, 3, 32, 32)"), "y_test": header("(1099511627776,)")},
        "x_test holds 1099511627776 images; CIFAR-10 has 1..10000",
    ),
    "cut": ({"x_test": npy(PIXELS[:4])[:-1]}, "x_test breaks off after 3 of 4 rows"),
    "appended": ({"x_test": npy(PIXELS[:4]) + b"\0"}, "x_test is longer than its 4 rows"),
    "not NumPy's": (
        {"x_test": b"\x80\x04."},  # a pickle
        "x_test has no header of an .npy file (EOF: reading magic string, expected 8 bytes got 3)",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_archive_is_refused_in_one_line(name, tmp_path):
    changed, what = MALFORMED[name]
    path = pack(tmp_path, entries(**changed))
    with refused(f"{path}: {what}; {MAKE}"):
        data.load_dataset("cifar10", tmp_path, "test")


@pytest.mark.parametrize("text", ["(" * 300, "{" * 90, "'descr'", "{'shape': (1,)}", "\0", "\xff"])
def test_header_that_is_no_dictionary_of_numpys_is_refused(text, tmp_path):
    coded = text.encode("latin-1")
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(coded)) + coded
    path = pack(tmp_path, entries(x_test=content))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: x_test has no header of an \.npy file \("):
        data.load_dataset("cifar10", tmp_path, "test")


def test_archive_without_the_split_is_refused(tmp_path):
    path = pack(tmp_path, {"x_train": npy(PIXELS), "y_train": npy(LABELS)})
    with refused(f"{path}: holds no array 'x_test'; {MAKE}"):
        data.load_dataset("cifar10", tmp_path, "test")
    assert len(data.load_dataset("cifar10", tmp_path, "train").labels) == 5


def test_archive_cut_anywhere_is_refused(tmp_path):
    path = pack(tmp_path, entries())
    content = path.read_bytes()
    for keep in (0, 3, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: not a whole \.npz archive \(.*\); make it"):
            data.load_dataset("cifar10", tmp_path, "test")


def test_a_changed_bit_anywhere_in_the_pixels_is_found(tmp_path):
    path = pack(tmp_path, entries(), zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(PIXELS[:4].tobytes(), len(PIXELS.tobytes())) + 5000] ^= 1
    path.write_bytes(content)
    with refused(f"{path}: x_test is damaged, its CRC-32 is not the archive's; {MAKE}"):
        data.load_dataset("cifar10", tmp_path, "test")


def changed_archive(path: Path, name: str, change: str) -> None:
    """Change one entry's directory record, and its LZMA properties, by hand."""
    content = bytearray(path.read_bytes())
    record = content.rindex(f"{name}.npy".encode()) - 46  # the central directory's; fields at fixed places before it
    stream = content.index(f"{name}.npy".encode()) + len(name) + 4
    match change:
        case "encrypted":
            content[record + 8] |= 1
        case "bzip2":
            content[record + 10 : record + 12] = b"\x0c\x00"
        case "elsewhere":
            content[record + 42 : record + 46] = struct.pack("<I", 7)
        case "dictionary":
            content[stream + 5 : stream + 9] = b"\xff\xff\xff\xff"
        case "properties":
            content[stream + 4] = 225
        case "stream":
            content[stream + 20 : stream + 40] = b"\xff" * 20
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change, what",
    [
        ("encrypted", "x_test is encrypted"),
        ("bzip2", "x_test is packed by method 12; stored, deflated and LZMA are read"),
        ("elsewhere", "x_test is not where the archive says"),
        (
            "dictionary",
            "x_test cannot be decoded (needs a dictionary of 4294967295 bytes, at most 67108864 are given)",
        ),
        ("properties", "x_test cannot be decoded (not the header of an LZMA stream)"),
        ("stream", "x_test cannot be decoded (Corrupt input data)"),
    ],
)
def test_entry_that_cannot_be_decoded_is_refused(change, what, tmp_path):
    path = pack(tmp_path, entries())
    changed_archive(path, "x_test", change)
    tracemalloc.start()
    with refused(f"{path}: {what}; {MAKE}"):
        data.load_dataset("cifar10", tmp_path, "test")
    assert tracemalloc.get_traced_memory()[1] < 9e6  # the usual dictionary of 8 MiB, where the stream is begun
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_entry_that_decodes_to_far_more_than_its_header_says_takes_no_memory(method, tmp_path):
    path = pack(tmp_path, entries(x_test=npy(PIXELS[:4]) + bytes(1 << 25)), method)
    tracemalloc.start()
    with refused(f"{path}: x_test is longer than its 4 rows; {MAKE}"):
        data.load_dataset("cifar10", tmp_path, "test")
    assert tracemalloc.get_traced_memory()[1] < 9e6  # a dictionary of 8 MiB; 32 MiB follow
    tracemalloc.stop()


def test_archive_longer_than_any_cifar10_is_not_read(tmp_path):
    path = pack(tmp_path, entries())
    os.truncate(path, npz._MOST_BYTES + 1)  # a hole, no bytes on the disk
    with refused(f"{path}: 268435457 bytes long; at most 268435456 are read; {MAKE}"):
        data.load_dataset("cifar10", tmp_path, "test")


# --- the binary version: batches of two records, so that no download is needed ------------------------------


def batch(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """One file, written from the description on the distribution's page."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True))


TRAIN_PIXELS = DRAW.integers(0, 256, (10, 3, 32, 32)).astype(np.uint8)
TRAIN_LABELS = np.arange(10, dtype=np.uint8)
BATCHES = {
    **{f"data_batch_{1 + i}.bin": batch(TRAIN_PIXELS[2 * i :][:2], TRAIN_LABELS[2 * i :][:2]) for i in range(5)},
    "test_batch.bin": batch(PIXELS[:2], LABELS[:2]),
}


@pytest.fixture
def binary(tmp_path, monkeypatch) -> Path:
    """The six files in ``data/cifar10/cifar-10-batches-bin``; their folder."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in BATCHES.items()}
    test = digests.pop("test_batch.bin")
    monkeypatch.setattr(cifar10, "_FILES", {"train": digests, "test": {"test_batch.bin": test}})
    monkeypatch.setattr(cifar10, "_BATCH_RECORDS", 2)
    folder = tmp_path / "data" / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, content in BATCHES.items():
        (folder / name).write_bytes(content)
    return folder


def test_binary_version_is_read_in_the_batches_order(binary):
    for folder in (binary, binary.parent, binary.parent.parent):
        read = data.load_dataset("cifar10", folder, "train")
        assert (read.images == TRAIN_PIXELS / np.float32(255)).all()
        assert read.labels.tolist() == list(range(10))
    part = data.load_dataset("cifar10", binary, "train", 3)
    assert (part.images == TRAIN_PIXELS[:3] / np.float32(255)).all()
    with refused("cifar10 test: 3 images asked for, the split has 2; use 1..2"):
        data.load_dataset("cifar10", binary, "test", 3)


def test_first_images_need_only_the_batches_that_hold_them(binary):
    (binary / "data_batch_3.bin").unlink()
    assert data.load_dataset("cifar10", binary, "train", 4).labels.tolist() == [0, 1, 2, 3]
    with refused(
        f"{binary / 'data_batch_3.bin'}: absent; the binary version of cifar10 is six files; fetch the files again: "
        f"python -m accelsim.workloads.data cifar10 --data {binary}"
    ):
        data.load_dataset("cifar10", binary, "train", 5)


def test_binary_version_rules_over_an_archive_beside_it(binary):
    pack(binary.parent.parent, entries())
    assert len(data.load_dataset("cifar10", binary.parent.parent, "train").labels) == 10


DIGEST = hashlib.sha256(BATCHES["test_batch.bin"]).hexdigest()[:12]


@pytest.mark.parametrize(
    "content, what",
    [
        (BATCHES["test_batch.bin"][:-1], "6145 bytes, a batch has 6146: 2 records of 3073 bytes"),
        (BATCHES["test_batch.bin"] + b"\0", "6147 bytes, a batch has 6146: 2 records of 3073 bytes"),
        (b"\x0a" + BATCHES["test_batch.bin"][1:], "label 0 = 10 is not a class, labels are 0..9"),
        (
            BATCHES["data_batch_1.bin"],
            f"sha256 = {hashlib.sha256(BATCHES['data_batch_1.bin']).hexdigest()[:12]}.. "
            f"does not match the original's {DIGEST}..",
        ),
    ],
)
def test_batch_that_is_not_the_original_is_refused(binary, content, what):
    path = binary / "test_batch.bin"
    path.write_bytes(content)
    with refused(
        f"{path}: {what}; fetch the files again: python -m accelsim.workloads.data cifar10 --data {binary.parent}"
    ):
        data.load_dataset("cifar10", binary.parent, "test")


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1"])
def test_pickled_version_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with refused(
        f"{tmp_path / name}: the Python version of CIFAR-10, a pickle, which is never opened here; "
        f"fetch the binary version: python -m accelsim.workloads.data cifar10 --data {tmp_path}"
    ):
        data.load_dataset("cifar10", tmp_path, "test")


def test_absent_files_are_refused_with_the_places_tried(tmp_path):
    with refused(
        f"{tmp_path}/cifar10 and {tmp_path}: no file of cifar10 here (the folder given); give the folder with --data "
        f"or ACCELSIM_DATA, or download the files: python -m accelsim.workloads.data cifar10 --data {tmp_path}"
    ):
        data.load_dataset("cifar10", tmp_path, "test")


# --- downloading, from a folder that stands in for the mirror -----------------------------------------------


def archive(changed: dict[str, bytes] | None = None) -> bytes:
    """A tar.gz as published, with entries that no data set has among the others."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in {
            "../outside.bin": b"x",
            "cifar-10-batches-bin/readme.html": b"<html>",
            **{f"cifar-10-batches-bin/{name}": content for name, content in BATCHES.items()},
            **(changed or {}),
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("cifar-10-batches-bin/batches.meta.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return stream.getvalue()


@pytest.fixture
def mirror(binary, tmp_path, monkeypatch) -> Path:
    """The published archive, at the only mirror."""
    path = tmp_path / "mirror" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    publish(path, archive(), monkeypatch)
    monkeypatch.setattr(cifar10, "_MIRRORS", [path.parent.as_uri() + "/"])
    return path


def publish(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(content)
    monkeypatch.setattr(cifar10, "_ARCHIVE_BYTES", len(content))
    monkeypatch.setattr(cifar10, "_ARCHIVE_SHA256", hashlib.sha256(content).hexdigest())


def test_fetch_writes_the_six_files_and_nothing_else(mirror, tmp_path, capsys):
    assert data.main(["cifar10", "--data", str(tmp_path / "new")]) == 0
    target = tmp_path / "new" / "cifar10"
    assert capsys.readouterr().out == f"cifar10: {target}\n"
    assert {path.name: path.read_bytes() for path in (target / "cifar-10-batches-bin").iterdir()} == BATCHES
    assert sorted(path.name for path in (tmp_path / "new").rglob("*") if not path.is_dir()) == sorted(BATCHES)


def test_loading_downloads_only_when_asked_and_only_what_is_absent(mirror, tmp_path):
    with pytest.raises(InputError, match="no file of cifar10 here"):
        data.load_dataset("cifar10", tmp_path / "new", "test")
    assert data.load_dataset("cifar10", tmp_path / "new", "test", download=True).labels.tolist() == [6, 9]
    mirror.unlink()
    assert data.fetch("cifar10", tmp_path / "new") == tmp_path / "new" / "cifar10"


def test_fetch_takes_only_the_original_archive(mirror, tmp_path):
    mirror.write_bytes(b"moved to another address")
    digest = hashlib.sha256(b"moved to another address").hexdigest()
    with refused(
        f"cifar-10-binary.tar.gz: no mirror gave the original file ({mirror.as_uri()}: sha256 = {digest[:12]}.., "
        f"not the original's {cifar10._ARCHIVE_SHA256[:12]}..); copy the file from elsewhere and name its folder with "
        "--data or ACCELSIM_DATA"
    ):
        data.fetch("cifar10", tmp_path / "new")
    assert not (tmp_path / "new" / "cifar10" / "cifar-10-batches-bin").exists()


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_archive_that_cannot_be_unpacked_is_refused(keep, mirror, tmp_path, monkeypatch):
    content = archive()
    publish(mirror, content[: int(keep * len(content))], monkeypatch)
    with pytest.raises(InputError, match=r"^cifar-10-binary\.tar\.gz: (cannot be unpacked \(|does not hold the orig)"):
        data.fetch("cifar10", tmp_path / "new")


def test_archive_with_another_batch_under_a_batchs_name_is_refused(mirror, tmp_path, monkeypatch):
    other = archive({"cifar-10-batches-bin/test_batch.bin": BATCHES["data_batch_1.bin"]})
    publish(mirror, other, monkeypatch)
    with refused("cifar-10-binary.tar.gz: does not hold the original test_batch.bin; fetch it again"):
        data.fetch("cifar10", tmp_path / "new")


# --- the command line -----------------------------------------------------------------------------------------


def test_colour_network_is_not_run_on_grey_images_nor_a_grey_one_on_colours(capsys):
    assert main(["evaluate", "cifar_cnn", "--data", "mnist"]) == 2
    assert capsys.readouterr().err == (
        "accelsim: error: --data mnist: its images have 1 channels, the workload takes 3; use cifar10\n"
    )
    assert main(["evaluate", "lenet5_digits", "--data", "cifar10"]) == 2
    assert capsys.readouterr().err == (
        "accelsim: error: --data cifar10: its images have 3 channels, the workload takes 1; "
        "use mnist or fashion-mnist or digits\n"
    )


def test_colour_network_without_its_data_does_not_fall_back_to_digits(tmp_path, capsys):
    assert main(["run", "cifar_cnn"]) == 2
    assert capsys.readouterr().err == (
        f"accelsim: error: {tmp_path}/home/.cache/accelsim/cifar10: no file of cifar10 here (the default folder); give "
        "the folder with --data or ACCELSIM_DATA, or download the files: python -m accelsim.workloads.data cifar10\n"
    )


def test_colour_network_is_bit_exact_on_the_machine(tmp_path, capsys):
    pack(tmp_path, entries(x_train=np.tile(PIXELS, (205, 1, 1, 1)), y_train=np.tile(LABELS, 205)))
    assert main(["run", "cifar_cnn", "--data", str(tmp_path), "--images", "4"]) == 0
    assert "bit_exact: true (4 images, every written tensor)" in capsys.readouterr().out
