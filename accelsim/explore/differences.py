"""By how many units in the last place two sets of codes differ, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class CodeDifference:
    """One tensor, computed twice.

    Attributes:
        node: its name.
        values: how many codes were compared.
        steps: {b - a: how often}, in order of b - a; 0 is there where any code agrees. Counts add up to `values`.
        first: index of the first code that differs, in C order (image, y, x, channel), with its two values; None where
            all agree.
    """

    node: str
    values: int
    steps: dict[int, int]
    first: tuple[tuple[int, ...], int, int] | None

    @property
    def differing(self) -> int:
        """Codes that are not equal."""
        return self.values - self.steps.get(0, 0)

    @property
    def off_by(self) -> tuple[int, int, int, int]:
        """Codes that differ by 0, by 1, by 2 and by more, whatever the sign."""
        counts = [0, 0, 0, 0]
        for step, count in self.steps.items():
            counts[min(abs(step), 3)] += count
        return counts[0], counts[1], counts[2], counts[3]

    @property
    def largest(self) -> int:
        """Largest |b - a|; 0 where there is nothing to compare."""
        return max(map(abs, self.steps), default=0)


def count_differences(a: Mapping[str, Codes], b: Mapping[str, Codes]) -> list[CodeDifference]:
    """Compare the tensors that two mappings both hold, in the order of `a`.

    Args:
        a, b: codes of nodes by name, integers of any dtype up to 32 bits (or int64 within 62), shapes equal for equal
            names. Whether codes mean the same real values is for the caller to know.
    Raises:
        InputError: a name whose shapes differ.
        TypeError: codes that are no integers.

    >>> a = {"x": np.array([[3, -4, 127]]), "only in a": np.array([0])}
    >>> (x,) = count_differences(a, {"x": np.array([[3, -5, 125]], dtype=np.int8)})
    >>> x.steps, x.off_by, x.largest, x.first
    ({-2: 1, -1: 1, 0: 1}, (1, 1, 1, 0), 2, ((0, 1), -4, -5))
    """
    return [_count(name, codes, b[name]) for name, codes in a.items() if name in b]


def _count(name: str, a: Codes, b: Codes) -> CodeDifference:
    if a.dtype.kind not in "iu" or b.dtype.kind not in "iu":
        raise TypeError(f"node {name}: codes of type {a.dtype} and {b.dtype} are not integers")
    if a.shape != b.shape:
        raise InputError(f"node {name}: has shape {a.shape} in one network and {b.shape} in the other")
    steps = b.astype(np.int64) - a.astype(np.int64)  # narrow and unsigned codes would wrap
    values, counts = np.unique(steps, return_counts=True)
    first = None
    if (places := np.flatnonzero(steps)).size:
        index = tuple(int(i) for i in np.unravel_index(places[0], steps.shape))
        first = (index, int(a[index]), int(b[index]))
    return CodeDifference(name, int(steps.size), dict(zip(values.tolist(), counts.tolist(), strict=True)), first)
