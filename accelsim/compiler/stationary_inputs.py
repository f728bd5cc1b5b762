"""Input-stationary: a single matrix product with its operands swapped.

The array holds the inputs (K rows x a block of at most C vectors) and streams the weights (N words of K bytes) past
them; every sum has the products and chunks of weight-stationary, so the bits are the same. A vector is an image of a
linear layer, or a pixel of a 1x1 convolution over images of one row. Result words are output channels and their lanes
vectors, so POST takes one parameter record a word (`broadcast`) and the result is (N, vectors).
"""

from __future__ import annotations

import numpy as np

from accelsim.compiler.emission import Emitter
from accelsim.compiler.lowering import Operation
from accelsim.compiler.tiling import even_spans, parts_of, runs_of, spans
from accelsim.config import RECORD_BYTES
from accelsim.errors import InputError
from accelsim.ir import Conv2d, IntegerGraph, Linear
from accelsim.isa import Compute, Memory, Piece, Post, Source, Start, pack_records


def check_swappable(graph: IntegerGraph, operations: list[Operation]) -> Linear | Conv2d:
    """Return the graph's only layer, a matrix product that can run with swapped operands, or refuse in one line."""
    head = operations[0].head
    product = isinstance(head, Linear) or (isinstance(head, Conv2d) and _is_product_of_a_row(graph, head))
    if len(operations) != 1 or not product or len(operations[0].nodes) > 1:
        raise InputError(
            f"{graph.name}: array.dataflow = 'is' runs a single linear layer, or a 1x1 convolution over one row, "
            "without a table, because it takes its inputs from DRAM in columns; this graph has "
            f"{len(operations)} layer{'s' if len(operations) > 1 else ''}, the first a {head.op}; use 'ws' or 'os'"
        )
    assert isinstance(head, Linear | Conv2d)
    if graph.bias_at == "accumulator":
        raise InputError(
            f"{graph.name}: array.dataflow = 'is' needs bias_at = 'ppu', because its lanes are images; set it"
        )
    return head


def _is_product_of_a_row(graph: IntegerGraph, layer: Conv2d) -> bool:
    """Whether each pixel of the one row gives one pixel."""
    one_row = graph.by_name[layer.inputs[0]].output.height == 1
    return one_row and layer.kernel == (1, 1) and layer.stride[1] == 1 and layer.groups == 1 and not any(layer.padding)


def emit_stationary_inputs(
    emitter: Emitter, operation: Operation, batch: int, input_address: int, output_address: int
) -> int:
    """Emit the whole program of one matrix product; returns the block size of the input's columns."""
    graph, hardware = emitter.graph, emitter.hardware
    layer = operation.head
    assert isinstance(layer, Linear | Conv2d)
    source = graph.input.output
    rows, columns = hardware.array.rows, hardware.array.columns
    channels = layer.out_channels
    inner = layer.weight.size // channels
    # Vectors are the images of a linear layer, or the pixels of each image.
    images, vectors = (1, batch) if isinstance(layer, Linear) else (batch, source.width)
    total = images * vectors
    label = operation.label
    weight_bytes = (layer.weight & 0xFF).astype(np.uint8)
    room = hardware.weight.memory_bytes // 2
    block = min(columns, vectors)
    parts = parts_of(runs_of(layer), rows, room // block)
    if parts is None:
        need = 2 * min(rows, inner) * block
        raise InputError(
            f"layer {layer.name} does not fit: two tiles of its inputs need {need} bytes of the weight buffer, "
            f"{hardware.weight.memory_bytes} there; use weight.memory_bytes >= {need}"
        )
    # Words are output channels: as many as accumulators, records and the activation buffer hold at once.
    capacity = hardware.activation.memory_bytes
    most = min(emitter.half, emitter.most_records, capacity // (inner + total), 65535)
    if most < 1:
        raise InputError(
            f"layer {layer.name} does not fit: one weight row and its results need {inner + total} bytes of the "
            f"activation buffer, {capacity} there; use activation.memory_bytes >= {inner + total}"
        )
    weights = emitter.constant(f"weights {layer.name}", weight_bytes)
    zero_x, zero_w = source.zero_point, layer.weight_zero_point
    how = layer.multiplier
    records = emitter.constant(f"records {layer.name}", pack_records(layer.bias, how.m0, how.shift))
    width = layer.accumulator_width_bits or hardware.accumulator.width_bits
    low, high = layer.clip
    for n, words in even_spans(channels, most):
        emitter.load(label, Memory.ACTIVATION, weights + n * inner, 0, words * inner)
        first_record = emitter.load_records(label, records + n * RECORD_BYTES, words)
        result = words * inner
        for image, first, lanes in ((i, v, n) for i in range(images) for v, n in spans(vectors, block)):
            vector = image * vectors + first
            half = emitter.accumulator_half()
            for number, part in enumerate(parts):
                base = emitter.weights.take(part.rows * lanes)
                emitter.load(
                    label, Memory.WEIGHT, input_address + vector * inner + part.first_k * lanes, base, part.rows * lanes
                )
                emitter.instructions.append(
                    Compute(
                        label=label,
                        start=Start.ACCUMULATE if number else Start.ZERO,
                        serial=int(hardware.array.serial_tiles),
                        last=int(number == len(parts) - 1),
                        weight_unsigned=emitter.unsigned,
                        # Weights stream and inputs stay, so their zero points change places too. Folded, the bias
                        # already holds Z_x's part, and there is no padding that could feed it.
                        z_x=zero_w if graph.zero_points == "subtracted" else 0,
                        z_w=zero_x if graph.zero_points == "subtracted" else 0,
                        act_base=part.offset,
                        weight_base=base,
                        width=width,
                        acc_base=half,
                        lanes=lanes,
                        run_bytes=part.length,
                        x_count=words,
                        x_step=inner,
                        weight_bits=8,
                        in_row_bytes=words * inner,
                        x_first=part.offset,
                        in_height=1,
                    )
                )
            emitter.pieces.append(
                Piece(
                    instruction=len(emitter.instructions),
                    node=operation.result.name,
                    image=first if isinstance(layer, Linear) else image,
                    images=lanes if isinstance(layer, Linear) else 1,
                    y=0,
                    y_count=1,
                    x=0 if isinstance(layer, Linear) else first,
                    x_count=1 if isinstance(layer, Linear) else lanes,
                    channel=n,
                    lanes=words,
                )
            )
            emitter.instructions.append(
                Post(
                    label=label,
                    source=Source.ACCUMULATOR,
                    broadcast=1,
                    act_unsigned=emitter.unsigned,
                    lanes=lanes,
                    src_base=half,
                    src_x_step=1,
                    dst_base=result + vector,
                    dst_x_step=total,
                    z_dst=layer.output.zero_point,
                    param=first_record,
                    x_count=words,
                    qmin=low,
                    qmax=high,
                )
            )
        emitter.store(label, result, output_address + n * total, words * total)
    return block
