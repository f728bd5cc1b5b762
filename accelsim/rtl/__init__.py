"""Synthesizable SystemVerilog of the machine, and its simulation driver (docs/rtl.md)."""

from accelsim.rtl.build import (
    Build,
    Simulator,
    available,
    build,
    cache_folder,
    check_export,
    missing,
    require,
    sources,
    write_sources,
)
from accelsim.rtl.cosimulation import Cosimulation, Difference, compare, cosimulate
from accelsim.rtl.parameters import Parameters
from accelsim.rtl.simulation import COUNTERS, RtlRun, run_rtl
from accelsim.rtl.support import check_supported

__all__ = [
    "COUNTERS",
    "Build",
    "Cosimulation",
    "Difference",
    "Parameters",
    "RtlRun",
    "Simulator",
    "available",
    "build",
    "cache_folder",
    "check_export",
    "check_supported",
    "compare",
    "cosimulate",
    "missing",
    "require",
    "run_rtl",
    "sources",
    "write_sources",
]
