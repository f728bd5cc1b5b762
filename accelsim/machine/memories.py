"""The memories and what is in them. Timing is elsewhere: each client has a port of its own and never waits.

Addresses were checked when the program was loaded (`isa.check_program`), so accesses here index directly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware
from accelsim.isa import Memory


class Memories:
    """Buffers and DRAM image, as bytes; the accumulator memory as fitted integers.

    Attributes:
        activation, weight, parameter, table: uint8, `memory_bytes` each.
        accumulators: int64 (depth, C).
        dram: uint8; this machine's own copy of the program's image.
    """

    def __init__(self, hardware: Hardware, dram: npt.NDArray[np.uint8]):
        self.activation = np.zeros(hardware.activation.memory_bytes, dtype=np.uint8)
        self.weight = np.zeros(hardware.weight.memory_bytes, dtype=np.uint8)
        self.parameter = np.zeros(hardware.parameter.memory_bytes, dtype=np.uint8)
        self.table = np.zeros(hardware.table.memory_bytes, dtype=np.uint8)
        self.accumulators = np.zeros((hardware.accumulator_depth, hardware.array.columns), dtype=np.int64)
        self.dram = dram.copy()

    def buffer(self, memory: Memory) -> npt.NDArray[np.uint8]:
        """The buffer a LOAD names."""
        match memory:
            case Memory.ACTIVATION:
                return self.activation
            case Memory.WEIGHT:
                return self.weight
            case Memory.PARAMETER:
                return self.parameter
            case Memory.TABLE:
                return self.table
