"""Products of two activation tensors: the second goes to DRAM and comes back as weights.

COMPUTE reads its stationary operand from the weight buffer alone, so the second operand is STOREd (where it is not in
DRAM already) and its rows are LOADed, image by image and head by head. Where K goes over tokens, a weight row is
consecutive in DRAM. Where K goes over channels, it is one byte of every token: the copy is STOREd transposed, by
transfers of one byte a row, which DRAM is slow at; and where the operand lives in DRAM as it is, such are the LOADs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from accelsim.compiler.cut_layer import CutLayer, Group
from accelsim.compiler.emission import Emitter, Place
from accelsim.compiler.lowering import Operation
from accelsim.compiler.macs import counted_bits, records_do_not_fit, tiles_do_not_fit
from accelsim.compiler.streaming import Home
from accelsim.compiler.tiling import Part, Rectangle, Runs, parts_of, rectangles, spans
from accelsim.config import RECORD_BYTES, TABLE_ENTRIES
from accelsim.ir import MatMul, products_of
from accelsim.isa import Compute, Load, Memory, Piece, Post, Source, Start, Store, pack_records

NOTHING = Rectangle(0, 0, 0, 0, 0, 0)


class Columns(NamedTuple):
    """Result channels of one head that one COMPUTE forms: channels first..first + lanes - 1 of the head."""

    head: int
    first: int
    lanes: int


class Constants(NamedTuple):
    """What a group of blocks needs beside its operands: the index of lane 0's record, and the table's slot."""

    records: int
    table: int


class MatMulLayer(CutLayer):
    """One product of two activation tensors, cut to the machine's memories.

    Attributes:
        parts: of K; where there are several, each is loaded anew for each rectangle.

    Raises:
        InputError: the layer cannot be cut small enough for a buffer; it names buffer, need and remedy.
    """

    sliced = False

    def __init__(self, emitter: Emitter, operation: Operation):
        head = operation.head
        assert isinstance(head, MatMul)
        graph, hardware = emitter.graph, emitter.hardware
        super().__init__(emitter, operation)
        self.matmul = head
        self.first, self.second = (graph.by_name[name].output for name in head.inputs)
        self.depth = products_of(graph, head)
        self.width = head.output.channels // head.heads
        self.columns = [
            Columns(number, first, lanes)
            for number in range(head.heads)
            for first, lanes in spans(self.width, hardware.array.columns)
        ]
        self.blocks = len(self.columns)
        self.widest = max(block.lanes for block in self.columns)
        parts = parts_of(Runs(1, 1, self.depth), hardware.array.rows, hardware.weight.memory_bytes // 2 // self.widest)
        if parts is None:
            need = 2 * min(hardware.array.rows, self.depth) * self.widest
            raise tiles_do_not_fit(head.name, hardware, need)
        self.parts = parts
        if self.widest > emitter.most_records:
            raise records_do_not_fit(head.name, hardware, self.widest, 2 * RECORD_BYTES * self.widest)
        self._base = 0  # of the second operand in DRAM
        self._scratch: int | None = None
        self._transposed = False

    def channels(self, group: Group) -> tuple[int, int]:
        """First result channel of a group, and how many there are."""
        first, last = self.columns[group[0]], self.columns[group[-1]]
        begin = first.head * self.width + first.first
        return begin, last.head * self.width + last.first + last.lanes - begin

    def needs(self, rectangle: Rectangle) -> tuple[Rectangle, ...]:
        """Of the first operand what the results are of; nothing of the second, which comes as weights."""
        return rectangle, NOTHING

    def store_second(self, home: Home, images: int) -> None:
        """Have the second operand of a group of images in DRAM: where it lives, where the input is, or in a copy.

        A copy whose channels are the K of the product is stored transposed, (channel, token).

        Args:
            home: of the second operand.
            images: of the group, the first group having the most.
        """
        by_channel = self.matmul.second == "channels"
        self._base, self._transposed = home.dram, False
        if home.on_chip is None or (not by_channel and self.matmul.inputs[1] == self.emitter.graph.input.name):
            return
        size = self.second.size
        if self._scratch is None:
            self._scratch = self.emitter.dram.reserve(images * size)
        self._base, self._transposed = self._scratch, by_channel
        if not by_channel:
            self.emitter.store(self.operation.label, home.on_chip, self._base, images * size)
            return
        channels, tokens = self.second.channels, size // self.second.channels
        label = self.operation.label
        for image in range(images):
            dram, buffer = self._base + image * size, home.on_chip + image * size
            if tokens <= channels:  # a transfer for each token, or for each channel, whichever are fewer
                stores = [
                    Store(
                        label=label,
                        dram_address=dram + token,
                        buffer_address=buffer + token * channels,
                        row_bytes=1,
                        rows=channels,
                        dram_step=tokens,
                        buffer_step=1,
                    )
                    for token in range(tokens)
                ]
            else:
                stores = [
                    Store(
                        label=label,
                        dram_address=dram + channel * tokens,
                        buffer_address=buffer + channel,
                        row_bytes=1,
                        rows=tokens,
                        dram_step=1,
                        buffer_step=channels,
                    )
                    for channel in range(channels)
                ]
            self.emitter.instructions += stores

    def constant_bytes(self, group: Group) -> list[int]:
        """Bytes of the LOAD of records, and of the table's."""
        return [self.widest * RECORD_BYTES] + [TABLE_ENTRIES] * (self.operation.table is not None)

    def load(self, _: Group) -> Constants:
        """LOAD the table, if there is one, and the records: every lane of every block has the same."""
        emitter, label, how = self.emitter, self.operation.label, self.matmul.multiplier
        table = self.operation.table
        slot = emitter.load_table(label, table) if table else 0
        m0, shift = (np.repeat(array, self.widest) for array in (how.m0, how.shift))
        address = emitter.constant(f"scales of {self.matmul.name}", pack_records(np.zeros_like(m0), m0, shift))
        return Constants(emitter.load_records(label, address, self.widest), slot)

    def rectangles(self, band: Rectangle) -> Iterator[Rectangle]:
        """A band of results cut to images, whose second operands differ, and to half the accumulator memory."""
        for image in range(band.image, band.image + band.images):
            yield from rectangles(band._replace(image=image, images=1), (1, 1), (1, 1), self.emitter.half)

    def emit(
        self, group: Group, constants: Constants, band: Rectangle, sources: list[Place], result: Place, first_image: int
    ) -> None:
        """Emit a band of a group's channels; image 0 of the places is image `first_image` of the batch."""
        emitter = self.emitter
        last = len(self.parts) - 1
        for index in group:
            block = self.columns[index]
            loaded, weights = -1, 0
            for rectangle in self.rectangles(band):
                half = emitter.accumulator_half()
                for number, part in enumerate(self.parts):
                    if last or loaded != rectangle.image:  # whole K stays for all rectangles of an image
                        weights, loaded = self._load_weights(block, part, rectangle.image), rectangle.image
                    emitter.instructions.append(
                        self._compute(block, rectangle, part, sources[0], weights, half, number == last)
                    )
                self._post(block, rectangle, result, first_image, half, constants)

    def transfers(self, block: Columns, part: Part) -> list[Load]:
        """LOADs of a block's weight rows of one part, for image 0 and from address 0 of the weight buffer on."""
        channels = self.second.channels
        tokens, width = self.second.size // channels, channels // self.matmul.heads
        lanes, rows = block.lanes, part.length
        common = {"label": self.operation.label, "memory": Memory.WEIGHT}
        if self.matmul.second == "tokens" or self._transposed:
            step, row, column = channels, part.offset, block.head * width + block.first
            if self._transposed:
                step, row, column = tokens, block.head * width + part.offset, block.first
            at = row * step + column
            if lanes == step:
                return [Load(**common, dram_address=at, buffer_address=0, row_bytes=rows * lanes)]
            return [
                Load(
                    **common,
                    dram_address=at,
                    buffer_address=0,
                    row_bytes=lanes,
                    rows=rows,
                    dram_step=step,
                    buffer_step=lanes,
                )
            ]
        at = block.first * channels + block.head * width + part.offset
        if lanes <= rows:  # a transfer for each token: down one column of weights
            return [
                Load(
                    **common,
                    dram_address=at + lane * channels,
                    buffer_address=lane,
                    row_bytes=1,
                    rows=rows,
                    dram_step=1,
                    buffer_step=lanes,
                )
                for lane in range(lanes)
            ]
        return [
            Load(
                **common,
                dram_address=at + k,
                buffer_address=k * lanes,
                row_bytes=1,
                rows=lanes,
                dram_step=channels,
                buffer_step=1,
            )
            for k in range(rows)
        ]

    def _load_weights(self, block: Columns, part: Part, image: int) -> int:
        """LOAD the weight rows of one image; returns their address in the weight buffer."""
        base = self.emitter.weights.take(part.length * block.lanes)
        at = self._base + image * self.second.size
        for load in self.transfers(block, part):
            self.emitter.instructions.append(
                Load(
                    label=load.label,
                    memory=load.memory,
                    dram_address=at + load.dram_address,
                    buffer_address=base + load.buffer_address,
                    row_bytes=load.row_bytes,
                    rows=load.rows,
                    dram_step=load.dram_step,
                    buffer_step=load.buffer_step,
                )
            )
        return base

    def _compute(
        self, block: Columns, rectangle: Rectangle, part: Part, source: Place, weights: int, half: int, last: bool
    ) -> Compute:
        hardware, node = self.emitter.hardware, self.matmul
        width = node.accumulator_width_bits
        lane0 = block.head * self.depth + part.offset
        return Compute(
            label=self.operation.label,
            start=Start.ACCUMULATE if part.first_k else Start.ZERO,
            last=int(last),
            serial=int(hardware.array.serial_tiles),
            output_stationary=int(hardware.array.dataflow == "os"),
            act_unsigned=self.emitter.unsigned,
            weight_unsigned=self.emitter.unsigned,
            z_x=self.first.zero_point,
            z_w=self.second.zero_point,
            weight_base=weights,
            activation_bits=counted_bits(self.emitter.graph, node.inputs[0]),
            weight_bits=8,
            width=hardware.accumulator.width_bits if width is None else width,
            acc_base=half,
            lanes=block.lanes,
            run_bytes=part.length,
            act_base=source.at(rectangle.image, rectangle.y, rectangle.x, lane0),
            x_count=rectangle.x_count,
            y_count=rectangle.y_count,
            x_step=source.channels,
            y_step=source.row,
            image_step=source.image,
            in_row_bytes=source.row,
            in_height=source.part.y_count,
            x_first=(rectangle.x - source.part.x) * source.channels + lane0 - source.channel,
            y_first=rectangle.y - source.part.y,
        )

    def _post(
        self,
        block: Columns,
        rectangle: Rectangle,
        result: Place,
        first_image: int,
        half: int,
        constants: Constants,
    ) -> None:
        emitter, node = self.emitter, self.matmul
        channel = block.head * self.width + block.first
        emitter.pieces.append(
            Piece(
                instruction=len(emitter.instructions),
                node=self.operation.result.name,
                image=first_image + rectangle.image,
                images=rectangle.images,
                y=rectangle.y,
                y_count=rectangle.y_count,
                x=rectangle.x,
                x_count=rectangle.x_count,
                channel=channel,
                lanes=block.lanes,
            )
        )
        emitter.instructions.append(
            Post(
                label=self.operation.label,
                source=Source.ACCUMULATOR,
                table_on=int(self.operation.table is not None),
                table=constants.table,
                act_unsigned=emitter.unsigned,
                lanes=block.lanes,
                src_base=half,
                dst_base=result.at(rectangle.image, rectangle.y, rectangle.x, channel),
                z_dst=node.output.zero_point,
                param=constants.records,
                x_count=rectangle.x_count,
                y_count=rectangle.y_count,
                src_image_step=rectangle.y_count * rectangle.x_count,
                src_y_step=rectangle.x_count,
                src_x_step=1,
                qmin=node.clip[0],
                qmax=node.clip[1],
                dst_x_step=result.channels,
                dst_y_step=result.row,
                dst_image_step=result.image,
            )
        )
