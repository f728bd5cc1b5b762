"""The command `accelsim compare`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accelsim.cli.arguments import (
    SETTLED,
    WORKLOAD_HELP,
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
    from accelsim.config import Hardware
    from accelsim.report import Side
    from accelsim.sources import Source

REFERENCE_MACS = 50_000_000
"""About what the reference evaluates in the seconds that compiling the engine's kernels takes."""


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim compare`."""
    parser.add_argument("first", metavar="A", help=WORKLOAD_HELP)
    parser.add_argument(
        "second",
        metavar="B",
        nargs="?",
        help="another; left out: what the library that quantised A makes of the images (a PT2E model)",
    )
    hardware_arguments(parser)
    source_arguments(parser)
    parser.add_argument(
        "--second-quantization", metavar="F", help="scheme of B, where it is float and another than A's"
    )
    input_argument(parser)
    parser.add_argument("--images", type=int, default=20, metavar="N", help="images to compare (default: %(default)s)")


def compare(arguments: argparse.Namespace) -> int:
    """Compare two networks on the same images, node by node."""
    from accelsim.report import compare_networks, show_comparison
    from accelsim.sources import graph_folder

    count = positive("--images", arguments.images)
    hardware = hardware_of(arguments)
    first = source_of(_for_side(arguments, arguments.first, arguments.second), arguments.first)
    a = _side(first, hardware)
    if arguments.second is None:
        if first.reference is None:
            raise InputError(
                f"{arguments.first}: is no model that another library has quantised, so there is nothing to compare "
                "it with; name a second WORKLOAD"
            )
        if arguments.second_quantization is not None:
            raise InputError("--second-quantization: there is no B; leave it out")
        second = first
        b = replace(a, name=f"{arguments.first} as its own library computes it", codes=first.reference)
    else:
        given = _for_side(arguments, arguments.second, arguments.first)
        if arguments.second_quantization is not None:
            if graph_folder(arguments.second) is not None:
                raise InputError(
                    f"--second-quantization: {arguments.second} is a graph directory, quantised already; leave "
                    "--second-quantization out"
                )
            given.quantization = arguments.second_quantization
        second = source_of(given, arguments.second)
        b = _side(second, hardware)
    takes = [(x.channels, x.height, x.width) for x in (a.graph.input.output, b.graph.input.output)]
    if takes[0] != takes[1]:
        raise InputError(
            f"{arguments.first} takes (C, H, W) = {takes[0]} and {arguments.second} {takes[1]}; "
            "compare models of one input shape"
        )
    images, labels = images_of(arguments, first if first.dataset or first.example is not None else second, count)
    print(show_comparison(compare_networks(a, b, images, labels)))
    return 0


def _for_side(arguments: argparse.Namespace, workload: str, other: str | None) -> argparse.Namespace:
    """The arguments for one of two networks: a scheme and calibration are for the one that needs them."""
    from accelsim.sources import graph_folder

    given = argparse.Namespace(**vars(arguments))
    if graph_folder(workload) is not None and other is not None and graph_folder(other) is None:
        for option in SETTLED:
            setattr(given, option, arguments.parser.get_default(option))
    return given


def _side(source: Source, hardware: Hardware) -> Side:
    """A workload as `compare` takes it: little work by the reference evaluation, more by the engine."""
    from accelsim.engine import execute
    from accelsim.ir import evaluate, quantize_input
    from accelsim.report import Side

    names = [node.name for node in source.graph.nodes]
    macs = sum(map(source.graph.macs, source.graph.nodes))
    done = 0

    def codes(images: Any) -> dict[str, Any]:
        nonlocal done
        done += macs * len(images)
        given = quantize_input(source.graph, images)
        if done <= REFERENCE_MACS:  # the engine's kernels take seconds to compile
            return dict(evaluate(source.graph, given, hardware.arithmetic()).tensors)
        return dict(execute(source.graph, given, hardware.arithmetic(), nodes=names))

    return Side(source.name, source.graph, codes)
