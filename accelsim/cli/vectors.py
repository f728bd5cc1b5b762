"""The commands `accelsim vectors export`, `check`, `coverage` and `wave`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.cli.arguments import (
    SOURCE_OPTIONS,
    WORKLOAD_HELP,
    check_destinations,
    hardware_of,
    images_of,
    input_argument,
    positive,
    refuse_given,
    source_arguments,
    source_of,
)
from accelsim.cli.provenance import versions
from accelsim.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from accelsim.config import Hardware
    from accelsim.ir import IntegerGraph

WAVE_TEXT = "Step one layer's COMPUTEs register by register, in the machine's own cycles, and write a VCD file."
EXPORT_TEXT = (
    "Write every layer's operands, parameters and expected results as .hex and .npy, with a manifest and benches."
)
CHECK_TEXT = (
    "Compare a dump with a pack: the first divergence, the sum that differs, and what the design did otherwise."
)


def vectors_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim vectors` and its actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write a pack of golden vectors", description=EXPORT_TEXT)
    export.add_argument("workload", metavar="WORKLOAD|DIR", help=f"{WORKLOAD_HELP}; or 'corners', the directed cases")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="pack to write")
    export.add_argument("--level", default="layer", metavar="LEVEL", help="layer, tile or cycle (default: layer)")
    export.add_argument(
        "--policy", metavar="P", help="of the sums: saturating, wrapping or exact (default: hardware's)"
    )
    export.add_argument("--layer", action="append", default=[], metavar="NAME", help="only this layer; repeatable")
    export.add_argument(
        "--simple", action="store_true", help="only layers without zero points and with one multiplier a tensor"
    )
    export.add_argument("--images", type=int, default=1, metavar="N", help="images (default: 1)")
    _own_hardware_arguments(export)
    export.set_defaults(command=vectors_export, parser=export)
    check = actions.add_parser("check", help="find where a design's dump first differs", description=CHECK_TEXT)
    check.add_argument("pack", type=Path, metavar="PACK", help="what 'vectors export' wrote")
    check.add_argument("dump", type=Path, metavar="DUMP", help="folder of .hex or .npy files named as in the pack")
    check.add_argument(
        "--trace", type=int, default=40, metavar="N", help="about how many lines of the sum to show (40)"
    )
    check.set_defaults(command=vectors_check, parser=check)
    coverage = actions.add_parser("coverage", help="count what a pack's vectors reach")
    coverage.add_argument("pack", type=Path, metavar="PACK", help="what 'vectors export' wrote")
    coverage.set_defaults(command=vectors_coverage, parser=coverage)
    wave = actions.add_parser("wave", help="the array's registers over time as a VCD file", description=WAVE_TEXT)
    wave.add_argument("workload", metavar="WORKLOAD|DIR", help=WORKLOAD_HELP)
    wave.add_argument("-o", "--output", type=Path, required=True, metavar="F.vcd", help="file to write")
    wave.add_argument("--layer", metavar="NAME", help="the layer to step (default: the first on the array)")
    wave.add_argument("--computes", type=int, metavar="N", help="only its first N COMPUTEs (default: all)")
    _own_hardware_arguments(wave)
    wave.set_defaults(command=vectors_wave, parser=wave, images=1)


def _own_hardware_arguments(parser: argparse.ArgumentParser) -> None:
    """Hardware, source and input of a workload, where a program directory may bring all three."""
    parser.add_argument(
        "--hardware", metavar="F", help="preset or TOML file (default: default_16x16, or a program directory's own)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the hardware")
    source_arguments(parser)
    input_argument(parser)


def vectors_export(arguments: argparse.Namespace) -> int:
    """Write a pack of golden vectors."""
    from accelsim import vectors
    from accelsim.vectors.manifest import OVERFLOW

    _one_of("--level", arguments.level, vectors.LEVELS)
    if arguments.policy is not None:
        _one_of("--policy", arguments.policy, tuple(OVERFLOW))
    positive("--images", arguments.images)
    check_destinations(arguments)
    corners = arguments.workload == vectors.CORNERS
    if corners:
        options = ("images", "input", *SOURCE_OPTIONS)
        refuse_given(arguments, options, "corners has its own layers and inputs")
    request = vectors.Request(
        level=arguments.level,
        policy=arguments.policy,
        layers=arguments.layer,
        simple=arguments.simple,
        command=_export_command(arguments),
        versions=versions(*(() if corners else ("torch",))),
    )
    if corners:
        hardware = hardware_of(arguments)
        manifest, coverage = vectors.export_corners(hardware, arguments.output, request)
    else:
        graph, hardware, codes = _network(arguments)
        manifest, coverage = vectors.export_network(graph, hardware, codes, arguments.output, request)
    tensors = sum(len(layer.tensor) for layer in manifest.layer)
    print(
        f"{arguments.output}: {len(manifest.layer)} layers, {tensors} tensors as .hex and .npy, level {manifest.level}"
    )
    print(vectors.show_coverage(coverage).splitlines()[-1] + " of the points in coverage.toml")
    return 0


def vectors_check(arguments: argparse.Namespace) -> int:
    """Find where a dump first differs from a pack; 1 where it does."""
    from accelsim.vectors import check, load_pack, read_dump

    lines = positive("--trace", arguments.trace)
    pack = load_pack(arguments.pack)
    result = check(pack, read_dump(pack, arguments.dump), trace_lines=lines)
    print(result.text)
    return 0 if result.passed else 1


def vectors_coverage(arguments: argparse.Namespace) -> int:
    """Print what a pack's vectors reach."""
    from accelsim.vectors import load_pack, measure, show_coverage

    pack = load_pack(arguments.pack)
    print(show_coverage(measure(pack.layer(entry) for entry in pack.manifest.layer)))
    return 0


def vectors_wave(arguments: argparse.Namespace) -> int:
    """Write the array's registers over time as VCD."""
    from accelsim.compiler import compile_graph
    from accelsim.pipeline import load_compiled
    from accelsim.report import write_waveform

    if arguments.computes is not None:
        positive("--computes", arguments.computes)
    codes = None
    if (Path(arguments.workload) / "program.bin").exists():
        _network(arguments)  # refuses options that a program directory brings itself
        program, _ = load_compiled(Path(arguments.workload))
    else:
        graph, hardware, codes = _network(arguments)
        program = compile_graph(graph, hardware, 1)
    name, computes, first, last = write_waveform(
        program, arguments.output, layer=arguments.layer, most=arguments.computes, codes=codes
    )
    print(f"{arguments.output}: layer {name}, {computes} COMPUTEs, cycles {first} to {last}")
    return 0


def _network(arguments: argparse.Namespace) -> tuple[IntegerGraph, Hardware, Any]:
    """Graph, hardware and input codes of a workload, or of a program directory, which brings all three."""
    from accelsim.ir import quantize_input
    from accelsim.pipeline import input_codes, load_compiled

    folder = Path(arguments.workload)
    if not (folder / "program.bin").exists():
        hardware = hardware_of(arguments)
        source = source_of(arguments, arguments.workload)
        images, _ = images_of(arguments, source, arguments.images, exactly=True)
        return source.graph, hardware, quantize_input(source.graph, images)
    options = ("hardware", "set", "input", *SOURCE_OPTIONS)
    refuse_given(arguments, options, f"{folder} is a program directory, which brings its own")
    program, graph = load_compiled(folder)
    codes = input_codes(program)
    if arguments.images > len(codes):
        raise InputError(f"--images {arguments.images}: {folder} holds {len(codes)} images; use fewer")
    return graph, program.hardware, codes[: arguments.images]


def _export_command(arguments: argparse.Namespace) -> str:
    """The command without its output folder, so that the same vectors have the same manifest wherever they lie."""
    import shlex

    words = ["accelsim", "vectors", "export", arguments.workload]
    for option in ("level", "policy", "images", "hardware", "quantization", "data", "calibration", "input"):
        value = getattr(arguments, option)
        if value is not None and value != arguments.parser.get_default(option):
            words += [f"--{option}", str(value)]
    for option in ("layer", "set", "quantization_set"):
        for value in getattr(arguments, option):
            words += [f"--{option.replace('_', '-')}", value]
    return shlex.join([*words, *(["--simple"] if arguments.simple else [])])


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{option} {value}: is not one of {', '.join(known)}{did_you_mean(value, known)}")
