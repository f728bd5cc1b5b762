"""Deliberate faults, put into the RTL one at a time: random programs, or hand-made ones after them, must find each.

    python tests/mutations.py [--programs 150]

First, as a control, the RTL as it is must pass every program of each machine that faults are tried on. Then it prints
for each fault the program that found it and the first difference; exits with 1 if one is not found.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from directed import directed
from equivalence import machine, programs

from accelsim.config import Hardware
from accelsim.rtl import Build, Parameters, Simulator, build, cosimulate, sources


@dataclass(frozen=True)
class Fault:
    """`old` occurs once in the source file `where`; `new` takes its place.

    Attributes:
        rows: of the machine it is tried on.
        soon: the first few programs find it.
    """

    name: str
    where: str
    old: str
    new: str
    rows: int = 3
    soon: bool = False


FAULTS = (
    Fault("half_even rounds ties up", "round_shift.sv", "half && (below || floored[0])", "half"),
    Fault("half_away forgets the sign", "round_shift.sv", "half && (below || !negative)", "half", soon=True),
    Fault("the shift is off by one", "requantize_multiply.sv", "modes[47:40]}) - 9'sd1;", "modes[47:40]});"),
    Fault("guard bits are ignored", "requantize_multiply.sv", "$signed({1'b0, modes[55:48]})", "9'sd0"),
    Fault("sums saturate one too low", "fit.sv", "exact > high ? limit", "exact > high ? limit - 1'b1"),
    Fault("the run-time width is ignored", "compute_unit.sv", "width < PSUM ? width : PSUM", "PSUM"),
    Fault(
        "the bias is added after the first chunk",
        "compute_unit.sv",
        "wire [1:0] sums_start = tap_first ? start : START_ACCUMULATE",
        "wire [1:0] sums_start = stream_final && !os ? start : START_ACCUMULATE",
    ),
    Fault("a load begins a cycle late", "compute_unit.sv", "(!loaded || !stream_busy)\n", "!loaded\n", soon=True),
    Fault(
        "a load begins a cycle early",
        "compute_unit.sv",
        "(!loaded || !stream_busy)\n",
        "(!loaded || !stream_busy || word_last)\n",
        soon=True,
    ),
    Fault(
        "weights switch with the second word",
        "compute_unit.sv",
        "assign first = switching;",
        "assign first = os ? switching : live && wave_live[1] && !wave_first[1] && switched;\n"
        "    logic switched;\n"
        "    always_ff @(posedge clk) switched <= switching;",
    ),
    Fault(
        "a token is lost where one is taken",
        "tokens.sv",
        "give[p] != take[p]) count <= give[p] ? count + 8'd1 : count - 8'd1",
        "give[p] || take[p]) count <= take[p] ? count - 8'd1 : count + 8'd1",
    ),
    Fault("a token comes a cycle early", "tokens.sv", "count != 8'd0", "count != 8'd0 || give[p]", soon=True),
    Fault(
        "the accumulator's bypass is dropped",
        "accumulate.sv",
        "wire bypassed = pipe_writes &&",
        "wire bypassed = 1'b0 &&",
        rows=1,  # only there do words of one address follow each other at once
    ),
    Fault(
        "the accumulator's bypass takes every lane",
        "accumulate.sv",
        "wire bypassed = pipe_writes && pipe_lanes[j] &&",
        "wire bypassed = pipe_writes &&",
        rows=1,
        soon=True,
    ),
    Fault("a token counter has five bits", "tokens.sv", "logic [7:0] count;", "logic [4:0] count;", soon=True),
    Fault("a token counter has seven bits", "tokens.sv", "logic [7:0] count;", "logic [6:0] count;"),
    Fault("padding is 0 where it is Z_x", "operand_edge.sv", "code} : zero", "code} : 9'd0", soon=True),
    Fault("the last lane of a row is padding", "lane_mask.sv", "at < limit", "at < limit - 42'sd1"),
    Fault("a run's last piece is a whole word", "tap_walker.sv", "run_ends ? left[8:0] : ROWS", "ROWS"),
    Fault(
        "packed weights of 3 bits lose their sign",
        "weight_unpack.sv",
        "9'd1 << (bits - 4'd1)",
        "bits == 4'd3 ? 9'd0 : 9'd1 << (bits - 4'd1)",
    ),
    Fault(
        "a column's drain is never released",
        "processing_element.sv",
        "drain_goes = drain_moves || release_column",
        "drain_goes = drain_moves",
    ),
    Fault(
        "start values stop a row early",
        "systolic_array.sv",
        "assign hops[BELOW] = hops_out - 1'b1;",
        "assign hops[BELOW] = hops_out > 1 ? hops_out - 2'd2 : '0;",
    ),
    Fault(
        "serial is ignored by the next tile",
        "compute_unit.sv",
        "previous_serial <= head_serial",
        "previous_serial <= 1'b0",
        soon=True,
    ),
    Fault("average pools drop the remainder", "post_lane.sv", "quotient + {25'd0, away}", "quotient"),
    Fault("a pool counts its padding", "post_lane.sv", "+ {15'd0, is_inside};", "+ 16'd1;"),
    Fault("a residual takes the first record", "post_unit.sv", "record_count == j + lane_count", "record_count == j"),
    Fault(
        "POST is done a cycle early",
        "post_unit.sv",
        "assign done = stage[5] && stage_last[5];",
        "assign done = stage[4] && stage_last[4];",
    ),
    Fault(
        "a row's last beat is whole",
        "transfer_walker.sv",
        "assign size = row_ends ? left[8:0] : BUS;",
        "assign size = BUS;",
    ),
)


def small_machine(rows: int) -> Hardware:
    """Where the faults are tried: edges everywhere, and few bits, so that sums overflow."""
    return machine(rows, 2, "accumulator.width_bits=16", "array.psum_bits=13", "dram.bandwidth_bytes_per_cycle=3")


def judge(
    hardware: Hardware, made: Build, simulator: Simulator, *, programs_at_most: int = 150, seed: int = 7
) -> tuple[int, str, str] | None:
    """Run random programs, then the hand-made ones, up to the first that differs.

    Returns:
        That program's number from 1, its name and the difference; None if all are equal.
    """
    several = itertools.chain(programs(programs_at_most, seed, hardware), directed(hardware))
    for number, (name, program) in enumerate(several, 1):
        difference = cosimulate(program, simulator, built=made).difference
        if difference is not None:
            return number, name, str(difference)
    return None


def caught(
    fault: Fault, simulator: Simulator, cache: Path, *, programs_at_most: int = 150
) -> tuple[int, str, str] | None:
    """What `judge` says of the RTL with a fault. `cache` keeps the build."""
    hardware = small_machine(fault.rows)
    with tempfile.TemporaryDirectory(prefix="accelsim-fault-") as name:
        folder = Path(name) / "rtl"
        folder.mkdir()
        for source in sources():
            shutil.copy(source, folder)
        path = folder / fault.where
        text = path.read_text()
        if text.count(fault.old) != 1:
            raise ValueError(
                f"fault {fault.name!r}: {fault.old!r} occurs {text.count(fault.old)} times in {fault.where}"
            )
        path.write_text(text.replace(fault.old, fault.new))
        made = build(Parameters.of(hardware), simulator, folder=folder, cache=cache)
        return judge(hardware, made, simulator, programs_at_most=programs_at_most)


def main() -> int:
    """Try every fault; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=150)
    parser.add_argument("--simulator", choices=("verilator", "icarus"), default="verilator")
    arguments = parser.parse_args()
    missed = 0
    builds = tempfile.TemporaryDirectory(prefix="accelsim-faults-")
    for rows in sorted({fault.rows for fault in FAULTS}):
        hardware = small_machine(rows)
        made = build(Parameters.of(hardware), arguments.simulator, cache=Path(builds.name))
        wrong = judge(hardware, made, arguments.simulator, programs_at_most=arguments.programs)
        verdict = "equal" if wrong is None else f"DIFFERS, {wrong[1]}: {wrong[2]}"
        sys.stdout.write(f"{'(none)':24} {f'the RTL as it is, {rows}x2':42} {verdict}\n")
        sys.stdout.flush()
        if wrong is not None:
            sys.stdout.write("no fault tried: a difference would prove nothing\n")
            return 1
    for fault in FAULTS:
        found = caught(fault, arguments.simulator, Path(builds.name), programs_at_most=arguments.programs)
        missed += found is None
        verdict = "NOT FOUND" if found is None else f"program {found[0]:3}, {found[1]}: {found[2][:150]}"
        sys.stdout.write(f"{fault.where:24} {fault.name:42} {verdict}\n")
        sys.stdout.flush()
    builds.cleanup()
    sys.stdout.write(f"{len(FAULTS)} faults, {len(FAULTS) - missed} found\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
