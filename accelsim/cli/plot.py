"""The command `accelsim plot`."""

from __future__ import annotations

import argparse
from pathlib import Path


def plot_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim plot`."""
    parser.add_argument("store", type=Path, metavar="DB", help="a store that `accelsim sweep` wrote")
    parser.add_argument("--sweep", metavar="NAME|NUMBER", help="which of its sweeps; needed where it holds several")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("plots"), metavar="DIR", help="gets the files (default: %(default)s)"
    )
    parser.add_argument(
        "--objectives",
        metavar="LIST",
        help="of the front, such as 'min cycles, max accuracy': figures or numeric axes (default: those of the search, "
        "or two of accuracy, energy, cycles, area)",
    )


def plot(arguments: argparse.Namespace) -> int:
    """Draw a sweep: figures, and a page to look around in."""
    from accelsim.explore.store import Store
    from accelsim.explore.stored import read_sweep
    from accelsim.files import check_folder
    from accelsim.report.plot import write_plots

    check_folder(arguments.output)
    with Store(arguments.store, make=False) as store:
        stored = read_sweep(store, arguments.sweep)
    written, left_out = write_plots(stored, stored.objectives(arguments.objectives), arguments.output)
    for path in written:
        print(path)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    return 0
