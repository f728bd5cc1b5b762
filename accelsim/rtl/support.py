"""What the RTL does not implement, by name: it is refused, never approximated."""

from __future__ import annotations

from accelsim.errors import InputError
from accelsim.isa import Program
from accelsim.numerics import Scheme

SCHEMES = (Scheme.FIXED_POINT, Scheme.POWER_OF_TWO)


def check_supported(program: Program) -> None:
    """Raise `InputError` for a program or machine that the RTL is not: nothing else is left out of it."""
    hardware, how = program.hardware, program.modes.requantization
    if hardware.accumulator.saturate_at != "every_add":
        raise InputError(
            f"program {program.name}: accumulator.saturate_at = 'end' needs exact sums, which no memory of the RTL "
            "holds; use 'every_add'"
        )
    if hardware.is_float:
        raise InputError(
            f"program {program.name}: array.arithmetic = {hardware.array.arithmetic!r} is not in the RTL, whose PEs "
            "multiply integers; use 'int8xint8'"
        )
    if hardware.dram.model != "simple":
        raise InputError(
            f"program {program.name}: dram.model = {hardware.dram.model!r} is not in the bench, whose DRAM answers "
            "after its latency; use 'simple'"
        )
    array = hardware.array
    if (array.mac_latency_cycles, array.mac_interval_cycles) != (1, 1):
        raise InputError(
            f"program {program.name}: array.mac_latency_cycles = {array.mac_latency_cycles} and "
            f"array.mac_interval_cycles = {array.mac_interval_cycles} are not in the RTL, whose PEs multiply and add "
            "in one cycle; use 1 and 1"
        )
    if how.scheme not in SCHEMES:
        known = ", ".join(scheme.value for scheme in SCHEMES)
        raise InputError(
            f"program {program.name}: requantization.scheme = {how.scheme.value!r} is not in the RTL; use one of "
            f"{known}"
        )
