"""What every layer's emission shares: the instruction list, transfers, and the rings of streamed constants."""

from __future__ import annotations

import numpy as np

from accelsim.compiler.allocation import DramImage, Ring
from accelsim.compiler.tiling import Rectangle
from accelsim.config import RECORD_BYTES, TABLE_ENTRIES, Hardware
from accelsim.ir import IntegerGraph, Table, TensorType
from accelsim.isa import Instruction, Load, Memory, Piece, Store

MAX_IMAGES = 255
"""An instruction's `images` field holds 1..255."""
MAX_RECORDS, MAX_TABLES = 1 << 16, 1 << 8
"""Records and tables that the fields `param` and `table` can name, however large the buffers are."""
MAX_HALF = (1 << 23) - 1
"""The highest accumulator address that the signed field `src_base` can name."""


class Emitter:
    """Instructions in a serial order that is right; `synchronise` makes the units overlap afterwards.

    Attributes:
        instructions: so far.
        pieces: which part of which tensor each POST writes.
        unsigned: 1 where activation codes are unsigned.
        half: accumulator words of one half; a POST drains one while COMPUTE fills the other.
    """

    def __init__(self, graph: IntegerGraph, hardware: Hardware, dram: DramImage):
        self.graph = graph
        self.hardware = hardware
        self.dram = dram
        self.unsigned = int(not graph.activation.signed)
        self.half = min(hardware.accumulator_depth // 2, MAX_HALF)
        self.instructions: list[Instruction] = []
        self.pieces: list[Piece] = []
        self.weights = Ring(hardware.weight.memory_bytes)
        self._records = Ring(min(hardware.parameter.memory_bytes // RECORD_BYTES, MAX_RECORDS))
        self._tables = Ring(min(hardware.table.memory_bytes // TABLE_ENTRIES, MAX_TABLES))
        self._other_half = False
        self._constants: dict[str, int] = {}

    @property
    def most_records(self) -> int:
        """Parameter records one LOAD brings: half the buffer, so that the next layer's come meanwhile."""
        return self._records.capacity // 2

    def accumulator_half(self) -> int:
        """The accumulator address of the next rectangle; halves take turns."""
        self._other_half = not self._other_half
        return 0 if self._other_half else self.half

    def load(self, label: int, memory: Memory, dram: int, buffer: int, size: int) -> None:
        """LOAD `size` consecutive bytes."""
        self.instructions.append(
            Load(label=label, memory=memory, dram_address=dram, buffer_address=buffer, row_bytes=size)
        )

    def store(self, label: int, buffer: int, dram: int, size: int) -> None:
        """STORE `size` consecutive bytes."""
        self.instructions.append(Store(label=label, dram_address=dram, buffer_address=buffer, row_bytes=size))

    def load_records(self, label: int, dram: int, count: int) -> int:
        """LOAD parameter records; returns the index of the first."""
        first = self._records.take(count)
        self.load(label, Memory.PARAMETER, dram, first * RECORD_BYTES, count * RECORD_BYTES)
        return first

    def constant(self, key: str, data: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> int:
        """The DRAM address of constant bytes, added once for each key."""
        if key not in self._constants:
            self._constants[key] = self.dram.add(data.ravel())
        return self._constants[key]

    def load_table(self, label: int, table: Table) -> int:
        """LOAD an activation table; returns its slot."""
        entries = np.zeros(TABLE_ENTRIES, dtype=np.uint8)
        entries[: table.entries.size] = (table.entries & 0xFF).astype(np.uint8)
        slot = self._tables.take(1)
        address = self.constant(f"table {table.name}", entries)
        self.load(label, Memory.TABLE, address, slot * TABLE_ENTRIES, TABLE_ENTRIES)
        return slot


class Place:
    """Part of a tensor of a group of images in the activation buffer, (image, y, x, channel) bytes.

    Attributes:
        base: address of the part's first byte.
        tensor: the whole tensor's type.
        part: the images, rows and columns that are there.
        channel, channels: the first channel that is there, and how many are.
    """

    def __init__(
        self,
        base: int,
        tensor: TensorType,
        part: Rectangle | None = None,
        channel: int = 0,
        channels: int | None = None,
    ):
        self.base = base
        self.tensor = tensor
        self.part = Rectangle(0, 0, 0, tensor.height, 0, tensor.width) if part is None else part
        self.channel = channel
        self.channels = tensor.channels if channels is None else channels

    @property
    def row(self) -> int:
        """Bytes from one row to the next."""
        return self.part.x_count * self.channels

    @property
    def image(self) -> int:
        """Bytes from one image to the next."""
        return self.part.y_count * self.row

    def at(self, image: int, y: int, x: int, channel: int) -> int:
        """Address of a byte of the tensor; positions outside the image give addresses that are masked."""
        return (
            self.base
            + (image - self.part.image) * self.image
            + (y - self.part.y) * self.row
            + (x - self.part.x) * self.channels
            + channel
            - self.channel
        )
