"""Convolution and linear layers: COMPUTE for each block, rectangle and part of K, POST for each rectangle.

Within a band of results the loops are output-channel block, output rectangle, part of K. Weights of as many blocks as
fit half the weight buffer come in one LOAD; where one block's do not fit, its parts are loaded anew for each rectangle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from accelsim.compiler.cut_layer import CutLayer, Group
from accelsim.compiler.emission import Emitter, Place
from accelsim.compiler.lowering import Operation
from accelsim.compiler.tiling import (
    Block,
    Part,
    Rectangle,
    Runs,
    blocks_of,
    input_part,
    parts_of,
    rectangles,
    runs_of,
    source_extent,
)
from accelsim.config import RECORD_BYTES, Hardware
from accelsim.errors import InputError
from accelsim.ir import Conv2d, IntegerGraph, Mac, bits_for
from accelsim.isa import Compute, Memory, Piece, Post, Reduce, Source, Start, pack_records, pack_rows

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """A layer's constants in DRAM.

    Attributes:
        blocks: output-channel blocks, whose packed weight rows follow one another from `weights` on.
        row_bytes, sizes: bytes of one row and of all rows of each block.
        records: address of N records for POST; `biases` of N more for COMPUTE, or None.
    """

    runs: Runs
    blocks: list[Block]
    weights: int
    row_bytes: list[int]
    sizes: list[int]
    records: int
    biases: int | None

    def address(self, block: int) -> int:
        """DRAM address of a block's first weight row."""
        return self.weights + sum(self.sizes[:block])


class Constants(NamedTuple):
    """What a group of blocks needs beside its activations, loaded: buffer addresses.

    Attributes:
        weights: address of each block's weight rows; empty where parts of them come with each rectangle.
        records, biases: index of channel 0's record, were it loaded, for POST and for COMPUTE (None: no biases).
        table: slot of the activation table.
    """

    weights: dict[int, int]
    records: int
    biases: int | None
    table: int


class MacLayer(CutLayer):
    """One convolution or linear layer, cut to the machine's memories.

    Attributes:
        parts: of K; where there are several, each is loaded anew for each rectangle.

    Raises:
        InputError: the layer cannot be cut small enough for a buffer; it names buffer, need and remedy.
    """

    def __init__(self, emitter: Emitter, operation: Operation):
        head = operation.head
        assert isinstance(head, Mac)
        super().__init__(emitter, operation)
        self.mac = head
        self.packed = _pack(emitter, head)
        self.parts = _parts(self)
        self.sliced = isinstance(head, Conv2d) and head.is_depthwise
        self.blocks = len(self.packed.blocks)
        self._slot: int | None = None

    def groups(self, most: int) -> list[Group]:
        """Consecutive blocks, at most so many, whose weights and records come together."""
        return _groups(self, most)

    def channels(self, group: Group) -> tuple[int, int]:
        """First result channel of a group, and how many there are."""
        first, last = self.packed.blocks[group[0]], self.packed.blocks[group[-1]]
        return first.first, last.first + last.lanes - first.first

    def needs(self, rectangle: Rectangle) -> tuple[Rectangle, ...]:
        """The part of each operand that a rectangle of results needs."""
        source = self.emitter.graph.by_name[self.mac.inputs[0]].output
        return (input_part(self.mac, source, rectangle, self.operation.pool),)

    def constant_bytes(self, group: Group) -> list[int]:
        """Bytes of each LOAD of a group's constants."""
        _, count = self.channels(group)
        sizes = [count * RECORD_BYTES] * (1 if self.packed.biases is None else 2)
        if len(self.parts) == 1:
            sizes.append(sum(self.packed.sizes[index] for index in group))
        return sizes

    def load(self, group: Group) -> Constants:
        """LOAD a group's constants in the order they are needed: COMPUTE's weights and biases, then what POST takes."""
        emitter, packed, label = self.emitter, self.packed, self.operation.label
        begin, count = self.channels(group)
        weights = _load_blocks(self, group) if len(self.parts) == 1 else {}
        biases = None
        if packed.biases is not None:
            biases = emitter.load_records(label, packed.biases + begin * RECORD_BYTES, count) - begin
        records = emitter.load_records(label, packed.records + begin * RECORD_BYTES, count) - begin
        if self.operation.table is not None and self._slot is None:
            self._slot = emitter.load_table(label, self.operation.table)
        return Constants(weights, records, biases, self._slot or 0)

    def rectangles(self, band: Rectangle) -> Iterator[Rectangle]:
        """A band of results cut to half the accumulator memory."""
        pool = self.operation.pool
        window, stride = (pool.kernel, pool.stride) if pool else ((1, 1), (1, 1))
        return rectangles(band, window, stride, self.emitter.half)

    def emit(
        self, group: Group, constants: Constants, band: Rectangle, sources: list[Place], result: Place, first_image: int
    ) -> None:
        """Emit a band of a group's channels; image 0 of the places is image `first_image` of the batch."""
        emitter, packed = self.emitter, self.packed
        for index in group:
            block = packed.blocks[index]
            for rectangle in self.rectangles(band):
                half = emitter.accumulator_half()
                for number, part in enumerate(self.parts):
                    weights = constants.weights[index] if len(self.parts) == 1 else _load_part(self, index, part)
                    start = Start.ACCUMULATE if number else Start.ZERO if constants.biases is None else Start.BIAS
                    param = (
                        constants.biases + block.first if constants.biases is not None and start == Start.BIAS else 0
                    )
                    emitter.instructions.append(
                        _compute(
                            self, block, rectangle, part, sources[0],
                            weight_base=weights,
                            acc_base=half,
                            start=start,
                            param=param,
                            last=int(number == len(self.parts) - 1),
                        )
                    )  # fmt: skip
                _post(
                    self, block, rectangle, result, first_image, half, constants.records + block.first, constants.table
                )


def _pack(emitter: Emitter, mac: Mac) -> Packed:
    """Put the layer's weights and records into the DRAM image, once whatever the number of image groups."""
    array = emitter.hardware.array
    blocks = blocks_of(mac, array.rows, array.columns)
    rows = [pack_rows(_weight_rows(mac, block), mac.weight_bits) for block in blocks]
    how = mac.multiplier
    in_ppu = emitter.graph.bias_at == "ppu"
    records = pack_records(mac.bias if in_ppu else np.zeros_like(mac.bias), how.m0, how.shift)
    biases = None
    if not in_ppu:
        nothing = np.zeros_like(mac.bias)
        biases = emitter.constant(f"biases {mac.name}", pack_records(mac.bias, nothing, nothing))
    return Packed(
        runs=runs_of(mac),
        blocks=blocks,
        weights=emitter.constant(f"weights {mac.name}", np.concatenate([block.ravel() for block in rows])),
        row_bytes=[block.shape[1] for block in rows],
        sizes=[block.size for block in rows],
        records=emitter.constant(f"records {mac.name}", records),
        biases=biases,
    )


def _weight_rows(mac: Mac, block: Block) -> Int64:
    """(K, lanes) in (r, s, c) order; (taps, lanes) for a diagonal block."""
    chosen = mac.weight[block.first : block.first + block.lanes]
    return np.ascontiguousarray(chosen.reshape(block.lanes, -1).T)


def _parts(job: MacLayer) -> list[Part]:
    """Parts of K whose weights fit half the weight buffer, for the widest block."""
    packed, hardware = job.packed, job.emitter.hardware
    widest = max(packed.row_bytes)
    room = hardware.weight.memory_bytes // 2
    if isinstance(job.mac, Conv2d) and job.mac.is_depthwise:
        taps = packed.runs.r_count * packed.runs.s_count
        if taps * widest > room:
            raise tiles_do_not_fit(job.mac.name, hardware, 2 * taps * widest)
        return [Part(0, packed.runs.r_count, 0, packed.runs.s_count, 0, 1, 0)]
    rows = hardware.array.rows
    parts = parts_of(packed.runs, rows, room // widest)
    if parts is None:
        raise tiles_do_not_fit(job.mac.name, hardware, 2 * min(rows, packed.runs.length) * widest)
    return parts


def tiles_do_not_fit(layer: str, hardware: Hardware, need: int) -> InputError:
    """The refusal of a layer of which two weight tiles exceed the weight buffer."""
    return InputError(
        f"layer {layer} does not fit: two of its smallest weight tiles need {need} bytes of the weight buffer, "
        f"{hardware.weight.memory_bytes} there; use weight.memory_bytes >= {need} or fewer array.rows"
    )


def records_do_not_fit(layer: str, hardware: Hardware, lanes: int, need: int) -> InputError:
    """The refusal of a layer of which two blocks' records exceed the parameter buffer."""
    return InputError(
        f"layer {layer} does not fit: {lanes} output channels at once need {need} bytes of the parameter buffer, "
        f"{hardware.parameter.memory_bytes} there; use parameter.memory_bytes >= {need}"
    )


def _groups(job: MacLayer, blocks: int) -> list[Group]:
    """Consecutive blocks whose weights (where whole blocks are loaded) and records come in one LOAD each."""
    whole = len(job.parts) == 1
    emitter, packed = job.emitter, job.packed
    room = emitter.hardware.weight.memory_bytes // 2
    most = emitter.most_records if packed.biases is None else emitter.most_records // 2
    groups: list[list[int]] = []
    size = lanes = 0
    for index, block in enumerate(packed.blocks):
        if block.lanes > most:
            need = 2 * RECORD_BYTES * block.lanes * (1 if packed.biases is None else 2)
            raise records_do_not_fit(job.mac.name, emitter.hardware, block.lanes, need)
        fits = (not whole or size + packed.sizes[index] <= room) and lanes + block.lanes <= most
        if not groups or not fits or len(groups[-1]) == blocks:
            groups.append([])
            size = lanes = 0
        groups[-1].append(index)
        size += packed.sizes[index]
        lanes += block.lanes
    return [tuple(group) for group in groups]


def _load_blocks(job: MacLayer, group: Group) -> dict[int, int]:
    """LOAD whole blocks; returns each one's address in the weight buffer."""
    packed = job.packed
    total = sum(packed.sizes[index] for index in group)
    base = job.emitter.weights.take(total)
    first = packed.address(group[0])
    job.emitter.load(job.operation.label, Memory.WEIGHT, first, base, total)
    return {index: base + packed.address(index) - first for index in group}


def _load_part(job: MacLayer, index: int, part: Part) -> int:
    """LOAD one part of one block; returns its address in the weight buffer."""
    packed = job.packed
    row = packed.row_bytes[index]
    base = job.emitter.weights.take(part.rows * row)
    address = packed.address(index) + part.first_k * row
    job.emitter.load(job.operation.label, Memory.WEIGHT, address, base, part.rows * row)
    return base


def _compute(
    job: MacLayer,
    block: Block,
    rectangle: Rectangle,
    part: Part,
    source: Place,
    *,
    weight_base: int,
    acc_base: int,
    start: Start,
    param: int,
    last: int,
) -> Compute:
    mac, hardware = job.mac, job.emitter.hardware
    tensor = source.tensor
    y, y_count, x, x_count = source_extent(rectangle, job.operation.pool)
    depthwise = isinstance(mac, Conv2d) and mac.is_depthwise
    width = hardware.accumulator.width_bits if mac.accumulator_width_bits is None else mac.accumulator_width_bits
    common = {
        "label": job.operation.label,
        "start": start,
        "param": param,
        "last": last,
        "diagonal": int(depthwise),
        "serial": int(hardware.array.serial_tiles),
        "output_stationary": int(hardware.array.dataflow == "os" and not depthwise),
        "act_unsigned": job.emitter.unsigned,
        "z_x": tensor.zero_point,
        "z_w": mac.weight_zero_point,
        "weight_base": weight_base,
        "activation_bits": counted_bits(job.emitter.graph, mac.inputs[0]),
        "weight_bits": mac.weight_bits,
        "width": width,
        "acc_base": acc_base,
        "lanes": block.lanes,
        "run_bytes": block.lanes if depthwise else part.length,
        "r_count": part.r_count,
        "s_count": part.s_count,
        "images": rectangle.images,
        "image_step": source.image,
    }
    if not isinstance(mac, Conv2d):
        return Compute(
            **common,
            act_base=source.at(rectangle.image, 0, 0, 0) + part.offset,
            in_row_bytes=tensor.size,
            x_first=part.offset,
        )
    stride_y, stride_x = mac.stride
    dilation_y, dilation_x = mac.dilation
    top, _, left, _ = mac.padding
    first_row = y * stride_y - top + part.r * dilation_y
    first_column = x * stride_x - left + part.s * dilation_x
    lane0 = block.source + part.offset
    return Compute(
        **common,
        act_base=source.at(rectangle.image, first_row, first_column, lane0),
        x_count=x_count,
        y_count=y_count,
        x_step=stride_x * source.channels,
        y_step=stride_y * source.row,
        s_step=dilation_x * source.channels,
        r_step=dilation_y * source.row,
        stride_y=stride_y,
        dilation_y=dilation_y,
        in_row_bytes=source.row,
        in_height=source.part.y_count,
        x_first=(first_column - source.part.x) * source.channels + lane0 - source.channel,
        y_first=first_row - source.part.y,
    )


def _post(
    job: MacLayer,
    block: Block,
    rectangle: Rectangle,
    result: Place,
    first_image: int,
    acc_base: int,
    param: int,
    table: int,
) -> None:
    """POST one rectangle of sums into the result tensor."""
    emitter, pool = job.emitter, job.operation.pool
    _, y_count, _, x_count = source_extent(rectangle, pool)
    stride_y, stride_x = pool.stride if pool else (1, 1)
    kernel_h, kernel_w = pool.kernel if pool else (1, 1)
    low, high = job.mac.clip
    emitter.pieces.append(
        Piece(
            instruction=len(emitter.instructions),
            node=job.operation.result.name,
            image=first_image + rectangle.image,
            images=rectangle.images,
            y=rectangle.y,
            y_count=rectangle.y_count,
            x=rectangle.x,
            x_count=rectangle.x_count,
            channel=block.first,
            lanes=block.lanes,
        )
    )
    emitter.instructions.append(
        Post(
            label=job.operation.label,
            source=Source.ACCUMULATOR,
            reduce=Reduce.MAX if pool else Reduce.NONE,
            table_on=int(job.operation.table is not None),
            table=table,
            act_unsigned=emitter.unsigned,
            lanes=block.lanes,
            src_base=acc_base,
            dst_base=result.at(rectangle.image, rectangle.y, rectangle.x, block.first),
            z_dst=job.mac.output.zero_point,
            param=param,
            images=rectangle.images,
            x_count=rectangle.x_count,
            y_count=rectangle.y_count,
            r_count=kernel_h,
            s_count=kernel_w,
            src_image_step=y_count * x_count,
            src_y_step=stride_y * x_count,
            src_x_step=stride_x,
            r_step=x_count,
            s_step=1,
            qmin=low,
            qmax=high,
            dst_x_step=result.channels,
            dst_y_step=result.row,
            dst_image_step=result.image,
        )
    )


def counted_bits(graph: IntegerGraph, source: str) -> int:
    """Bits of the codes that are read, where their tensor's limits need fewer than the container has, else 0."""
    low, high = graph.limits_of(source)
    bits = max(1, high.bit_length()) if low >= 0 else bits_for(low, high)
    return bits if bits < graph.activation.bits else 0
