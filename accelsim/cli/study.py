"""The commands that keep what they find in a folder: `accelsim accumulator` and `accelsim study`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelsim.cli.arguments import (
    WORKLOAD_HELP,
    check_destinations,
    energy_argument,
    hardware_arguments,
    hardware_of,
    images_of,
    input_argument,
    positive,
    source_arguments,
    source_of,
    test_images_argument,
    threads_argument,
)
from accelsim.cli.progress import StageBars
from accelsim.errors import InputError


def _destination_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Where `_write_study` writes."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="gets study.json, study.csv and the figure, and keeps finished parts: an interrupted study goes on from "
        f"them (default: results/{folder})",
    )
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write the study as JSON elsewhere; /dev/stdout: in place of the text"
    )


def accumulator_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim accumulator`."""
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    parser.add_argument(
        "--widths", required=True, metavar="FROM:TO:STEP", help="bits, both ends included: 10:32:2, or 12,14,16"
    )
    parser.add_argument("--per-layer", action="store_true", help="search a width for each layer")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="P",
        help="accuracy that may be lost, percentage points (default: %(default)s)",
    )
    hardware_arguments(parser)
    source_arguments(parser)
    input_argument(parser)
    test_images_argument(parser)
    energy_argument(parser)
    _destination_arguments(parser, "accumulator_WORKLOAD")
    threads_argument(parser)


def accumulator(arguments: argparse.Namespace) -> int:
    """Study accumulator widths."""
    from accelsim.energy import load_area, load_energy
    from accelsim.explore import Question, Study, parse_widths
    from accelsim.ir import quantize_input
    from accelsim.report import show_study, study_csv, study_figure

    widths = parse_widths(arguments.widths)
    count = None if arguments.images is None else positive("--images", arguments.images)
    threads = None if arguments.threads is None else positive("--threads", arguments.threads)
    if not 0 <= arguments.tolerance <= 100:
        raise InputError(f"--tolerance {arguments.tolerance:g}: must be 0..100 percentage points")
    if arguments.output is None:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", arguments.workload.strip("/")).strip("_.") or "study"
        arguments.output = Path("results") / f"accumulator_{name}"
    check_destinations(arguments)
    table = load_energy(arguments.energy)
    hardware = hardware_of(arguments)
    source = source_of(arguments, arguments.workload)
    images, labels = images_of(arguments, source, count, exactly=count is not None)
    question = Question(
        graph=source.graph,
        codes=quantize_input(source.graph, images),
        labels=labels,
        hardware=hardware,
        table=table,
        area=load_area(),
        widths=widths,
        per_layer=arguments.per_layer,
        tolerance=arguments.tolerance,
        threads=threads,
    )
    with StageBars() as progress:
        study = Study(question, arguments.output, progress)
        found = study.run()
    return _write_study(arguments, found, study.parts.reused, show_study, study_csv, study_figure)


def study_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim study`."""
    parser.add_argument("study", metavar="NAME|F.toml", help="a shipped study, or a file of yours")
    parser.add_argument(
        "--data", metavar="NAME|DIR", help="data set by name, or the folder that holds the workloads' own"
    )
    parser.add_argument("--images", type=int, metavar="N", help="test images (default: as the study says)")
    parser.add_argument("--seeds", metavar="0,1,2", help="instead of the study's")
    _destination_arguments(parser, "study_NAME")
    threads_argument(parser)


def study(arguments: argparse.Namespace) -> int:
    """Evaluate a network quantised in many ways."""
    from accelsim.config import load_study
    from accelsim.explore import SchemeStudy
    from accelsim.report import scheme_study_csv, scheme_study_figure, show_scheme_study

    images = None if arguments.images is None else positive("--images", arguments.images)
    threads = None if arguments.threads is None else positive("--threads", arguments.threads)
    seeds = None if arguments.seeds is None else _seeds(arguments.seeds)
    plan = load_study(arguments.study, seeds)
    if arguments.output is None:
        arguments.output = Path("results") / f"study_{plan.name}"
    check_destinations(arguments)
    with StageBars() as progress:
        study = SchemeStudy(
            plan,
            arguments.output,
            data=arguments.data,
            images=images,
            threads=threads,
            progress=progress,
        )
        found = study.run()
    return _write_study(arguments, found, study.parts.reused, show_scheme_study, scheme_study_csv, scheme_study_figure)


def _seeds(text: str) -> list[int]:
    from accelsim.config import check_seeds

    try:
        seeds = [int(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text}: must be integers with commas, such as 0,1,2") from None
    try:
        check_seeds(tuple(seeds), f"--seeds {text}")
    except ValueError as error:
        raise InputError(str(error)) from None
    return seeds


def _write_study(
    arguments: argparse.Namespace,
    found: dict[str, Any],
    reused: list[str],
    show: Callable[[dict[str, Any]], str],
    to_csv: Callable[[dict[str, Any]], str],
    draw: Callable[[dict[str, Any]], Any],
) -> int:
    """Write a study's files into ``--output`` and print it, or its JSON alone for a pipe; returns the exit code."""
    from accelsim.files import is_standard_output, write_json, write_whole
    from accelsim.report.drawing import render

    if reused:
        print(f"accelsim: {len(reused)} finished parts taken from {arguments.output}", file=sys.stderr)
    write_json(arguments.output / "study.json", found)
    write_whole(arguments.output / "study.csv", to_csv(found))
    for kind in ("png", "svg"):
        write_whole(arguments.output / f"study.{kind}", render(draw(found), kind))
    if arguments.json is not None:
        write_json(arguments.json, found)
        if is_standard_output(arguments.json):
            return 0
    print(show(found))
    print(f"\n{arguments.output}: study.json, study.csv, study.png, study.svg")
    return 0
