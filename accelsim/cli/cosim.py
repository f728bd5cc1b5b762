"""The command `accelsim cosim`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.cli.arguments import (
    WORKLOAD_HELP,
    batch_argument,
    check_destinations,
    hardware_arguments,
    hardware_of,
    images_of,
    input_argument,
    positive,
    source_arguments,
    source_of,
)
from accelsim.errors import InputError

if TYPE_CHECKING:
    from accelsim.isa import Program


def cosim_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim cosim`."""
    parser.add_argument("workload", metavar="WORKLOAD|DIR", help=f"{WORKLOAD_HELP}; of a program directory, as it is")
    hardware_arguments(parser, "rtl_8x8")
    source_arguments(parser)
    batch_argument(parser)
    input_argument(parser)
    parser.add_argument(
        "--simulator",
        choices=("verilator", "icarus"),
        default="verilator",
        help="what runs the RTL (default: %(default)s)",
    )
    parser.add_argument(
        "--jitter",
        type=int,
        default=0,
        metavar="SEED",
        help="let the RTL's DRAM refuse and delay beats at random: bits must stay, cycles are not compared",
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="also write the SystemVerilog with this machine's parameters"
    )


def cosim(arguments: argparse.Namespace) -> int:
    """Run a program on the machine and on the RTL; 1 where they differ."""
    from accelsim.rtl import (
        COUNTERS,
        Parameters,
        build,
        check_export,
        check_supported,
        cosimulate,
        require,
        write_sources,
    )

    positive("--batch", arguments.batch)
    check_destinations(arguments)
    if arguments.export is not None:
        check_export(arguments.export)
    if arguments.jitter < 0 or arguments.jitter >= 1 << 31:
        raise InputError(f"--jitter {arguments.jitter}: must be 0 (none) or a seed up to {(1 << 31) - 1}")
    require(arguments.simulator)
    program = _program(arguments)
    check_supported(program)
    parameters = Parameters.of(program.hardware)
    if arguments.export is not None:
        write_sources(parameters, arguments.export)
    built = build(parameters, arguments.simulator)
    result = cosimulate(program, arguments.simulator, built=built, jitter=arguments.jitter)
    print(f"{program.name} on {program.hardware.name}, batch {program.batch}: machine and RTL in {arguments.simulator}")
    if result.difference is not None:
        print(f"DIFFERENT: {result.difference}")
        return 1
    assert result.model.cycles is not None
    assert result.rtl.cycles is not None
    if arguments.jitter:
        print(f"cycles    {result.model.cycles:,} without, {result.rtl.cycles:,} with a DRAM that delays at random")
    else:
        print(f"cycles    {result.rtl.cycles:,}; issue, done and stalls of {result.instructions} instructions equal")
    print(f"DRAM      {program.dram.size:,} bytes equal")
    print(f"counters  {len(COUNTERS)} equal; {result.rtl.counts['mul']:,} products")
    return 0


def _program(arguments: argparse.Namespace) -> Program:
    """A program directory's own, input included, or the workload compiled for the chosen hardware."""
    from accelsim.compiler import compile_graph
    from accelsim.ir import quantize_input
    from accelsim.isa import load_program

    folder = Path(arguments.workload)
    if (folder / "program.bin").exists():
        for option in ("hardware", "set", "quantization", "quantization_set", "data", "calibration", "batch", "input"):
            if getattr(arguments, option) != arguments.parser.get_default(option):
                name = f"--{option.replace('_', '-')}"
                raise InputError(f"{name}: {folder} is compiled already, input included; give its workload instead")
        return load_program(folder)
    hardware = hardware_of(arguments)
    source = source_of(arguments, arguments.workload)
    program = compile_graph(source.graph, hardware, arguments.batch)
    images, _ = images_of(arguments, source, arguments.batch, exactly=True)
    return program.with_input(quantize_input(source.graph, images))
