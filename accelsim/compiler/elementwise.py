"""Layers without products: pools, additions, clips and tables, each a POST from the activation buffer."""

from __future__ import annotations

import numpy as np

from accelsim.compiler.emission import MAX_IMAGES, Emitter, Place
from accelsim.compiler.lowering import Operation
from accelsim.compiler.tiling import spans
from accelsim.config import RECORD_BYTES
from accelsim.errors import InputError
from accelsim.ir import Add, AvgPool2d, Clip, MaxPool2d, Table
from accelsim.isa import Piece, Post, Reduce, Source, pack_records


def emit_elementwise(
    emitter: Emitter, operation: Operation, sources: list[Place], result: Place, images: int, first_image: int
) -> None:
    """Emit one layer for `images` images in the buffer, the first being image `first_image` of the batch."""
    head = operation.head
    source, tensor = sources[0], result.tensor
    table = head if isinstance(head, Table) else operation.table
    slot = emitter.load_table(operation.label, table) if table else 0
    record = _load_records(emitter, operation)
    kernel, stride, padding = (1, 1), (1, 1), (0, 0, 0, 0)
    if isinstance(head, MaxPool2d | AvgPool2d):
        kernel, stride, padding = head.kernel, head.stride, head.padding
    reduce = {MaxPool2d: Reduce.MAX, AvgPool2d: Reduce.SUM}.get(type(head), Reduce.NONE)
    # A table keeps no zero point of its own: the value that indexes it is the source's code.
    zero_point = source.tensor.zero_point if isinstance(head, Table) else head.output.zero_point
    low, high = head.clip if isinstance(head, Add | Clip) else source.tensor.limits_in(emitter.graph.activation)
    top, _, left, _ = padding
    channels = source.tensor.channels
    for image, count in spans(images, MAX_IMAGES):
        for channel, lanes in spans(channels, emitter.hardware.array.columns):
            emitter.pieces.append(
                Piece(
                    instruction=len(emitter.instructions),
                    node=operation.result.name,
                    image=first_image + image,
                    images=count,
                    y=0,
                    y_count=tensor.height,
                    x=0,
                    x_count=tensor.width,
                    channel=channel,
                    lanes=lanes,
                )
            )
            emitter.instructions.append(
                Post(
                    label=operation.label,
                    source=Source.ACTIVATION,
                    reduce=reduce,
                    table_on=int(table is not None),
                    table=slot,
                    residual_on=int(isinstance(head, Add)),
                    act_unsigned=emitter.unsigned,
                    count_padding=int(isinstance(head, AvgPool2d) and head.count_include_pad),
                    lanes=lanes,
                    src_base=source.at(image, -top, -left, channel),
                    z_src=source.tensor.zero_point,
                    dst_base=result.at(image, 0, 0, channel),
                    z_dst=zero_point,
                    residual_base=sources[1].at(image, 0, 0, channel) if isinstance(head, Add) else 0,
                    z_residual=sources[1].tensor.zero_point if isinstance(head, Add) else 0,
                    param=record[lanes],
                    images=count,
                    x_count=tensor.width,
                    y_count=tensor.height,
                    r_count=kernel[0],
                    s_count=kernel[1],
                    stride_y=stride[0],
                    src_image_step=source.tensor.size,
                    src_y_step=stride[0] * source.row,
                    src_x_step=stride[1] * channels,
                    r_step=source.row,
                    s_step=channels,
                    in_row_bytes=source.row,
                    in_height=source.tensor.height,
                    x_first=-left * channels + channel,
                    y_first=-top,
                    qmin=low,
                    qmax=high,
                    dst_x_step=tensor.channels,
                    dst_y_step=result.row,
                    dst_image_step=tensor.size,
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
