"""The command `accelsim explain`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.cli.arguments import (
    WORKLOAD_HELP,
    batch_argument,
    hardware_arguments,
    hardware_of,
    positive,
    refuse_given,
    source_arguments,
    source_of,
)
from accelsim.errors import InputError

if TYPE_CHECKING:
    from accelsim.ir import IntegerGraph
    from accelsim.isa import Program


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim explain`."""
    parser.add_argument("workload", metavar="WORKLOAD", help=f"{WORKLOAD_HELP}; a program directory as it is")
    parser.add_argument("--layer", metavar="L", help="explain this layer in depth (default: a table of all)")
    hardware_arguments(parser)
    source_arguments(parser)
    batch_argument(parser)
    parser.add_argument(
        "--quick", action="store_true", help="leave out changes that need another compilation: array, buffers, batch"
    )
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write what was found as JSON; /dev/stdout: in place of the text"
    )


def explain(arguments: argparse.Namespace) -> int:
    """Say why a layer takes its cycles and what would help."""
    from accelsim.explore.explanation import explain as explain_program
    from accelsim.explore.explanation import find_layer
    from accelsim.files import check_file, is_standard_output, write_json
    from accelsim.report.explanation import build_explanation
    from accelsim.report.explanation_text import show_explanation

    positive("--batch", arguments.batch)
    if arguments.json is not None:
        check_file(arguments.json)
    program, graph, why = _program(arguments)
    layer = None if arguments.layer is None else find_layer(program, arguments.layer)
    with _Bar() as progress:
        found = explain_program(program, graph, layer=layer, why_not_compiled=why, progress=progress)
    document = build_explanation(found, layer)
    code = 0 if found.mismatch is None else 1
    if arguments.json is not None:
        write_json(arguments.json, document)
        if is_standard_output(arguments.json):
            return code
    print(show_explanation(document))
    return code


def _program(arguments: argparse.Namespace) -> tuple[Program, IntegerGraph | None, str | None]:
    """What is explained, and the graph to compile changed programs from, or None and why."""
    from accelsim.compiler import compile_graph

    folder = Path(arguments.workload)
    quick = "--quick is given" if arguments.quick else None
    if (folder / "program.bin").exists():
        options = ("hardware", "set", "quantization", "quantization_set", "data", "calibration", "batch")
        refuse_given(arguments, options, f"{folder} is compiled already; give its workload instead")
        return _compiled(folder, quick)
    hardware = hardware_of(arguments)
    graph = source_of(arguments, arguments.workload).graph
    return compile_graph(graph, hardware, arguments.batch), None if quick else graph, quick


def _compiled(folder: Path, quick: str | None) -> tuple[Program, IntegerGraph | None, str | None]:
    """A program directory's program, and its graph where it compiles to that very program."""
    from accelsim.explore.explanation import compiles_to
    from accelsim.ir import load_graph
    from accelsim.isa import load_program

    program = load_program(folder)
    if quick is not None:
        return program, None, quick
    try:
        graph = load_graph(folder / "graph")
    except InputError as error:
        return program, None, str(error)
    if not compiles_to(graph, program):
        return program, None, f"{folder / 'graph'} does not compile to this program; compile it again"
    return program, graph, None


class _Bar:
    """A progress bar on a terminal, and nothing in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Callable[[int, int], object]:
        return self._update if sys.stderr.isatty() else lambda *_: None

    def _update(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, unit="change", leave=False)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
