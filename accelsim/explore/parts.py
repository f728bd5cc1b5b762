"""Finished parts of a long study, kept as files: a study that was interrupted goes on where it was.

A part is used again only if it was made from the same inputs by the same code: its key is a hash of both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from accelsim.errors import InputError
from accelsim.files import check_folder, read_bytes, write_json

RESULTS_DEPEND_ON = (
    *("numerics", "config", "ir", "frontend", "quantization", "isa", "timing", "compiler", "machine", "engine"),
    *("training", "energy", "explore", "accounting.py", "pipeline.py", "sources.py"),
)
"""Sources of the package that decide a figure; a part made by others is made again."""


class Parts:
    """The parts of one study in one folder.

    Attributes:
        reused: names of parts taken from an earlier run.
    """

    def __init__(self, folder: Path, key: str):
        self._folder = folder / "parts"
        self._key = key
        self.reused: list[str] = []
        check_folder(self._folder)

    def get(self, name: str) -> Any:
        """A finished part's value, or None where it is not there or was made from other inputs or by other code.

        Raises:
            InputError: the file is not as it was written.
        """
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            data = json.loads(read_bytes(path))
            key, value, digest = data["key"], data["value"], data["sha256"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(f"{path}: is not a part of a study; remove it and repeat the command") from None
        if digest != _digest(value):
            raise InputError(f"{path}: was altered since it was written; remove it and repeat the command")
        if key != self._key:
            return None
        self.reused.append(name)
        return value

    def put(self, name: str, value: Any) -> Any:
        """Keep a finished part, whole or not at all; returns the value as it will be read again."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self._folder}: cannot create the folder: {error.strerror}; choose another") from None
        kept = json.loads(json.dumps(value))  # JSON has no tuples; a study must not depend on what was kept
        write_json(self._folder / f"{name}.json", {"key": self._key, "sha256": _digest(kept), "value": kept})
        return kept

    def finished(self, name: str, make: Callable[[], Any]) -> Any:
        """A part's value, made and kept where it is not there."""
        value = self.get(name)
        return self.put(name, make()) if value is None else value


def study_key(inputs: Iterable[bytes]) -> str:
    """A hash of what a study depends on: its inputs, one after the other, and the code that makes its figures."""
    digest = hashlib.sha256(code_digest())
    for data in inputs:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def code_digest() -> bytes:
    """SHA-256 of the sources named in `RESULTS_DEPEND_ON`."""
    home = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in RESULTS_DEPEND_ON:
        place = home / name
        for path in [place] if place.suffix else sorted(place.rglob("*.py")):
            digest.update(str(path.relative_to(home)).encode())
            digest.update(path.read_bytes())
    return digest.digest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
