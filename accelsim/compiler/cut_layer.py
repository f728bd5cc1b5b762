"""What every layer offers to those who cut, price and emit it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from accelsim.compiler.emission import Emitter, Place
from accelsim.compiler.lowering import Operation
from accelsim.compiler.tiling import Rectangle, even_spans, spans

Group = tuple[int, ...]
"""Numbers of consecutive blocks of result channels that share a LOAD of constants."""


class CutLayer(ABC):
    """A layer cut to the machine's memories: blocks of result channels, and how one group of them is emitted.

    `macs.MacLayer`, `matmuls.MatMulLayer` and `elementwise.ElementwiseLayer` are those there are.

    Attributes:
        emitter: gets the instructions.
        operation: what is computed.
        sliced: whether a block of results reads its own channels alone, so that a band need not hold the others.
        blocks: blocks of result channels.
    """

    sliced: bool
    blocks: int

    def __init__(self, emitter: Emitter, operation: Operation):
        self.emitter = emitter
        self.operation = operation
        self._most: dict[tuple[int, int], tuple[int, ...]] = {}

    def groups(self, most: int) -> list[Group]:
        """Consecutive blocks, at most so many, whose constants fit on chip together: as many, unless overridden."""
        return [tuple(range(first, first + count)) for first, count in spans(self.blocks, most)]

    @abstractmethod
    def channels(self, group: Group) -> tuple[int, int]:
        """First result channel of a group, and how many there are."""

    @abstractmethod
    def needs(self, rectangle: Rectangle) -> tuple[Rectangle, ...]:
        """The images, rows and columns of each operand that a rectangle of results needs.

        Rows depend on the rectangle's rows alone, columns on its columns.
        """

    @abstractmethod
    def constant_bytes(self, group: Group) -> list[int]:
        """Bytes of each LOAD of a group's constants."""

    @abstractmethod
    def load(self, group: Group) -> Any:
        """LOAD a group's constants; the result goes to `emit`."""

    @abstractmethod
    def emit(
        self, group: Group, constants: Any, band: Rectangle, sources: list[Place], result: Place, first_image: int
    ) -> None:
        """Emit a band of a group's channels; image 0 of the places is image `first_image` of the batch."""

    def most(self, axis: int, size: int) -> tuple[int, ...]:
        """The most rows (axis 0) or columns (1) of each operand and, last, of the result in bands of at most `size`."""
        key = axis, size
        if key not in self._most:
            tensor = self.operation.result.output
            found: list[tuple[int, ...]] = []
            for start, count in even_spans(tensor.shape[axis], size):
                band = Rectangle(0, 1, start, count, 0, 1) if axis == 0 else Rectangle(0, 1, 0, 1, start, count)
                parts = self.needs(band)
                found.append((*(part.y_count if axis == 0 else part.x_count for part in parts), count))
            self._most[key] = tuple(map(max, zip(*found, strict=True)))
        return self._most[key]
