"""COMPUTE: the values of a whole K loop, in the order the array adds them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.config import RECORD_BYTES, Hardware
from accelsim.isa import Compute, Modes, Start, unpack_records, unpack_rows, window_of
from accelsim.machine.memories import Memories
from accelsim.numerics import Arithmetic, PsumStatistics, accumulate, accumulate_lanes

Int64 = npt.NDArray[np.int64]


def execute(
    compute: Compute, memories: Memories, hardware: Hardware, modes: Modes, statistics: PsumStatistics | None
) -> None:
    """Sum into the accumulator memory, every operand taken from the buffers' bytes."""
    subtract = modes.zero_points == "subtracted"
    activations = _activations(compute, memories, subtract=subtract)
    weights = _weights(compute, memories)
    if subtract:
        weights = weights - compute.z_w
    words = slice(compute.acc_base, compute.acc_base + compute.words)
    arithmetic = _arithmetic(compute, hardware)
    total = (accumulate_lanes if compute.diagonal else accumulate)(
        activations,
        weights,
        _cuts(compute, hardware),
        arithmetic,
        start=_start(compute, memories, words),
        resumed=compute.start == Start.ACCUMULATE,
        final=bool(compute.last),
        statistics=statistics,
    )
    memories.accumulators[words, : compute.lanes] = total.astype(np.int64, copy=False)


def _arithmetic(compute: Compute, hardware: Hardware) -> Arithmetic:
    """The hardware's arithmetic at the instruction's run-time width and dataflow."""
    return Arithmetic(
        psum_bits=min(hardware.psum_bits, compute.width),
        width_bits=compute.width,
        overflow=hardware.accumulator.overflow,
        saturate_at=hardware.accumulator.saturate_at,
        rows=hardware.array.rows,
        dataflow="os" if compute.output_stationary else "ws",
    )


def _cuts(compute: Compute, hardware: Hardware) -> list[range]:
    """Chunks of this instruction's K: runs cut into words of R, or one sum where output-stationary."""
    taps = compute.r_count * compute.s_count
    if compute.diagonal:
        return [range(tap, tap + 1) for tap in range(taps)]
    run, rows = compute.run_bytes, hardware.array.rows
    if compute.output_stationary:
        return [range(taps * run)]
    return [
        range(tap * run + cut, tap * run + min(cut + rows, run)) for tap in range(taps) for cut in range(0, run, rows)
    ]


def _activations(compute: Compute, memories: Memories, *, subtract: bool) -> Int64:
    """(M, K) operands, K in (r, s, lane) order; (M, taps, lanes) for a diagonal tile."""
    addresses, inside = window_of(compute).lanes(compute.run_bytes)
    data = memories.activation if compute.act_unsigned else memories.activation.view(np.int8)
    operands = np.where(inside, data[addresses].astype(np.int64), compute.z_x)
    if subtract:
        operands -= compute.z_x  # so padding is 0
    return operands if compute.diagonal else operands.reshape(compute.words, -1)


def _weights(compute: Compute, memories: Memories) -> Int64:
    """(K, lanes); (taps, lanes) for a diagonal tile."""
    taps = compute.r_count * compute.s_count
    tall = taps if compute.diagonal else taps * compute.run_bytes
    size = compute.weight_row_bytes
    packed = memories.weight[compute.weight_base : compute.weight_base + tall * size].reshape(tall, size)
    return unpack_rows(packed, compute.lanes, compute.weight_bits, signed=not compute.weight_unsigned)


def _start(compute: Compute, memories: Memories, words: slice) -> Int64 | None:
    match Start(compute.start):
        case Start.ZERO:
            return None
        case Start.ACCUMULATE:
            return memories.accumulators[words, : compute.lanes].copy()
        case Start.BIAS:
            first = compute.param * RECORD_BYTES
            records = memories.parameter[first : first + compute.lanes * RECORD_BYTES].reshape(-1, RECORD_BYTES)
            return unpack_records(records)[0]
