"""The addresses an instruction touches: geometry shared by the static check, the machine and, in RTL, by one unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from accelsim.config import RECORD_BYTES, TABLE_ENTRIES, ElementBytes
from accelsim.isa.instructions import Compute, Instruction, Load, Memory, Post, Source, Start, Store

Space = Literal["activation", "weight", "parameter", "table", "accumulator", "dram"]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Window:
    """The activation bytes of a COMPUTE or of a POST from the activation buffer, as separable offsets.

    The first byte of (image, y, x, r, s) is at base + image[i] + down[y, r] + across[x, s], it is byte
    `position[x, s]` of its row, and row (y, r) is in the image where `row_inside`.

    Attributes:
        image: int64 (images,). down: int64 (Y, R). across: int64 (X, S).
        row_inside: bool (Y, R). position: int64 (X, S).
        row_bytes: a byte is in the row where 0 <= position + lane < row_bytes.
    """

    base: int
    image: Int64
    down: Int64
    across: Int64
    row_inside: Bool
    position: Int64
    row_bytes: int

    def lanes(self, span: int) -> tuple[Int64, Bool]:
        """Addresses of `span` lanes of every word and tap, and which are inside; outside, the address is 0.

        Returns:
            Two arrays (words, taps, span), words in (image, y, x) and taps in (r, s) order.
        """
        lane = np.arange(span)
        # Axes (image, y, x, r, s, lane).
        rows = (self.image[:, None, None] + self.down)[:, :, None, :, None, None]
        addresses = self.base + rows + (self.across[:, :, None] + lane)[None, None, :, None]
        position = self.position[:, :, None] + lane
        in_row = ((position >= 0) & (position < self.row_bytes))[None, None, :, None]
        inside = np.broadcast_to(self.row_inside[None, :, None, :, None, None] & in_row, addresses.shape)
        taps = self.row_inside.shape[1] * self.position.shape[1]
        shape = (-1, taps, span)
        return np.where(inside, addresses, 0).reshape(shape), inside.reshape(shape)

    def intervals(self, span: int) -> tuple[Int64, Int64]:
        """Byte intervals [start, stop) of all runs of `span` bytes, cut to what lies inside; none is empty."""
        first = np.clip(-self.position, 0, span)
        last = np.clip(self.row_bytes - self.position, 0, span)
        some = last > first
        begins = (self.across + first)[some]
        lengths = (last - first)[some]
        rows = (self.image[:, None] + self.down[self.row_inside][None, :]).ravel() + self.base
        starts = (rows[:, None] + begins[None, :]).ravel()
        return starts, starts + np.broadcast_to(lengths, (rows.size, lengths.size)).ravel()


def window_of(instruction: Compute | Post) -> Window:
    """The walk over activation bytes that a COMPUTE, or a POST with an activation source, describes."""
    i = instruction
    if isinstance(i, Compute):
        base, image_step, y_step, x_step, dilation = i.act_base, i.image_step, i.y_step, i.x_step, i.dilation_y
    else:
        base, image_step, y_step, x_step, dilation = i.src_base, i.src_image_step, i.src_y_step, i.src_x_step, 1
    y, x = np.arange(i.y_count)[:, None], np.arange(i.x_count)[:, None]
    r, s = np.arange(i.r_count)[None, :], np.arange(i.s_count)[None, :]
    row = i.y_first + y * i.stride_y + r * dilation
    across = x * x_step + s * i.s_step
    return Window(
        base=base,
        image=np.arange(i.images) * image_step,
        down=y * y_step + r * i.r_step,
        across=across,
        row_inside=(row >= 0) & (row < i.in_height),
        position=i.x_first + across,
        row_bytes=i.in_row_bytes,
    )


def accumulator_words(post: Post) -> Int64:
    """Word addresses a POST reads from the accumulator memory: int64 (words, window)."""
    image, y, x = _grid(post.images, post.y_count, post.x_count)
    r, s = np.meshgrid(np.arange(post.r_count), np.arange(post.s_count), indexing="ij")
    words = post.src_base + image * post.src_image_step + y * post.src_y_step + x * post.src_x_step
    taps = (r * post.r_step + s * post.s_step).ravel()
    return np.asarray(words[:, None] + taps[None, :], dtype=np.int64)


def destination_offsets(post: Post) -> Int64:
    """Offsets of each output word's lane 0 from dst_base, which are also its residual's from residual_base."""
    image, y, x = _grid(post.images, post.y_count, post.x_count)
    return np.asarray(image * post.dst_image_step + y * post.dst_y_step + x * post.dst_x_step, dtype=np.int64)


def _grid(images: int, y_count: int, x_count: int) -> tuple[Int64, Int64, Int64]:
    """(image, y, x) of each word in order."""
    image, y, x = np.meshgrid(np.arange(images), np.arange(y_count), np.arange(x_count), indexing="ij")
    return image.ravel(), y.ravel(), x.ravel()


@dataclass(frozen=True, eq=False)
class Access:
    """Bytes (accumulator: words) of one memory that an instruction reads or writes, as intervals [start, stop)."""

    space: Space
    write: bool
    starts: Int64
    stops: Int64

    @cached_property
    def low(self) -> int:
        """The lowest address."""
        return int(self.starts.min())

    @cached_property
    def high(self) -> int:
        """One past the highest address."""
        return int(self.stops.max())

    @cached_property
    def merged(self) -> tuple[Int64, Int64]:
        """The same addresses as disjoint, sorted intervals."""
        if self.starts.size == 1:
            return self.starts, self.stops
        order = np.argsort(self.starts, kind="stable")
        starts, stops = self.starts[order], np.maximum.accumulate(self.stops[order])
        fresh = np.ones(starts.size, dtype=bool)
        fresh[1:] = starts[1:] > stops[:-1]
        heads = np.flatnonzero(fresh)
        return starts[heads], stops[np.append(heads[1:] - 1, starts.size - 1)]


BYTES = ElementBytes()
"""Of a machine of integers: an activation is a byte, a weight at most one."""


def accesses(instruction: Instruction, elements: ElementBytes = BYTES) -> list[Access]:
    """Everything an instruction reads and writes; empty accesses are left out.

    COMPUTE and POST count activations in elements; of `elements.activation` bytes each.
    """
    each = elements.activation
    found: list[Access] = []

    def add(space: Space, write: bool, starts: Int64, length: int | Int64) -> None:
        if starts.size:
            found.append(Access(space, write, starts, starts + length))

    def block(space: Space, write: bool, start: int, length: int) -> None:
        add(space, write, np.array([start], dtype=np.int64), length)

    match instruction:
        case Load():
            order = np.arange(instruction.rows, dtype=np.int64)
            outside = instruction.dram_address + order * instruction.dram_step
            inside = instruction.buffer_address + order * instruction.buffer_step
            store = isinstance(instruction, Store)
            buffer: Space = "activation"
            if not store:
                buffer = _SPACES[Memory(instruction.memory)]
            add("dram", store, outside, instruction.row_bytes)
            add(buffer, not store, inside, instruction.row_bytes)
        case Compute():
            starts, stops = window_of(instruction).intervals(instruction.run_bytes)
            add("activation", False, each * starts, each * (stops - starts))
            tall = 1 if instruction.diagonal else instruction.run_bytes
            taps = instruction.r_count * instruction.s_count
            row_bytes = instruction.weight_row_bytes * elements.weight
            block("weight", False, instruction.weight_base, taps * tall * row_bytes)
            block("accumulator", True, instruction.acc_base, instruction.words)
            if instruction.start == Start.ACCUMULATE:
                block("accumulator", False, instruction.acc_base, instruction.words)
            elif instruction.start == Start.BIAS:
                block("parameter", False, instruction.param * RECORD_BYTES, instruction.lanes * RECORD_BYTES)
        case Post():
            if instruction.source == Source.ACCUMULATOR:
                words = accumulator_words(instruction).ravel()
                add("accumulator", False, words, 1)
            else:
                starts, stops = window_of(instruction).intervals(instruction.lanes)
                add("activation", False, starts, stops - starts)
            offsets = destination_offsets(instruction)
            if instruction.residual_on:
                add("activation", False, instruction.residual_base + offsets, instruction.lanes)
            records = instruction.words if instruction.broadcast else instruction.lanes * (1 + instruction.residual_on)
            if elements == BYTES:
                block("parameter", False, instruction.param * RECORD_BYTES, records * RECORD_BYTES)
            if instruction.table_on:
                block("table", False, instruction.table * TABLE_ENTRIES, TABLE_ENTRIES)
            add("activation", True, each * (instruction.dst_base + offsets), each * instruction.lanes)
    return found


_SPACES: dict[Memory, Space] = {
    Memory.ACTIVATION: "activation",
    Memory.WEIGHT: "weight",
    Memory.PARAMETER: "parameter",
    Memory.TABLE: "table",
}
