"""POST: words -> window reduction -> bias -> requantise -> + residual -> + Z, clip -> table -> activation buffer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.config import RECORD_BYTES, TABLE_ENTRIES
from accelsim.errors import InputError
from accelsim.isa import (
    Modes,
    Post,
    Reduce,
    Source,
    accumulator_words,
    destination_offsets,
    unpack_records,
    window_of,
)
from accelsim.machine.memories import Memories
from accelsim.numerics import Requantization, divide_rounded, requantize, to_output

Int64 = npt.NDArray[np.int64]


def execute(post: Post, memories: Memories, modes: Modes) -> Int64:
    """Compute and write the output words; returns their codes, int64 (words, lanes).

    Raises:
        InputError: a record is none that the scheme can hold, or a value leaves what the scheme takes (int32 for
            tflite_double, the float's range).
    """
    try:
        return _execute(post, memories, modes)
    except OverflowError as error:
        raise InputError(f"POST to activation byte {post.dst_base}: {error}") from None


def _execute(post: Post, memories: Memories, modes: Modes) -> Int64:
    how = modes.requantization
    bias, m0, shift = _records(post, memories, post.param, how)
    if post.source == Source.ACCUMULATOR:
        taken = memories.accumulators[accumulator_words(post)][:, :, : post.lanes]
        reduced = taken.max(axis=1) if post.reduce == Reduce.MAX else taken[:, 0]
    else:
        reduced = _reduced_activations(post, memories, modes)
    scaled = requantize(reduced + bias, m0, shift, how)
    offsets = destination_offsets(post)
    if post.residual_on:
        _, m0, shift = _records(post, memories, post.param + post.lanes, how)
        other = _codes(memories.activation, post, (post.residual_base + offsets)[:, None] + np.arange(post.lanes))
        scaled = scaled + requantize(other - post.z_residual, m0, shift, how)
    codes = to_output(scaled, post.z_dst, (post.qmin, post.qmax), modes.activation, how.output_overflow)
    if post.table_on:
        codes = _codes(memories.table, post, post.table * TABLE_ENTRIES + codes - modes.activation.minimum)
    addresses = (post.dst_base + offsets)[:, None] + np.arange(post.lanes)
    memories.activation[addresses] = (codes & 0xFF).astype(np.uint8)
    return codes


def _records(post: Post, memories: Memories, first: int, how: Requantization) -> tuple[Int64, Int64, Int64]:
    """Bias, m0 and shift of each lane (lanes,), or with broadcast of each word (words, 1)."""
    count = post.words if post.broadcast else post.lanes
    data = memories.parameter[first * RECORD_BYTES : (first + count) * RECORD_BYTES].reshape(-1, RECORD_BYTES)
    fields = unpack_records(data)
    for m0, shift in {*zip(fields[1].tolist(), fields[2].tolist(), strict=True)}:
        reason = how.refuses(m0, shift)
        if reason:
            raise InputError(
                f"POST: a record of {first}..{first + count - 1} holds (m0, shift) = ({m0}, {shift}): {reason}"
            )
    return (fields[0][:, None], fields[1][:, None], fields[2][:, None]) if post.broadcast else fields


def _codes(memory: npt.NDArray[np.uint8], post: Post, addresses: Int64) -> Int64:
    data = memory if post.act_unsigned else memory.view(np.int8)
    return data[addresses].astype(np.int64)


def _reduced_activations(post: Post, memories: Memories, modes: Modes) -> Int64:
    """(words, lanes) of q - Z_src after the window; words outside the image take no part."""
    addresses, inside = window_of(post).lanes(post.lanes)
    values = _codes(memories.activation, post, addresses) - post.z_src
    if post.reduce == Reduce.MAX:
        return np.asarray(np.where(inside, values, -(1 << 16)).max(axis=1))
    total = np.where(inside, values, 0).sum(axis=1)
    if post.reduce == Reduce.NONE:
        return np.asarray(total)
    count = np.full_like(total, post.window) if post.count_padding else np.maximum(inside.sum(axis=1), 1)
    return np.asarray(divide_rounded(total, count, modes.requantization.pool_rounding))
