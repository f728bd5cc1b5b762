"""The command `accelsim requant-diff`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.cli.arguments import (
    SOURCE_OPTIONS,
    WORKLOAD_HELP,
    calibration_argument,
    check_destinations,
    data_argument,
    hardware_arguments,
    hardware_of,
    images_of,
    input_argument,
    positive,
    refuse_given,
    refuse_settled,
    test_images_argument,
    threads_argument,
)
from accelsim.cli.progress import ImageBar
from accelsim.errors import InputError

if TYPE_CHECKING:
    from accelsim.config import QuantizationScheme
    from accelsim.sources import Source

MOST_SAMPLES = 10_000_000
"""Pairs of a kind: some hundreds of bytes each while they are compared."""


def requant_diff_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim requant-diff`."""
    parser.add_argument("first", metavar="A", help="quantisation preset or TOML file")
    parser.add_argument("second", metavar="B", help="another, or the same with --set-b")
    for side in ("a", "b"):
        parser.add_argument(
            f"--set-{side}",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help=f"override one key of {side.upper()}; repeatable",
        )
    parser.add_argument(
        "--samples",
        type=int,
        default=65_536,
        metavar="N",
        help="pairs of each kind in the sweep (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sweep (default: %(default)s)")
    parser.add_argument("--workload", metavar="WORKLOAD", help=f"also inside a network: {WORKLOAD_HELP}")
    parser.add_argument(
        "--quantization",
        metavar="F",
        help="scheme that makes the one integer graph in which A's and B's requantisation are exchanged (default: A; "
        "where A and B differ in more than requantisation, each makes its own and they are compared end to end)",
    )
    parser.add_argument(
        "--quantization-set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one key of --quantization; repeatable",
    )
    data_argument(parser)
    calibration_argument(parser)
    input_argument(parser)
    test_images_argument(parser)
    hardware_arguments(parser)
    threads_argument(parser)
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write what was found as JSON; /dev/stdout: in place of the text"
    )


def requant_diff(arguments: argparse.Namespace) -> int:
    """Say where two requantisations differ, by themselves and inside a network."""
    from accelsim.config import load_quantization
    from accelsim.explore.requantization import FORMAT, VERSION, compare_sweep
    from accelsim.files import is_standard_output, write_json
    from accelsim.report import show_requantization_difference

    positive("--samples", arguments.samples)
    if arguments.samples > MOST_SAMPLES:
        raise InputError(f"--samples {arguments.samples}: must be at most {MOST_SAMPLES}")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: must be at least 0")
    for option in ("images", "threads"):
        if getattr(arguments, option) is not None:
            positive(f"--{option}", getattr(arguments, option))
    if arguments.workload is None:
        options = ("quantization", *SOURCE_OPTIONS[1:], "input", "images", "hardware", "set", "threads")
        refuse_given(arguments, options, "without --workload there is no network to run; name one")
    check_destinations(arguments)
    a = load_quantization(arguments.first, arguments.set_a, "--set-a")
    b = load_quantization(arguments.second, arguments.set_b, "--set-b")
    form = a.activation.format
    if form == b.activation.format:
        how = (a.requantization.numerics(), b.requantization.numerics())
        sweep = compare_sweep(*how, form, samples=arguments.samples, seed=arguments.seed)
    elif arguments.workload is None:
        kinds = [f"{'' if one.signed else 'u'}int{one.bits}" for one in (form, b.activation.format)]
        raise InputError(
            f"{arguments.first} and {arguments.second}: results are {kinds[0]} and {kinds[1]}, which have no last "
            "place in common; compare their accuracy with --workload"
        )
    else:
        sweep = None
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    sides = (("a", arguments.first, arguments.set_a, a), ("b", arguments.second, arguments.set_b, b))
    for side, name, changes, scheme in sides:
        document[side] = {"name": name, "set": changes, "requantization": scheme.requantization.model_dump()}
    document |= {"sweep": sweep, "network": None}
    if arguments.workload is not None:
        document["network"] = _network(arguments, a, b)
    if arguments.json is not None:
        write_json(arguments.json, document)
        if is_standard_output(arguments.json):
            return 0
    print(show_requantization_difference(document))
    return 0


def _network(arguments: argparse.Namespace, a: QuantizationScheme, b: QuantizationScheme) -> dict[str, Any]:
    """The part of a comparison that runs a network."""
    from accelsim.config import load_quantization
    from accelsim.config.quantization import differing_keys
    from accelsim.explore.requantization import compare_networks, with_requantization
    from accelsim.ir import quantize_input
    from accelsim.sources import find_workload, graph_folder

    hardware = hardware_of(arguments)
    ready = graph_folder(arguments.workload) is not None
    if ready:
        refuse_settled(arguments, arguments.workload)
    elif arguments.quantization is None:
        refuse_given(arguments, ("quantization_set",), "overrides keys of --quantization, which is not given")
    keys = [] if ready or arguments.quantization is not None else differing_keys(a, b)

    def source(scheme: QuantizationScheme) -> Source:
        return find_workload(
            arguments.workload,
            quantization=None if ready else scheme,
            data=arguments.data,
            calibration=arguments.calibration,
        )

    base = a
    if arguments.quantization is not None:
        base = load_quantization(arguments.quantization, arguments.quantization_set)
    first = source(base)
    images, labels = images_of(arguments, first, arguments.images, exactly=arguments.images is not None)
    graphs = (first.graph, source(b).graph if keys else first.graph)
    if not keys:
        how = (a.requantization.numerics(), b.requantization.numerics())
        graphs = (with_requantization(first.graph, how[0]), with_requantization(first.graph, how[1]))
    with ImageBar(len(images)) as progress:
        found = compare_networks(
            graphs[0],
            graphs[1],
            quantize_input(graphs[0], images),
            quantize_input(graphs[1], images),
            labels,
            hardware.arithmetic(),
            same_inputs=not keys,
            threads=arguments.threads,
            progress=progress,
        )
    return {
        "workload": arguments.workload,
        "data": None if labels is None else f"{first.dataset} test",
        "hardware": hardware.model_dump(mode="json"),
        "compared": "schemes" if keys else "requantization",
        "differing_keys": keys,
        "quantization": None if keys or ready else arguments.quantization or arguments.first,
        **found,
    }
