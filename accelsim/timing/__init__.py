"""From an instruction to cycles and operation counts: pure functions, shared by compiler, machine and energy."""

from accelsim.timing.activity import pe_macs, row_macs
from accelsim.timing.additions import memory_cycle, product_cycle
from accelsim.timing.counts import FLOAT_OPS, OPS, Counts, OpKey, compute_counts, instruction_counts
from accelsim.timing.cycles import (
    D_ACC,
    D_POST,
    TIMING_VERSION,
    ArrayShape,
    ComputeState,
    ComputeTimes,
    compute_free,
    compute_times,
    post_cycles,
)
from accelsim.timing.dram import ChannelState, transfer_cycles, transfer_times
from accelsim.timing.longest_path import Schedule, longest_path

__all__ = [
    "D_ACC",
    "D_POST",
    "FLOAT_OPS",
    "OPS",
    "TIMING_VERSION",
    "ArrayShape",
    "ChannelState",
    "ComputeState",
    "ComputeTimes",
    "Counts",
    "OpKey",
    "Schedule",
    "compute_counts",
    "compute_free",
    "compute_times",
    "instruction_counts",
    "longest_path",
    "memory_cycle",
    "pe_macs",
    "post_cycles",
    "product_cycle",
    "row_macs",
    "transfer_cycles",
    "transfer_times",
]
