"""The command `accelsim arithmetic`."""

from __future__ import annotations

import argparse
from pathlib import Path

from accelsim.cli.arguments import energy_argument, hardware_arguments
from accelsim.errors import InputError


def arithmetic_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim arithmetic`."""
    parser.add_argument("sizes", type=int, nargs="*", metavar="M K N", help="of a product of random matrices")
    parser.add_argument("--seed", type=int, help="of the random matrices (default: 0)")
    parser.add_argument("--left", type=Path, metavar="F.npy", help="A, (M, K), in place of sizes")
    parser.add_argument("--right", type=Path, metavar="F.npy", help="B, (K, N)")
    hardware_arguments(parser)
    parser.add_argument(
        "--float-set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one key of the machines of floats alone, such as array.mac_latency_cycles; repeatable",
    )
    energy_argument(parser)
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures as JSON; /dev/stdout: no text")


def arithmetic(arguments: argparse.Namespace) -> int:
    """One matrix product in three arithmetics, on the machine."""
    from accelsim.energy import load_energy
    from accelsim.explore.arithmetic import (
        compare_arithmetics,
        comparison_json,
        read_operand,
        seeded_operands,
    )
    from accelsim.files import check_file, is_standard_output, write_json
    from accelsim.report.arithmetic import show_comparison

    files = [arguments.left, arguments.right]
    if arguments.json:
        check_file(arguments.json)
    if any(files):
        if arguments.sizes or arguments.seed is not None or not all(files):
            raise InputError("--left and --right go together, in place of M K N and --seed; give both files alone")
        left, right = (read_operand(path) for path in files)
    elif len(arguments.sizes) != 3:
        raise InputError(f"{len(arguments.sizes)} sizes are given; give M, K and N, or --left and --right")
    elif (seed := arguments.seed or 0) < 0:
        raise InputError(f"--seed {seed} must be at least 0")
    else:
        m, k, n = arguments.sizes
        left, right = seeded_operands(m, k, n, seed)
    table = load_energy(arguments.energy)
    comparison = compare_arithmetics(
        left, right, arguments.hardware, table, overrides=arguments.set, float_overrides=arguments.float_set
    )
    found = comparison_json(comparison, table)
    if arguments.json:
        write_json(arguments.json, found)
    if not (arguments.json and is_standard_output(arguments.json)):
        print(show_comparison(comparison, table))
    return 0
