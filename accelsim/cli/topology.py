"""SCALE-Sim topologies on the command line: their layers run one by one; `accelsim topology`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.cli.arguments import data_argument
from accelsim.errors import InputError

if TYPE_CHECKING:
    from accelsim.config import Hardware, QuantizationScheme
    from accelsim.energy import EnergyTable

_ONE_LAYER = ("input", "figures", "dump_tensors", "html", "trace")
"""Options of `run` that speak of one network."""


def run_topology(
    arguments: argparse.Namespace,
    names: list[str],
    hardware: Hardware,
    energy: EnergyTable,
    scheme: QuantizationScheme | None,
) -> int:
    """`accelsim run file.csv`: every layer by itself, checked like any run; one table, and their sums."""
    from accelsim.accounting import price
    from accelsim.compiler import compile_graph
    from accelsim.files import is_standard_output, write_json
    from accelsim.ir import quantize_input
    from accelsim.pipeline import run_checked
    from accelsim.report import build_report
    from accelsim.report.topology import show_topology, topology_report
    from accelsim.sources import find_workload, load_images

    workload = arguments.workload
    for option in _ONE_LAYER:
        if getattr(arguments, option) is not None:
            raise InputError(
                f"--{option.replace('_', '-')}: {workload} holds {len(names)} layers; name one, such as "
                f"{workload}:{names[0]}"
            )
    sources = [
        find_workload(f"{workload}:{name}", quantization=scheme, data=arguments.data, calibration=arguments.calibration)
        for name in names
    ]
    # Compiled first, so that a layer that does not fit is refused before others take their time.
    programs = [compile_graph(source.graph, hardware, arguments.batch) for source in sources]
    count = arguments.batch if arguments.images is None else arguments.images
    reports = []
    for source, program in zip(sources, programs, strict=True):
        codes = quantize_input(source.graph, load_images(source, None, count).images)
        outcome = run_checked(program, source.graph, codes, telemetry=arguments.telemetry)
        outcome.outputs = None  # a million codes that no table shows
        reports.append(build_report(outcome, source.graph, price(outcome, source.graph, energy)))
    report = topology_report(workload, reports)
    if arguments.json is not None:
        write_json(arguments.json, report)
    if arguments.json is None or not is_standard_output(arguments.json):
        print(show_topology(report, hardware))
    return 0 if report["bit_exact"] else 1


def topology_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim topology`."""
    parser.add_argument(
        "workload",
        metavar="WORKLOAD",
        help="a shipped name, a graph or program directory, a quantised file.onnx, file.py:function, or a topology "
        "file.csv",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="F.csv", help="file to write")
    parser.add_argument(
        "--gemm", action="store_true", help="write matrix products (M, N, K) in place of convolutions: im2col"
    )
    data_argument(parser)


def topology(arguments: argparse.Namespace) -> int:
    """Write the layers of a workload, or those of another topology, as SCALE-Sim reads them."""
    from accelsim.files import check_file, write_whole
    from accelsim.importers import as_products, read_topology, topology_of, topology_text
    from accelsim.importers.topology import Product
    from accelsim.sources import find_workload, topology_file

    if arguments.output.suffix != ".csv":
        raise InputError(f"--output {arguments.output}: a topology's name ends in .csv; change it")
    check_file(arguments.output)
    named = topology_file(arguments.workload)
    if named is None:
        graph = find_workload(arguments.workload, quantization=None, data=arguments.data).graph
        shapes = topology_of(graph, products=arguments.gemm)
    else:
        path, layer = named
        if arguments.data is not None:
            raise InputError(f"--data {arguments.data}: {path} needs none; leave --data out")
        shapes = [shape for shape in read_topology(path) if layer in (None, shape.name)]
        if not shapes:
            raise InputError(f"{path}: has no layer {layer!r}; name one of the file's, or none for all")
        if not arguments.gemm and isinstance(shapes[0], Product):
            raise InputError(f"{path}: holds matrix products, from which no convolution can be told; add --gemm")
        if arguments.gemm:
            shapes = [product for shape in shapes for product in as_products(shape)]
    write_whole(arguments.output, topology_text(shapes))
    kind = "matrix products" if arguments.gemm else "convolutions"
    print(f"{arguments.output}: {len(shapes)} layers as {kind}")
    return 0
