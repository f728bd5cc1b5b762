"""LOAD and STORE: strided copies between DRAM and a buffer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.isa import Load, Memory, Store
from accelsim.machine.memories import Memories


def execute(transfer: Load, memories: Memories) -> None:
    """Copy the transfer's rows, in order."""
    buffer = memories.buffer(Memory(transfer.memory))
    if isinstance(transfer, Store):
        _copy(
            memories.dram,
            transfer.dram_address,
            transfer.dram_step,
            buffer,
            transfer.buffer_address,
            transfer.buffer_step,
            transfer,
        )
    else:
        _copy(
            buffer,
            transfer.buffer_address,
            transfer.buffer_step,
            memories.dram,
            transfer.dram_address,
            transfer.dram_step,
            transfer,
        )


def _copy(
    to: npt.NDArray[np.uint8],
    to_base: int,
    to_step: int,
    source: npt.NDArray[np.uint8],
    base: int,
    step: int,
    transfer: Load,
) -> None:
    size = transfer.row_bytes
    for row in range(transfer.rows):
        a, b = to_base + row * to_step, base + row * step
        to[a : a + size] = source[b : b + size]
