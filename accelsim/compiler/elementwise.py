"""Layers without products: pools, additions, clips and tables, each a POST from the activation buffer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accelsim.compiler.cut_layer import CutLayer, Group
from accelsim.compiler.emission import MAX_IMAGES, Emitter, Place
from accelsim.compiler.lowering import Operation
from accelsim.compiler.tiling import Rectangle, input_part, spans
from accelsim.config import RECORD_BYTES, TABLE_ENTRIES
from accelsim.errors import InputError
from accelsim.ir import Add, AvgPool2d, Clip, MaxPool2d, Table
from accelsim.isa import Piece, Post, Reduce, Source, pack_records


class Constants(NamedTuple):
    """Slot of the table, and the first record by number of lanes, both loaded."""

    table: int
    records: dict[int, int]


class ElementwiseLayer(CutLayer):
    """One pool, addition, clip or table: a POST for each block of channels, which reads its own channels alone."""

    sliced = True

    def __init__(self, emitter: Emitter, operation: Operation):
        super().__init__(emitter, operation)
        head = operation.head
        self._source = emitter.graph.by_name[head.inputs[0]].output
        self._spans = spans(self._source.channels, emitter.hardware.array.columns)
        self.blocks = len(self._spans)
        self._kernel, self._stride, self._padding = (1, 1), (1, 1), (0, 0, 0, 0)
        if isinstance(head, MaxPool2d | AvgPool2d):
            self._kernel, self._stride, self._padding = head.kernel, head.stride, head.padding

    @property
    def window(self) -> int:
        """Source words of one result word."""
        return self._kernel[0] * self._kernel[1]

    def channels(self, group: Group) -> tuple[int, int]:
        """First channel of a group, and how many there are."""
        (first, _), (last, lanes) = self._spans[group[0]], self._spans[group[-1]]
        return first, last + lanes - first

    def needs(self, rectangle: Rectangle) -> tuple[Rectangle, ...]:
        """The part of each operand that a rectangle of results needs."""
        head = self.operation.head
        return (input_part(head, self._source, rectangle),) * len(head.inputs)

    def constant_bytes(self, _: Group) -> list[int]:
        """Bytes of each LOAD of the layer's constants."""
        head = self.operation.head
        scales, lanes = (
            (2, sum({lanes for _, lanes in self._spans})) if isinstance(head, Add) else (1, self._spans[0][1])
        )
        records = [scales * lanes * RECORD_BYTES]
        return [TABLE_ENTRIES, *records] if isinstance(head, Table) or self.operation.table is not None else records

    def load(self, _: Group) -> Constants:
        """LOAD the table, if there is one, and the records."""
        head, label = self.operation.head, self.operation.label
        table = head if isinstance(head, Table) else self.operation.table
        slot = self.emitter.load_table(label, table) if table else 0
        return Constants(slot, _load_records(self.emitter, self.operation))

    def emit(
        self,
        group: Group,
        constants: Constants,
        band: Rectangle,
        sources: list[Place],
        result: Place,
        first_image: int,
    ) -> None:
        """Emit a band of a group's channels; image 0 of the places is image `first_image` of the batch."""
        emitter, head = self.emitter, self.operation.head
        source = sources[0]
        table = head if isinstance(head, Table) else self.operation.table
        reduce = {MaxPool2d: Reduce.MAX, AvgPool2d: Reduce.SUM}.get(type(head), Reduce.NONE)
        # A table keeps no zero point of its own: the value that indexes it is the source's code.
        zero_point = self._source.zero_point if isinstance(head, Table) else head.output.zero_point
        low, high = head.clip if isinstance(head, Add | Clip) else self._source.limits_in(emitter.graph.activation)
        row = band.y * self._stride[0] - self._padding[0]
        column = band.x * self._stride[1] - self._padding[2]
        for start, count in spans(band.images, MAX_IMAGES):
            image = band.image + start
            for channel, lanes in (self._spans[block] for block in group):
                emitter.pieces.append(
                    Piece(
                        instruction=len(emitter.instructions),
                        node=self.operation.result.name,
                        image=first_image + image,
                        images=count,
                        y=band.y,
                        y_count=band.y_count,
                        x=band.x,
                        x_count=band.x_count,
                        channel=channel,
                        lanes=lanes,
                    )
                )
                residual = sources[1].at(image, band.y, band.x, channel) if isinstance(head, Add) else 0
                emitter.instructions.append(
                    Post(
                        label=self.operation.label,
                        source=Source.ACTIVATION,
                        reduce=reduce,
                        table_on=int(table is not None),
                        table=constants.table,
                        residual_on=int(isinstance(head, Add)),
                        act_unsigned=emitter.unsigned,
                        count_padding=int(isinstance(head, AvgPool2d) and head.count_include_pad),
                        lanes=lanes,
                        src_base=source.at(image, row, column, channel),
                        z_src=self._source.zero_point,
                        dst_base=result.at(image, band.y, band.x, channel),
                        z_dst=zero_point,
                        residual_base=residual,
                        z_residual=sources[1].tensor.zero_point if isinstance(head, Add) else 0,
                        param=constants.records[lanes],
                        images=count,
                        x_count=band.x_count,
                        y_count=band.y_count,
                        r_count=self._kernel[0],
                        s_count=self._kernel[1],
                        stride_y=self._stride[0],
                        src_image_step=source.image,
                        src_y_step=self._stride[0] * source.row,
                        src_x_step=self._stride[1] * source.channels,
                        r_step=source.row,
                        s_step=source.channels,
                        in_row_bytes=source.row,
                        in_height=source.part.y_count,
                        x_first=(column - source.part.x) * source.channels + channel - source.channel,
                        y_first=row - source.part.y,
                        qmin=low,
                        qmax=high,
                        dst_x_step=result.channels,
                        dst_y_step=result.row,
                        dst_image_step=result.image,
                    )
                )


def _load_records(emitter: Emitter, operation: Operation) -> dict[int, int]:
    """LOAD the records of each number of lanes in use, in one transfer; returns the first record's index by lanes.

    The layer keeps its scale (M = 1), or, an addition, has one multiplier an input: all lanes' records are alike.
    """
    head = operation.head
    if isinstance(head, Add):
        scales = [(int(m.m0[0]), int(m.shift[0])) for m in head.multipliers]
    else:
        scales = [emitter.graph.requantization.identity()]
    uses = sorted({lanes for _, lanes in spans(head.output.channels, emitter.hardware.array.columns)})
    # One multiplier: fewer lanes use the first of the records that more lanes need.
    kept = uses if len(scales) == 2 else uses[-1:]
    m0, shift = (
        np.concatenate([np.repeat([scale[k] for scale in scales], lanes) for lanes in kept]).astype(np.int64)
        for k in range(2)
    )
    have, need = emitter.hardware.parameter.memory_bytes, RECORD_BYTES * m0.size
    if need > have:
        raise InputError(
            f"layer {head.name} does not fit: its scales need {need} bytes of the parameter buffer, {have} there; "
            f"use parameter.memory_bytes >= {need}"
        )
    address = emitter.constant(f"scales {scales} {kept}", pack_records(np.zeros_like(m0), m0, shift))
    first = emitter.load_records(operation.label, address, m0.size)
    if len(kept) == 1:
        return dict.fromkeys(uses, first)
    return {kept[0]: first, kept[1]: first + len(scales) * kept[0]}
