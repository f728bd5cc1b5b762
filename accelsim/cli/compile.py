"""The commands that write a network or a program, or print one: `accelsim compile`, `quantize`, `export`, `disasm`."""

from __future__ import annotations

import argparse
from pathlib import Path

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


def compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim compile`."""
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    hardware_arguments(parser)
    source_arguments(parser)
    batch_argument(parser)
    input_argument(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="program directory to write")


def compile_program(arguments: argparse.Namespace) -> int:
    """Write a program directory."""
    from accelsim.compiler import compile_graph
    from accelsim.ir import quantize_input
    from accelsim.pipeline import save_compiled

    positive("--batch", arguments.batch)
    check_destinations(arguments)
    hardware = hardware_of(arguments)
    source = source_of(arguments, arguments.workload)
    program = compile_graph(source.graph, hardware, arguments.batch)
    images, _ = images_of(arguments, source, arguments.batch, exactly=True)
    save_compiled(program, source.graph, quantize_input(source.graph, images), arguments.output)
    print(
        f"{arguments.output}: {len(program.instructions)} instructions, {program.dram.size:,} bytes of DRAM, "
        f"batch {program.batch}, for {hardware.name}"
    )
    return 0


def quantize_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim quantize`."""
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    source_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="graph directory to write")


def quantize(arguments: argparse.Namespace) -> int:
    """Write a workload's integer graph."""
    from accelsim.ir import Mac, save_graph

    check_destinations(arguments)
    graph = source_of(arguments, arguments.workload).graph
    save_graph(graph, arguments.output)
    weights = sum(node.weight.size for node in graph.nodes if isinstance(node, Mac))
    print(f"{arguments.output}: {len(graph.nodes)} nodes, {weights:,} weights, zero points {graph.zero_points}")
    return 0


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim export`."""
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    source_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="F.onnx", help="file to write")
    parser.add_argument("--codes", action="store_true", help="make every node's codes an output of the model too")


def export(arguments: argparse.Namespace) -> int:
    """Write a workload's integer graph as ONNX."""
    from accelsim.exporters import export_onnx
    from accelsim.files import check_file

    if arguments.output.suffix != ".onnx":
        raise InputError(f"--output {arguments.output}: an ONNX file's name ends in .onnx; change it")
    check_file(arguments.output)
    graph = source_of(arguments, arguments.workload).graph
    export_onnx(graph, arguments.output, codes=arguments.codes)
    print(f"{arguments.output}: {len(graph.nodes)} nodes in QDQ form, {arguments.output.stat().st_size:,} bytes")
    return 0


def disasm_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim disasm`."""
    parser.add_argument("program", type=Path, metavar="DIR", help="program directory")


def disassemble(arguments: argparse.Namespace) -> int:
    """Print a program as assembler text."""
    from accelsim.isa import load_program, to_text

    program = load_program(arguments.program)
    labels = [layer.name for layer in program.layers]
    width = max(map(len, labels), default=0)
    for index, instruction in enumerate(program.instructions):
        name = labels[instruction.label] if instruction.label < len(labels) else ""
        print(f"{to_text(instruction)}  # {index} {name:{width}}".rstrip())
    return 0
