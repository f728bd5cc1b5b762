"""Bytes of DRAM: packed weight rows and parameter records."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.config import RECORD_BYTES

Bytes = npt.NDArray[np.uint8]


def pack_rows(values: npt.NDArray[np.integer], bits: int) -> Bytes:
    """Pack integers of `bits` bits, LSB first, each row padded to whole bytes.

    Args:
        values: (rows, lanes), low `bits` bits are kept (two's complement).
        bits: 2..8.
    Returns:
        uint8 (rows, ceil(lanes * bits / 8)).

    >>> pack_rows(np.array([[1, -1, 2]]), 4).tolist()  # nibbles 1, f, 2: first lane in the low nibble
    [[241, 2]]
    """
    rows, lanes = values.shape
    planes = (values[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(planes.reshape(rows, lanes * bits).astype(np.uint8), axis=1, bitorder="little")


def unpack_rows(packed: Bytes, lanes: int, bits: int, *, signed: bool) -> npt.NDArray[np.int64]:
    """Invert `pack_rows`: uint8 (rows, row_bytes) to int64 (rows, lanes)."""
    if bits == 8:
        taken = packed[:, :lanes]
        return (taken.view(np.int8) if signed else taken).astype(np.int64)
    planes = np.unpackbits(packed, axis=1, count=lanes * bits, bitorder="little")
    values = planes.reshape(packed.shape[0], lanes, bits).astype(np.int64) @ (1 << np.arange(bits))
    return values - ((values >> (bits - 1)) << bits) if signed else values


def pack_records(bias: npt.NDArray[np.int64], m0: npt.NDArray[np.int64], shift: npt.NDArray[np.int64]) -> Bytes:
    """Parameter records, 16 bytes each: bias int32, shift int8, three zero bytes, multiplier int64; little-endian.

    Returns:
        uint8 (channels, 16).
    """
    records = np.zeros((bias.shape[0], RECORD_BYTES), dtype=np.uint8)
    records[:, 0:4] = bias.astype("<i4").view(np.uint8).reshape(-1, 4)
    records[:, 4] = shift.astype(np.int8).view(np.uint8)
    records[:, 8:16] = m0.astype("<i8").view(np.uint8).reshape(-1, 8)
    return records


def unpack_records(records: Bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Invert `pack_records`: uint8 (channels, 16) to int64 bias, m0 and shift."""
    contiguous = np.ascontiguousarray(records)
    bias = contiguous[:, 0:4].copy().view("<i4")[:, 0].astype(np.int64)
    shift = contiguous[:, 4].copy().view(np.int8).astype(np.int64)
    m0 = contiguous[:, 8:16].copy().view("<i8")[:, 0].astype(np.int64)
    return bias, m0, shift
