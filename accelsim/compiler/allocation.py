"""Addresses: activation tensors by lifetime, rings for what streams through, and the DRAM image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError

DRAM_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """A tensor's bytes and the first and last operation that needs it, both inclusive."""

    name: str
    size: int
    first: int
    last: int


def place(tensors: list[Lifetime], capacity: int) -> dict[str, int] | None:
    """Give each tensor an address so that tensors that live together do not overlap; None where none is found."""
    for addresses, end in _placements(tensors):
        if end <= capacity:
            return addresses
    return None


def smallest(tensors: list[Lifetime]) -> int:
    """The least capacity for which `place` finds addresses."""
    return min(end for _, end in _placements(tensors))


def _placements(tensors: list[Lifetime]) -> Iterator[tuple[dict[str, int], int]]:
    """Addresses and their end: greedy, in two orders (largest first, then first come), the lowest free each time."""
    for key in (lambda t: (-t.size, t.first), lambda t: (t.first, -t.size)):
        placed: list[tuple[Lifetime, int]] = []
        for tensor in sorted(tensors, key=key):
            address = 0
            rivals = [
                (at, other.size) for other, at in placed if other.first <= tensor.last and tensor.first <= other.last
            ]
            for start, size in sorted(rivals):
                if address + tensor.size <= start:
                    break
                address = max(address, start + size)
            placed.append((tensor, address))
        yield {tensor.name: at for tensor, at in placed}, max(at + tensor.size for tensor, at in placed)


def gap(taken: list[tuple[int, int]], capacity: int) -> tuple[int, int]:
    """Address and size of the largest stretch of 0..capacity - 1 that none of the (address, size) takes."""
    best, end = (0, 0), 0
    for start, size in [*sorted(taken), (capacity, 0)]:
        if start - end > best[1]:
            best = end, start - end
        end = max(end, start + size)
    return best


RING_BLOCKS = 64
"""Blocks in flight of one ring: two rings' tokens to one unit then always fit a counter of 255."""


class Ring:
    """A buffer filled front to back, over and over: as many blocks in flight as fit, reused oldest first."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._next = self._blocks = 0

    def take(self, size: int) -> int:
        """Return the address of the next `size` bytes; a block never wraps around the end."""
        if self._next + size > self.capacity or self._blocks == RING_BLOCKS:
            self._next = self._blocks = 0
        address = self._next
        self._next += size
        self._blocks += 1
        return address


class DramImage:
    """The DRAM image under construction: blocks of bytes at aligned addresses."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, npt.NDArray[np.uint8]]] = []
        self._end = 0

    def add(self, data: npt.NDArray[np.uint8]) -> int:
        """Append bytes; returns their address."""
        address = self._end
        self._blocks.append((address, data))
        self._end = -(-(address + data.size) // DRAM_ALIGNMENT) * DRAM_ALIGNMENT
        if self._end > 1 << 32:
            raise InputError(
                f"the DRAM image exceeds the {1 << 32} bytes an instruction can address; use a smaller batch"
            )
        return address

    def reserve(self, size: int) -> int:
        """Append zeros, for an input or output region."""
        return self.add(np.zeros(size, dtype=np.uint8))

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The whole image."""
        image = np.zeros(self._end, dtype=np.uint8)
        for address, data in self._blocks:
            image[address : address + data.size] = data
        return image
