"""The commands `accelsim run` and `accelsim simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.cli.arguments import (
    WORKLOAD_HELP,
    batch_argument,
    check_destinations,
    energy_argument,
    hardware_arguments,
    hardware_of,
    images_of,
    input_argument,
    positive,
    refuse_given,
    scheme_of,
    source_arguments,
    source_of,
)
from accelsim.cli.progress import ImageBar
from accelsim.cli.provenance import run_command, run_versions
from accelsim.cli.topology import run_topology
from accelsim.errors import InputError

if TYPE_CHECKING:
    from accelsim.energy import EnergyTable
    from accelsim.ir import IntegerGraph
    from accelsim.pipeline import Outcome


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim run`."""
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    hardware_arguments(parser)
    source_arguments(parser)
    batch_argument(parser)
    input_argument(parser)
    parser.add_argument("--images", type=int, metavar="N", help="images to run and check (default: one batch)")
    _report_arguments(parser)
    parser.add_argument(
        "--dump-tensors", type=Path, metavar="DIR", help="write every node's tensor as .npy, with a manifest"
    )


def simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim simulate`."""
    parser.add_argument("program", type=Path, metavar="DIR", help="program directory")
    parser.add_argument(
        "--input", type=Path, metavar="F.npy", help="float images of one batch (default: those compiled in)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-check", action="store_true", help="compute values, but compare them with nothing")
    how.add_argument("--timing-only", action="store_true", help="cycles, counts and energy alone: no values, no check")
    _report_arguments(parser)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    energy_argument(parser)
    parser.add_argument("--telemetry", action="store_true", default=None, help="watch partial sums whatever the size")
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write the report as JSON; /dev/stdout: in place of the text"
    )
    parser.add_argument(
        "--html", type=Path, metavar="F", help="write the report as one page for a browser, timeline included"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw energy, utilisation, timeline, partial sums")
    parser.add_argument(
        "--trace", type=Path, metavar="F", help="write every instruction for ui.perfetto.dev; F.json or F.json.gz"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compile, simulate, check and report; 1 where a bit differs."""
    from accelsim.compiler import compile_graph
    from accelsim.energy import load_energy
    from accelsim.ir import quantize_input
    from accelsim.pipeline import run_checked
    from accelsim.report import dump_tensors
    from accelsim.sources import topology_layers

    positive("--batch", arguments.batch)
    count = arguments.batch if arguments.images is None else positive("--images", arguments.images)
    check_destinations(arguments)
    energy = load_energy(arguments.energy)
    hardware = hardware_of(arguments)
    if len(names := topology_layers(arguments.workload)) > 1:
        return run_topology(arguments, names, hardware, energy, scheme_of(arguments, arguments.workload))
    source = source_of(arguments, arguments.workload)
    images, labels = images_of(arguments, source, count, exactly=arguments.images is not None)
    program = compile_graph(source.graph, hardware, arguments.batch)
    codes = quantize_input(source.graph, images)
    with ImageBar(len(codes)) as progress:
        outcome = run_checked(
            program,
            source.graph,
            codes,
            labels=labels,
            telemetry=arguments.telemetry,
            keep_tensors=arguments.dump_tensors is not None,
            progress=progress,
        )
    if outcome.tensors is not None:
        dump_tensors(source.graph, outcome.tensors, arguments.dump_tensors)
    image = images[0, 0] if images.ndim == 4 and images.shape[1] == 1 else None
    return _finish(arguments, outcome, source.graph, energy, image, source.float_accuracy)


def simulate(arguments: argparse.Namespace) -> int:
    """Simulate a program directory; 1 where a bit differs."""
    from accelsim.energy import load_energy
    from accelsim.ir import quantize_input
    from accelsim.pipeline import input_codes, load_compiled, run_checked, run_unchecked
    from accelsim.sources import read_images

    check_destinations(arguments)
    if arguments.timing_only:
        refuse_given(arguments, ("input", "telemetry"), "--timing-only computes no values")
    energy = load_energy(arguments.energy)
    program, graph = load_compiled(arguments.program)
    if strange := [node for layer in program.layers for node in layer.nodes if node not in graph.by_name]:
        raise InputError(
            f"{arguments.program / 'graph'}: has no node {strange[0]!r}, which the program computes; it is another "
            "workload's, compile again"
        )
    codes = input_codes(program)
    if arguments.input is not None:
        images = read_images(arguments.input)
        if len(images) != program.batch:
            raise InputError(
                f"--input {arguments.input}: holds {len(images)} images; the program's batch is {program.batch}"
            )
        codes = quantize_input(graph, images)
    if arguments.no_check or arguments.timing_only:
        telemetry = bool(arguments.telemetry)
        outcome = run_unchecked(program, codes, values=not arguments.timing_only, telemetry=telemetry)
    else:
        outcome = run_checked(program, graph, codes, telemetry=arguments.telemetry)
    return _finish(arguments, outcome, graph, energy)


def _finish(
    arguments: argparse.Namespace,
    outcome: Outcome,
    graph: IntegerGraph,
    energy: EnergyTable,
    image: Any = None,
    float_accuracy: float | None = None,
) -> int:
    """Report a run in every form asked for; returns the exit code."""
    from accelsim.accounting import price
    from accelsim.files import is_standard_output, write_json, write_whole
    from accelsim.report import build_report, html_report, show, show_image, write_figures, write_trace

    priced = price(outcome, graph, energy)
    report = build_report(outcome, graph, priced)
    report["float_accuracy"] = float_accuracy
    if arguments.json is not None:
        write_json(arguments.json, report)
    if arguments.html is not None:
        page = html_report(outcome, graph, report, run_command(arguments), run_versions())
        write_whole(arguments.html, page)
    if arguments.figures is not None:
        write_figures(outcome, graph, priced, arguments.figures)
    if arguments.trace is not None:
        write_trace(outcome, arguments.trace)
    if any(path is not None and is_standard_output(path) for path in (arguments.json, arguments.html, arguments.trace)):
        return 1 if report["bit_exact"] is False else 0  # JSON or HTML alone, for the reader at the other end
    if image is not None and outcome.outputs is not None and outcome.outputs.ndim == 2:
        label = None if outcome.labels is None else int(outcome.labels[0])
        print(show_image(image, int(outcome.outputs[0].argmax()), label))
        print()
    print(show(report, outcome.program.hardware, priced))
    return 1 if report["bit_exact"] is False else 0
