"""Reading and writing files: whole or not at all, and every failure is one line that names the file.

Everything accelsim writes for a user goes through `write_whole`, so that a full disk, a kill or a power cut
leaves the old file or the new one, never a half. Text is UTF-8, and line ends are kept as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import numpy.typing as npt

FilePath = str | os.PathLike[str]


def write_whole(path: FilePath, data: bytes | str | Iterable[bytes]) -> None:
    """Write `data` to `path` in one step: readers see the old content or all of the new one.

    The data goes to a temporary file in the same folder, is forced to the disk and renamed over `path`. A
    symbolic link keeps pointing where it did. A pipe, a device and our own standard output are written as they
    are, since replacing them would take them away from everyone else.

    Args:
        path: its folder must exist.
        data: text is encoded as UTF-8; of an iterable one part is in memory at a time, and what it raises is passed on.

    Raises:
        InputError: the file cannot be written. What was at `path` is unchanged and nothing is left beside it.
    """
    text = data.encode() if isinstance(data, str) else data
    parts = (text,) if isinstance(text, bytes) else text
    try:
        ours, pipe = is_standard_output(path), _is_pipe_or_device(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except ValueError as error:  # a NUL character in the name, which no folder can hold
        raise InputError(f"{os.fspath(path)!r}: cannot write: {error}; choose another name") from error
    try:
        if ours:
            sys.stdout.flush()
            with open(_standard_output(), "wb", closefd=False) as stream:
                stream.writelines(parts)
        elif pipe:
            with open(path, "wb") as stream:
                stream.writelines(parts)
        else:
            _replace(os.path.realpath(path), parts)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: FilePath, error: OSError) -> InputError:
    return InputError(f"{os.fspath(path)}: cannot write: {error.strerror}; choose a writable folder with free space")


def check_file(path: FilePath) -> None:
    """Refuse a file that cannot be written, before the work whose result it would hold.

    Raises:
        InputError: it is a folder, or its folder is not there or not writable.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        raise InputError(f"{name}: is a folder; name a file")
    folder = os.path.dirname(name) or "."
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"{name}: {folder!r} is a file, not a folder; choose another")
    if not os.path.isdir(folder):
        raise InputError(f"{name}: there is no folder {folder}; make it first, or choose another")
    if not os.path.exists(name) and not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{name}: may not write to {folder}; choose a writable folder")


def check_folder(path: FilePath) -> None:
    """Refuse a folder that cannot be made or written to, before the work whose results it would hold.

    Raises:
        InputError: it, or what it would be made in, is a file or not writable.
    """
    name = os.fspath(path)
    nearest = name or "."
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest) or "."
    if not os.path.isdir(nearest):
        raise InputError(f"{name}: {nearest!r} is a file, not a folder; choose another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{name}: may not write to {nearest}; choose a writable folder")


def is_standard_output(path: FilePath) -> bool:
    """Whether `path` (``/dev/stdout``) is where our standard output goes, be it a pipe, a terminal or a file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(_standard_output()))
    except (OSError, ValueError):  # no such file; no standard output
        return False


def _standard_output() -> int:
    """Its file descriptor; `ValueError` where our caller closed it."""
    if sys.__stdout__ is None:
        raise ValueError("there is no standard output")
    return sys.__stdout__.fileno()


def write_json(path: FilePath, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NumPy scalars and arrays become numbers and lists.

    Keys keep their order.

    Raises:
        InputError: the file cannot be written.
        ValueError: `value` holds NaN or an infinity, which JSON cannot say.
        TypeError: `value` holds something else that JSON cannot say.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_whole(path, text + "\n")


def read_bytes(path: FilePath, most: int | None = None) -> bytes:
    """Return all of the file.

    Args:
        path: may be a pipe.
        most: bytes it may have; no more are read.
    Raises:
        InputError: there is no such file, it is a folder, it may not be read, or it has more than `most` bytes.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read(-1 if most is None else most + 1)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file{_near_name(Path(path)) or '; check the path'}") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder; name a file") from error
    except PermissionError as error:
        raise InputError(f"{name}: cannot read: {error.strerror}; check its permissions") from error
    except OSError as error:
        raise InputError(f"{name}: cannot read: {error.strerror}; check the path") from error
    except ValueError as error:
        raise InputError(f"{name!r}: cannot read: {error}; check the path") from error
    if most is not None and len(content) > most:
        raise InputError(f"{name}: has more than {most:,} bytes, too many for what it should be; check the path")
    return content


def read_text(path: FilePath, most: int | None = None) -> str:
    """Return all of the file as text; line ends are kept as they are.

    Args:
        path: may be a pipe.
        most: bytes it may have.
    Raises:
        InputError: as `read_bytes`, or the file is not UTF-8.
    """
    content = read_bytes(path, most)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{os.fspath(path)}: byte {error.start} is 0x{content[error.start]:02x}, "
            "which is not UTF-8 text; save the file as UTF-8"
        ) from error


def parse_npy(data: bytes, path: FilePath, remedy: str) -> npt.NDArray[Any]:
    """An array from the bytes of an .npy file; an archive and a pickle are none.

    Raises:
        InputError: they are not such a file; `remedy` ends the line.
    """
    import io
    import tokenize

    import numpy as np

    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    # The header is Python text, whose tokenizer and parser have errors of their own.
    except (
        ValueError,
        TypeError,
        EOFError,
        OverflowError,
        MemoryError,
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
    ) as error:
        raise InputError(f"{os.fspath(path)}: cannot be read as .npy: {error}; {remedy}") from None


def _is_pipe_or_device(path: FilePath) -> bool:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _replace(target: str, parts: Iterable[bytes]) -> None:
    """Write a new file beside `target` and rename it over it; on any failure, remove it and raise."""
    # O_EXCL with 0o666 rather than tempfile: the file ends up with the user's umask, as if written in place.
    # The name is short, so that it fits wherever `target` does.
    temporary = os.path.join(os.path.dirname(target), f".accelsim-{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C, too, must not leave litter
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _near_name(path: Path) -> str:
    try:
        return did_you_mean(path.name, os.listdir(path.parent))
    except OSError:
        return ""


def _plain(value: Any) -> Any:
    """Turn a NumPy scalar or array into what JSON knows, without importing NumPy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
