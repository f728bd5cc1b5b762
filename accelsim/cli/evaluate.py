"""The command `accelsim evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from accelsim.cli.arguments import (
    WORKLOAD_HELP,
    check_destinations,
    hardware_arguments,
    hardware_of,
    positive,
    source_arguments,
    source_of,
    test_images_argument,
    threads_argument,
)
from accelsim.cli.progress import ImageBar
from accelsim.errors import InputError


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim evaluate`."""
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    hardware_arguments(parser)
    source_arguments(parser)
    test_images_argument(parser)
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write what was found as JSON; /dev/stdout: in place of the text"
    )
    threads_argument(parser)


def evaluate(arguments: argparse.Namespace) -> int:
    """Report accuracy and confusions on test images."""
    from accelsim.files import is_standard_output, write_json
    from accelsim.pipeline import evaluate
    from accelsim.report import evaluation_report, show_evaluation
    from accelsim.sources import load_images

    count = None if arguments.images is None else positive("--images", arguments.images)
    threads = None if arguments.threads is None else positive("--threads", arguments.threads)
    check_destinations(arguments)
    hardware = hardware_of(arguments)
    source = source_of(arguments, arguments.workload)
    if source.dataset is None:
        raise InputError(f"{arguments.workload}: its images have no labels; give --data NAME of a data set")
    if source.seeded:
        raise InputError(f"{arguments.workload}: nobody trained its weights, so its accuracy means nothing; use run")
    found = load_images(source, arguments.data, count)
    assert found.labels is not None
    with ImageBar(len(found.images)) as progress:
        result = evaluate(source.graph, found.images, found.labels, hardware, threads=threads, progress=progress)
    float_predictions = None
    if source.module is not None:
        from accelsim.frontend import float_predictions as predict

        float_predictions = predict(source.module, found.images)
    report = evaluation_report(arguments.workload, result, found.labels, hardware, float_predictions)
    report["data"] = found.source
    if arguments.json is not None:
        write_json(arguments.json, report)
        if is_standard_output(arguments.json):
            return 0
    print(show_evaluation(report))
    return 0
