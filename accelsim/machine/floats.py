"""COMPUTE and POST of an array of floats (docs/microarchitecture.md, section 10).

Products and sums are float32, each rounded to nearest, ties to even, in the order in which the array adds. The
accumulator memory holds the bits of a float32; buffers hold its four bytes, little-endian.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware
from accelsim.isa import Compute, Post, Start, accumulator_words, destination_offsets, window_of
from accelsim.machine.memories import Memories

Float32 = npt.NDArray[np.float32]


def compute(compute: Compute, memories: Memories, hardware: Hardware) -> None:
    """Sum into the accumulator memory, one product after the other."""
    activations, weights = _activations(compute, memories), _weights(compute, memories, hardware)
    words = slice(compute.acc_base, compute.acc_base + compute.words)
    total: Float32 = np.zeros((compute.words, compute.lanes), dtype=np.float32)
    if compute.start == Start.ACCUMULATE:
        total = _floats(memories.accumulators[words, : compute.lanes])
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN go on, as in the hardware
        if compute.output_stationary:
            total = _chain(total, activations, weights)
        else:
            run, rows = compute.run_bytes, hardware.array.rows
            for start in range(0, activations.shape[1], run):
                for cut in range(start, start + run, rows):
                    part = slice(cut, min(cut + rows, start + run))
                    zero = np.zeros_like(total)
                    total = total + _chain(zero, activations[:, part], weights[part])
    memories.accumulators[words, : compute.lanes] = _bits(total)


def post(post: Post, memories: Memories) -> npt.NDArray[np.int64]:
    """Write the words as they are; returns the bits of each, int64 (words, lanes)."""
    bits = memories.accumulators[accumulator_words(post)][:, 0, : post.lanes]
    elements = (post.dst_base + destination_offsets(post))[:, None] + np.arange(post.lanes)
    places = 4 * elements[:, :, None] + np.arange(4)
    memories.activation[places] = bits.astype("<u4")[:, :, None].view(np.uint8)
    return bits


def _chain(total: Float32, activations: Float32, weights: Float32) -> Float32:
    """total + a_0 w_0 + a_1 w_1 + ...: each product and each sum rounded once."""
    for k in range(activations.shape[1]):
        product = activations[:, k, None] * weights[k]
        total = total + product
    return total


def _activations(compute: Compute, memories: Memories) -> Float32:
    """(M, K), K in (r, s, lane) order; 0 where padding."""
    addresses, inside = window_of(compute).lanes(compute.run_bytes)
    data = np.ascontiguousarray(memories.activation[4 * addresses[..., None] + np.arange(4)]).view("<f4")[..., 0]
    return np.where(inside, data, np.float32(0)).astype(np.float32).reshape(compute.words, -1)


def _weights(compute: Compute, memories: Memories, hardware: Hardware) -> Float32:
    """(K, lanes); an int8 weight is the same number in float32."""
    size = hardware.element_bytes.weight
    tall = compute.r_count * compute.s_count * compute.run_bytes
    data = memories.weight[compute.weight_base :][: tall * compute.lanes * size].copy()
    return data.view("<f4" if size == 4 else np.int8).astype(np.float32).reshape(tall, compute.lanes)


def _floats(bits: npt.NDArray[np.int64]) -> Float32:
    return np.ascontiguousarray(bits).astype(np.uint32).view(np.float32)


def _bits(values: Float32) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(values).view(np.uint32).astype(np.int64)
