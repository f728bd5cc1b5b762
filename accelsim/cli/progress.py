"""Progress bars of long commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class ImageBar:
    """A progress bar on a terminal, and nothing in a pipe."""

    def __init__(self, total: int):
        self._total = total
        self._bar: Any = None

    def __enter__(self) -> Callable[[int], None]:
        if self._total > 1 and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit="image", leave=False)
        return self._update

    def _update(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class StageBars:
    """A progress bar for each stage of long work on a terminal, and nothing in a pipe."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._update if sys.stderr.isatty() else lambda *_: None

    def _update(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage != self._stage or done < self._bar.n:
            self.__exit__()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, unit="image", leave=False)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
