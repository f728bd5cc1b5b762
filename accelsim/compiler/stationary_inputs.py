"""Input-stationary: a single linear layer with its operands swapped.

The array holds the inputs (K rows x a block of at most C images) and streams the weights (N words of K bytes) past
them; every sum has the products and chunks of weight-stationary, so the bits are the same. Result words are output
channels and their lanes images, so POST takes one parameter record a word (`broadcast`) and the result is (N, batch).
"""

from __future__ import annotations

import numpy as np

from accelsim.compiler.emission import Emitter
from accelsim.compiler.lowering import Operation
from accelsim.compiler.tiling import even_spans, parts_of, runs_of, spans
from accelsim.config import RECORD_BYTES
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, Linear
from accelsim.isa import Compute, Memory, Piece, Post, Source, Start, pack_records


def check_swappable(graph: IntegerGraph, operations: list[Operation]) -> Linear:
    """Return the graph's only layer, a linear one that can run with swapped operands, or refuse in one line."""
    head = operations[0].head
    if len(operations) != 1 or not isinstance(head, Linear) or operations[0].table is not None:
        raise InputError(
            f"{graph.name}: array.dataflow = 'is' runs a single linear layer without a table, because it takes its "
            f"inputs from DRAM in columns; this graph has {len(operations)} layers, the first a {head.op}; "
            "use 'ws' or 'os'"
        )
    if graph.bias_at == "accumulator":
        raise InputError(
            f"{graph.name}: array.dataflow = 'is' needs bias_at = 'ppu', because its lanes are images; set it"
        )
    return head


def emit_stationary_inputs(
    emitter: Emitter, operation: Operation, batch: int, input_address: int, output_address: int
) -> int:
    """Emit the whole program of one linear layer; returns the block size of the input's columns."""
    graph, hardware = emitter.graph, emitter.hardware
    layer = operation.head
    assert isinstance(layer, Linear)
    source = graph.input.output
    rows, columns = hardware.array.rows, hardware.array.columns
    channels, inner = layer.weight.shape
    label = operation.label
    weight_bytes = (layer.weight & 0xFF).astype(np.uint8)
    room = hardware.weight.memory_bytes // 2
    block = min(columns, batch)
    parts = parts_of(runs_of(layer), rows, room // block)
    if parts is None:
        need = 2 * min(rows, inner) * block
        raise InputError(
            f"layer {layer.name} does not fit: two tiles of its inputs need {need} bytes of the weight buffer, "
            f"{hardware.weight.memory_bytes} there; use weight.memory_bytes >= {need}"
        )
    # Words are output channels: as many as accumulators, records and the activation buffer hold at once.
    capacity = hardware.activation.memory_bytes
    most = min(emitter.half, emitter.most_records, capacity // (inner + batch), 65535)
    if most < 1:
        raise InputError(
            f"layer {layer.name} does not fit: one weight row and its results need {inner + batch} bytes of the "
            f"activation buffer, {capacity} there; use activation.memory_bytes >= {inner + batch}"
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
        for image, lanes in spans(batch, block):
            half = emitter.accumulator_half()
            for number, part in enumerate(parts):
                base = emitter.weights.take(part.rows * lanes)
                emitter.load(
                    label, Memory.WEIGHT, input_address + image * inner + part.first_k * lanes, base, part.rows * lanes
                )
                emitter.instructions.append(
                    Compute(
                        label=label,
                        start=Start.ACCUMULATE if number else Start.ZERO,
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
                    image=image,
                    images=lanes,
                    y=0,
                    y_count=1,
                    x=0,
                    x_count=1,
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
                    dst_base=result + image,
                    dst_x_step=batch,
                    z_dst=layer.output.zero_point,
                    param=first_record,
                    x_count=words,
                    qmin=low,
                    qmax=high,
                )
            )
        emitter.store(label, result, output_address + n * batch, words * batch)
    return block
