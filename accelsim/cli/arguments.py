"""What several commands take, and what they make of it: hardware, source, images, destinations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.errors import InputError

if TYPE_CHECKING:
    from accelsim.config import Hardware, QuantizationScheme
    from accelsim.sources import Source

WORKLOAD_HELP = (
    "a shipped name, a graph or program directory, a quantised file.onnx, file.py:function, or file.csv:layer of a "
    "SCALE-Sim topology"
)


def hardware_arguments(parser: argparse.ArgumentParser, default: str = "default_16x16") -> None:
    """``--hardware`` and ``--set``, for `hardware_of`."""
    parser.add_argument("--hardware", default=default, metavar="F", help="preset or TOML file (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one key of the hardware; repeatable",
    )


def source_arguments(parser: argparse.ArgumentParser) -> None:
    """How a float network becomes an integer graph and where its images come from, for `source_of`."""
    parser.add_argument(
        "--quantization", metavar="F", help="preset or TOML file (default: int8; onnx for an ONNX file)"
    )
    parser.add_argument(
        "--quantization-set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one key of the scheme; repeatable",
    )
    data_argument(parser)
    calibration_argument(parser)


def data_argument(parser: argparse.ArgumentParser) -> None:
    """``--data``."""
    parser.add_argument(
        "--data", metavar="NAME|DIR", help="data set by name, or the folder that holds the workload's own"
    )


def calibration_argument(parser: argparse.ArgumentParser) -> None:
    """``--calibration``, float images."""
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="F.npy",
        help="float images to calibrate on (default: 1,024 training images)",
    )


def input_argument(parser: argparse.ArgumentParser) -> None:
    """``--input``, for `images_of`."""
    parser.add_argument(
        "--input", type=Path, metavar="F.npy", help="float images (N, C, H, W) to run (default: test images)"
    )


def batch_argument(parser: argparse.ArgumentParser) -> None:
    """``--batch``; `positive` checks it."""
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="images of one run (default: 1)")


def test_images_argument(parser: argparse.ArgumentParser) -> None:
    """``--images``, of a command that takes all test images unless told; `positive` checks it."""
    parser.add_argument("--images", type=int, metavar="N", help="test images (default: all there are)")


def energy_argument(parser: argparse.ArgumentParser) -> None:
    """``--energy``, for `accelsim.energy.load_energy`."""
    parser.add_argument(
        "--energy",
        default="horowitz_45nm",
        metavar="F",
        help="energy table, preset or TOML file (default: %(default)s)",
    )


def threads_argument(parser: argparse.ArgumentParser) -> None:
    """``--threads``; `positive` checks it."""
    parser.add_argument("--threads", type=int, metavar="T", help="slices of images at a time (default: all cores)")


def hardware_of(arguments: argparse.Namespace) -> Hardware:
    """The hardware the user asks for, the default machine where they ask for none."""
    from accelsim.config import load_hardware

    return load_hardware(arguments.hardware or "default_16x16", arguments.set)


def source_of(arguments: argparse.Namespace, workload: str) -> Source:
    """The network of a workload, quantised as the user asks; refuses options it has settled already."""
    from accelsim.sources import find_workload

    refuse_settled(arguments, workload)
    scheme = scheme_of(arguments, workload)
    return find_workload(workload, quantization=scheme, data=arguments.data, calibration=arguments.calibration)


def scheme_of(arguments: argparse.Namespace, workload: str) -> QuantizationScheme | None:
    """The scheme the user asks for; None where they ask for none."""
    from accelsim.config import load_quantization

    if arguments.quantization is None and not arguments.quantization_set:
        return None
    default = "onnx" if workload.endswith(".onnx") else "int8"
    return load_quantization(arguments.quantization or default, arguments.quantization_set)


def images_of(
    arguments: argparse.Namespace, source: Source, count: int | None, *, exactly: bool = False
) -> tuple[Any, Any]:
    """Images and labels (or None): those of --input, at most or exactly `count`, or the first `count` test images.

    None: all there are.
    """
    from accelsim.sources import load_images, read_images

    if arguments.input is None:
        found = load_images(source, arguments.data, count)
        return found.images, found.labels
    images = read_images(arguments.input)
    if exactly and count is not None and count > len(images):
        raise InputError(f"--input {arguments.input}: holds {len(images)} images, {count} are asked for; use fewer")
    return images[:count] if exactly else images, None


SOURCE_OPTIONS = ("quantization", "quantization_set", "data", "calibration")
"""The options of `source_arguments`."""

SETTLED = ("quantization", "quantization_set", "calibration")
"""What a graph directory has settled already."""


def refuse_settled(arguments: argparse.Namespace, workload: str) -> None:
    """Refuse options that a graph or program directory would not take."""
    from accelsim.sources import graph_folder

    if graph_folder(workload) is not None:
        refuse_given(arguments, SETTLED, f"{workload} is a graph directory, quantised already")


def refuse_given(arguments: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """Refuse the first of some options that was given and would change nothing."""
    for option in options:
        if getattr(arguments, option) != arguments.parser.get_default(option):
            name = f"--{option.replace('_', '-')}"
            raise InputError(f"{name}: {why}; leave {name} out")


def positive(option: str, value: int) -> int:
    """The value of an option that counts something, refused below 1."""
    if value < 1:
        raise InputError(f"{option} {value}: must be at least 1")
    return value


def check_destinations(arguments: argparse.Namespace) -> None:
    """Refuse what could not be written in the end before hours of work, not after them."""
    from accelsim.files import check_file, check_folder

    for option in ("output", "figures", "dump_tensors", "export"):
        if getattr(arguments, option, None) is not None:
            check_folder(getattr(arguments, option))
    for option in ("json", "html", "trace"):
        if getattr(arguments, option, None) is not None:
            check_file(getattr(arguments, option))
