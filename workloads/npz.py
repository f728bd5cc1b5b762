"""Arrays of an .npz file, decoded no further than asked, whatever the archive claims. NumPy only, no pickle.

`zipfile` decodes LZMA in steps of 4 KiB of input, each of which may hold 28 MB, and allocates the dictionary that the
entry names, up to 4 GiB; NumPy allocates an array of whatever shape its header names. Here the reader knows how long
a row is and says how many it wants, and gets these or one line.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.files import read_bytes

_MOST_BYTES = 1 << 28
"""Of the archive; CIFAR-10's 60,000 images, stored plain, are 184 MB."""

_MOST_DICTIONARY_BYTES = 1 << 26  # that of `xz -9`; zipfile's own LZMA writer has 8 MiB
_MOST_HEADER_BYTES = 4096  # NumPy writes 128 for an array of a plain type
_LOCAL_HEADER_BYTES = 30

# zipfile takes apart the fields of the directory without a check of its own
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, OSError, EOFError, IndexError, struct.error, NotImplementedError)

# an .npy header is Python text, whose tokenizer and parser have errors of their own
_HEADER_ERRORS = (
    *(ValueError, TypeError, OverflowError, SyntaxError),
    *(tokenize.TokenError, RecursionError, MemoryError),
)

Refuse = Callable[[str], InputError]


class Archive:
    """An .npz file, read into memory as it is.

    Args:
        path: The file.
        refuse: Makes the error of what is wrong with it.
    Raises:
        InputError: Unreadable, longer than 256 MiB, or no zip archive.
    """

    def __init__(self, path: Path, refuse: Refuse):
        self.refuse = refuse
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # read_bytes says it better
        if size > _MOST_BYTES:
            raise refuse(f"{size} bytes long; at most {_MOST_BYTES} are read")
        self.content = read_bytes(path)
        try:
            with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
                self.entries = {entry.filename: entry for entry in archive.infolist()}
        except _ZIP_ERRORS as error:
            raise refuse(f"not a whole .npz archive ({error})") from None

    def rows(self, name: str, element: tuple[int, ...]) -> Rows:
        """Look at an array of uint8 (N, \\*element), by its name without ``.npy``; nothing but its header is decoded.

        Raises:
            InputError: It is not there or not such an array; its entry is encrypted or packed in an unknown way.
        """
        entry = self.entries.get(f"{name}.npy")
        if entry is None:
            raise self.refuse(f"holds no array {name!r}")
        start = self._decoded(entry, _MOST_HEADER_BYTES)
        stream = io.BytesIO(start)
        try:
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(stream, max_header_size=_MOST_HEADER_BYTES)
        except _HEADER_ERRORS as error:
            raise self.refuse(f"{name} has no header of an .npy file ({error})") from None
        if dtype != np.uint8:
            kind = "Python objects, a pickle, which is never opened" if dtype.hasobject else f"{dtype}"
            raise self.refuse(f"{name} holds {kind}")
        if len(shape) != 1 + len(element) or tuple(shape[1:]) != element or fortran:
            order = " in Fortran order" if fortran else ""
            raise self.refuse(f"{name} has the shape {tuple(shape)}{order}")
        return Rows(self, entry, name, stream.tell(), int(shape[0]), element)

    def _decoded(self, entry: zipfile.ZipInfo, limit: int) -> bytes:
        """The entry's first `limit` bytes, decoded; fewer if there are no more."""
        name = entry.filename.removesuffix(".npy")
        if entry.flag_bits & 1:
            raise self.refuse(f"{name} is encrypted")
        header = self.content[entry.header_offset : entry.header_offset + _LOCAL_HEADER_BYTES]
        if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
            raise self.refuse(f"{name} is not where the archive says")
        # Source: PKWARE's APPNOTE, 4.3.7: lengths of name and extra field in the last four bytes
        start = entry.header_offset + _LOCAL_HEADER_BYTES
        start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        packed = self.content[start : start + entry.compress_size]
        try:
            if entry.compress_type == zipfile.ZIP_STORED:
                return packed[:limit]
            if entry.compress_type == zipfile.ZIP_DEFLATED:
                return zlib.decompressobj(-15).decompress(packed, limit)
            if entry.compress_type == zipfile.ZIP_LZMA:
                return _decoded_lzma(packed, limit)
        except (zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
            raise self.refuse(f"{name} cannot be decoded ({error})") from None
        raise self.refuse(f"{name} is packed by method {entry.compress_type}; stored, deflated and LZMA are read")


@dataclass(frozen=True)
class Rows:
    """An array in an archive, not decoded yet.

    Attributes:
        count: Rows it says it has.
        element: Shape of one.
    """

    archive: Archive
    entry: zipfile.ZipInfo
    name: str
    header_bytes: int
    count: int
    element: tuple[int, ...]

    def read(self, wanted: int) -> npt.NDArray[np.uint8]:
        """Return the first `wanted` rows, uint8 (wanted, \\*element).

        The CRC of the entry is checked when all rows are wanted; a part has none.

        Raises:
            InputError: It breaks off, is longer than its header says, or does not decode.
        """
        row_bytes = math.prod(self.element)
        needed = self.header_bytes + wanted * row_bytes
        whole = wanted == self.count
        content = self.archive._decoded(self.entry, needed + whole)  # one too many is enough to refuse
        if len(content) < needed:
            rows = (len(content) - self.header_bytes) // row_bytes
            raise self.archive.refuse(f"{self.name} breaks off after {rows} of {self.count} rows")
        if len(content) > needed:
            raise self.archive.refuse(f"{self.name} is longer than its {self.count} rows")
        if whole and zlib.crc32(content) != self.entry.CRC:
            raise self.archive.refuse(f"{self.name} is damaged, its CRC-32 is not the archive's")
        return np.frombuffer(content, np.uint8, offset=self.header_bytes).reshape(wanted, *self.element)


def _decoded_lzma(packed: bytes, limit: int) -> bytes:
    """The first `limit` bytes of an entry of a zip archive that is packed with LZMA.

    Source: PKWARE's APPNOTE, 5.8.8: version (2 bytes), length of the properties (2 bytes, always 5), the properties,
    the raw stream. Properties, from the LZMA specification: (pb * 5 + lp) * 9 + lc, dictionary's size (4 bytes).
    """
    if len(packed) < 9 or packed[2:4] != b"\x05\x00" or packed[4] >= 9 * 5 * 5:
        raise ValueError("not the header of an LZMA stream")
    dictionary = int.from_bytes(packed[5:9], "little")
    if dictionary > _MOST_DICTIONARY_BYTES:
        raise ValueError(f"needs a dictionary of {dictionary} bytes, at most {_MOST_DICTIONARY_BYTES} are given")
    rest, lc = divmod(packed[4], 9)
    pb, lp = divmod(rest, 5)
    options = {"id": lzma.FILTER_LZMA1, "dict_size": max(dictionary, 4096), "lc": lc, "lp": lp, "pb": pb}
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[options])
    return decoder.decompress(packed[9:], max_length=limit)
