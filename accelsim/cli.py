"""The command line. Heavy imports happen inside the commands, so that ``accelsim --help`` answers at once."""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from accelsim import __version__
from accelsim.cli_animate import animate, animate_arguments
from accelsim.cli_arithmetic import arithmetic, arithmetic_arguments
from accelsim.cli_diff import diff, diff_arguments
from accelsim.cli_explain import explain, explain_arguments
from accelsim.cli_plot import plot, plot_arguments
from accelsim.cli_sweep import sweep, sweep_arguments
from accelsim.cli_topology import run_topology, topology, topology_arguments
from accelsim.errors import InputError, did_you_mean, one_of

if TYPE_CHECKING:
    from accelsim.config import Hardware, QuantizationScheme
    from accelsim.energy import EnergyTable
    from accelsim.ir import IntegerGraph
    from accelsim.isa import Program
    from accelsim.pipeline import Outcome
    from accelsim.report import Side
    from accelsim.sources import Source

EPILOG = """examples:
  accelsim run lenet5_digits                          LeNet-5 on the embedded digits, default machine
  accelsim run lenet5 --data FOLDER --images 100      MNIST from FOLDER, 100 images checked bit by bit
  accelsim run lenet5_digits --set array.dataflow=os --set accumulator.width_bits=18
  accelsim run lenet5_digits --hardware edge_8x8 --energy horowitz_45nm --json out.json
  accelsim compile lenet5_digits -o build && accelsim simulate build && accelsim disasm build

exit codes: 0 done; 1 a check failed; 2 bad input (one line says what and how to mend it)"""


class _Parser(argparse.ArgumentParser):
    """Usage errors as one line with exit code 2, and a hint for a mistyped command or option."""

    def error(self, message: str) -> NoReturn:
        if found := re.match(r"argument COMMAND: invalid choice: (.*) \(choose from ", message, re.DOTALL):
            word = ast.literal_eval(found[1])
            message = f"{word!r} is not a command{did_you_mean(word, COMMANDS)}; commands: {', '.join(COMMANDS)}"
        else:
            message += f"; see '{self.prog} --help'"
        print(f"accelsim: error: {InputError(message)}", file=sys.stderr)
        raise SystemExit(2)

    def refuse_unknown(self, words: list[str]) -> NoReturn:
        """Words that are no argument of this command."""
        word = words[0].partition("=")[0]
        hint = self._key_meant(word)
        hint = hint or did_you_mean(word, [name for name in self._option_string_actions if len(name) > 2])
        self.error(f"unknown arguments: {' '.join(words)}{hint}")

    def _key_meant(self, word: str) -> str:
        """A hint for an option that is no option but a key of the hardware or the scheme: --dataflow, --weight-bits."""
        from accelsim.config import Hardware, QuantizationScheme, whole_keys

        found = []
        for option, model in (("--set", Hardware), ("--quantization-set", QuantizationScheme)):
            if option in self._option_string_actions and word.startswith("--"):
                found += [f"{option} {key}=..." for key in whole_keys(model, word[2:].replace("-", "_"))]
        return one_of(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        getattr(arguments, "parser", parser).refuse_unknown(unknown)
    if not hasattr(arguments, "command"):
        parser.print_help()
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding cannot
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            code: int = arguments.command(arguments)
            if sys.stdout is not None:  # closed by the caller: `>&-`
                sys.stdout.flush()
            return code
    except InputError as error:
        return _refuse(str(error))
    except MemoryError as error:
        return _refuse(f"not enough memory: {error or 'none left'}; use fewer images or a smaller batch")
    except KeyboardInterrupt:
        print("accelsim: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        _drop_output()
        return 0
    except OSError as error:
        if error.filename is not None:  # a name no file can have
            return _refuse(f"{error.filename}: {error.strerror}; check the path")
        _drop_output()
        return _refuse(f"cannot write the output: {error.strerror or error}; send it elsewhere")


def _refuse(message: str) -> int:
    print(f"accelsim: error: {InputError(message)}", file=sys.stderr)
    return 2


def _drop_output() -> None:
    """Standard output takes no more: let what is still buffered go nowhere, so that exiting does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if category.__module__.startswith("accelsim"):
        print(f"accelsim: warning: {message}", file=sys.stderr)


def build_parser() -> _Parser:
    parser = _Parser(
        prog="accelsim",
        description="Golden model of an int8 systolic-array accelerator: bits, cycles and energy of a network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"accelsim {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    for name, (function, summary, arguments) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(command=function, parser=sub)
        arguments(sub)
    return parser


# Arguments ----------------------------------------------------------------------------------------------------


WORKLOAD_HELP = (
    "a shipped name, a graph or program directory, a quantised file.onnx, file.py:function, or file.csv:layer of a "
    "SCALE-Sim topology"
)


def _hardware_arguments(parser: argparse.ArgumentParser, default: str = "default_16x16") -> None:
    parser.add_argument("--hardware", default=default, metavar="F", help="preset or TOML file (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one key of the hardware; repeatable",
    )


def _source_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--data", metavar="NAME|DIR", help="data set by name, or the folder that holds the workload's own"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="F.npy",
        help="float images to calibrate on (default: 1,024 training images)",
    )


def _input_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input", type=Path, metavar="F.npy", help="float images (N, C, H, W) to run (default: test images)"
    )


def _batch_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="images of one run (default: 1)")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--energy",
        default="horowitz_45nm",
        metavar="F",
        help="energy table, preset or TOML file (default: %(default)s)",
    )
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


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    _hardware_arguments(parser)
    _source_arguments(parser)
    _batch_argument(parser)
    _input_argument(parser)
    parser.add_argument("--images", type=int, metavar="N", help="images to run and check (default: one batch)")
    _report_arguments(parser)
    parser.add_argument(
        "--dump-tensors", type=Path, metavar="DIR", help="write every node's tensor as .npy, with a manifest"
    )


def _compile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    _hardware_arguments(parser)
    _source_arguments(parser)
    _batch_argument(parser)
    _input_argument(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="program directory to write")


def _quantize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    _source_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="graph directory to write")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    _source_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="F.onnx", help="file to write")
    parser.add_argument("--codes", action="store_true", help="make every node's codes an output of the model too")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    _hardware_arguments(parser)
    _source_arguments(parser)
    _test_images_argument(parser)
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write what was found as JSON; /dev/stdout: in place of the text"
    )
    _threads_argument(parser)


def _accumulator_arguments(parser: argparse.ArgumentParser) -> None:
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
    _hardware_arguments(parser)
    _source_arguments(parser)
    _input_argument(parser)
    _test_images_argument(parser)
    parser.add_argument(
        "--energy",
        default="horowitz_45nm",
        metavar="F",
        help="energy table, preset or TOML file (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="gets study.json, study.csv and the figure, and keeps finished parts: an interrupted study goes on from "
        "them (default: results/accumulator_WORKLOAD)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write the study as JSON elsewhere; /dev/stdout: in place of the text"
    )
    _threads_argument(parser)


def _study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="NAME|F.toml", help="a shipped study, or a file of yours")
    parser.add_argument(
        "--data", metavar="NAME|DIR", help="data set by name, or the folder that holds the workloads' own"
    )
    parser.add_argument("--images", type=int, metavar="N", help="test images (default: as the study says)")
    parser.add_argument("--seeds", metavar="0,1,2", help="instead of the study's")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="gets study.json, study.csv and the figure, and keeps finished parts: an interrupted study goes on from "
        "them (default: results/study_NAME)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write the study as JSON elsewhere; /dev/stdout: in place of the text"
    )
    _threads_argument(parser)


def _test_images_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, metavar="N", help="test images (default: all there are)")


def _threads_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="T", help="slices of images at a time (default: all cores)")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help=WORKLOAD_HELP)
    parser.add_argument(
        "second",
        metavar="B",
        nargs="?",
        help="another; left out: what the library that quantised A makes of the images (a PT2E model)",
    )
    _hardware_arguments(parser)
    _source_arguments(parser)
    parser.add_argument(
        "--second-quantization", metavar="F", help="scheme of B, where it is float and another than A's"
    )
    _input_argument(parser)
    parser.add_argument("--images", type=int, default=20, metavar="N", help="images to compare (default: %(default)s)")


def _requant_diff_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--data", metavar="NAME|DIR", help="data set by name, or the folder that holds the workload's own"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="F.npy",
        help="float images to calibrate on (default: 1,024 training images)",
    )
    _input_argument(parser)
    _test_images_argument(parser)
    _hardware_arguments(parser)
    _threads_argument(parser)
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write what was found as JSON; /dev/stdout: in place of the text"
    )


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", type=Path, metavar="DIR", help="program directory")
    parser.add_argument(
        "--input", type=Path, metavar="F.npy", help="float images of one batch (default: those compiled in)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-check", action="store_true", help="compute values, but compare them with nothing")
    how.add_argument("--timing-only", action="store_true", help="cycles, counts and energy alone: no values, no check")
    _report_arguments(parser)


def _cosim_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD|DIR", help=f"{WORKLOAD_HELP}; of a program directory, as it is")
    _hardware_arguments(parser, "rtl_8x8")
    _source_arguments(parser)
    _batch_argument(parser)
    _input_argument(parser)
    parser.add_argument(
        "--simulator",
        choices=("verilator", "icarus"),
        default="verilator",
        help="what runs the RTL (default: %(default)s)",
    )
    parser.add_argument(
        "--jitter",
        type=int,
        default=0,
        metavar="SEED",
        help="let the RTL's DRAM refuse and delay beats at random: bits must stay, cycles are not compared",
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="also write the SystemVerilog with this machine's parameters"
    )


def _disasm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", type=Path, metavar="DIR", help="program directory")


# Commands -----------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from accelsim.compiler import compile_graph
    from accelsim.energy import load_energy
    from accelsim.ir import quantize_input
    from accelsim.pipeline import run_checked
    from accelsim.report import dump_tensors
    from accelsim.sources import topology_layers

    _positive("--batch", arguments.batch)
    count = arguments.batch if arguments.images is None else _positive("--images", arguments.images)
    _check_destinations(arguments)
    energy = load_energy(arguments.energy)
    hardware = _hardware(arguments)
    if len(names := topology_layers(arguments.workload)) > 1:
        return run_topology(arguments, names, hardware, energy, _scheme(arguments, arguments.workload))
    source = _source(arguments, arguments.workload)
    images, labels = _images(arguments, source, count, exactly=arguments.images is not None)
    program = compile_graph(source.graph, hardware, arguments.batch)
    codes = quantize_input(source.graph, images)
    with _progress(len(codes)) as progress:
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


def _compile(arguments: argparse.Namespace) -> int:
    from accelsim.compiler import compile_graph
    from accelsim.ir import quantize_input
    from accelsim.pipeline import save_compiled

    _positive("--batch", arguments.batch)
    _check_destinations(arguments)
    hardware = _hardware(arguments)
    source = _source(arguments, arguments.workload)
    program = compile_graph(source.graph, hardware, arguments.batch)
    images, _ = _images(arguments, source, arguments.batch, exactly=True)
    save_compiled(program, source.graph, quantize_input(source.graph, images), arguments.output)
    print(
        f"{arguments.output}: {len(program.instructions)} instructions, {program.dram.size:,} bytes of DRAM, "
        f"batch {program.batch}, for {hardware.name}"
    )
    return 0


def _quantize(arguments: argparse.Namespace) -> int:
    from accelsim.ir import Mac, save_graph

    _check_destinations(arguments)
    graph = _source(arguments, arguments.workload).graph
    save_graph(graph, arguments.output)
    weights = sum(node.weight.size for node in graph.nodes if isinstance(node, Mac))
    print(f"{arguments.output}: {len(graph.nodes)} nodes, {weights:,} weights, zero points {graph.zero_points}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from accelsim.files import is_standard_output, write_json
    from accelsim.pipeline import evaluate
    from accelsim.report import evaluation_report, show_evaluation
    from accelsim.sources import load_images

    count = None if arguments.images is None else _positive("--images", arguments.images)
    threads = None if arguments.threads is None else _positive("--threads", arguments.threads)
    _check_destinations(arguments)
    hardware = _hardware(arguments)
    source = _source(arguments, arguments.workload)
    if source.dataset is None:
        raise InputError(f"{arguments.workload}: its images have no labels; give --data NAME of a data set")
    if source.seeded:
        raise InputError(f"{arguments.workload}: nobody trained its weights, so its accuracy means nothing; use run")
    found = load_images(source, arguments.data, count)
    assert found.labels is not None
    with _progress(len(found.images)) as progress:
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


def _accumulator(arguments: argparse.Namespace) -> int:
    from accelsim.energy import load_area, load_energy
    from accelsim.explore import Question, Study, parse_widths
    from accelsim.ir import quantize_input
    from accelsim.report import show_study, study_csv, study_figure

    widths = parse_widths(arguments.widths)
    count = None if arguments.images is None else _positive("--images", arguments.images)
    threads = None if arguments.threads is None else _positive("--threads", arguments.threads)
    if not 0 <= arguments.tolerance <= 100:
        raise InputError(f"--tolerance {arguments.tolerance:g}: must be 0..100 percentage points")
    if arguments.output is None:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", arguments.workload.strip("/")).strip("_.") or "study"
        arguments.output = Path("results") / f"accumulator_{name}"
    _check_destinations(arguments)
    table = load_energy(arguments.energy)
    hardware = _hardware(arguments)
    source = _source(arguments, arguments.workload)
    images, labels = _images(arguments, source, count, exactly=count is not None)
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
    with _Bars() as progress:
        study = Study(question, arguments.output, progress)
        found = study.run()
    return _write_study(arguments, found, study.parts.reused, show_study, study_csv, study_figure)


def _study(arguments: argparse.Namespace) -> int:
    from accelsim.config import load_study
    from accelsim.explore import SchemeStudy
    from accelsim.report import scheme_study_csv, scheme_study_figure, show_scheme_study

    images = None if arguments.images is None else _positive("--images", arguments.images)
    threads = None if arguments.threads is None else _positive("--threads", arguments.threads)
    seeds = None if arguments.seeds is None else _seeds(arguments.seeds)
    plan = load_study(arguments.study, seeds)
    if arguments.output is None:
        arguments.output = Path("results") / f"study_{plan.name}"
    _check_destinations(arguments)
    with _Bars() as progress:
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


def _compare(arguments: argparse.Namespace) -> int:
    from accelsim.report import compare_networks, show_comparison
    from accelsim.sources import graph_folder

    count = _positive("--images", arguments.images)
    hardware = _hardware(arguments)
    first = _source(_for_side(arguments, arguments.first, arguments.second), arguments.first)
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
        second = _source(given, arguments.second)
        b = _side(second, hardware)
    takes = [(x.channels, x.height, x.width) for x in (a.graph.input.output, b.graph.input.output)]
    if takes[0] != takes[1]:
        raise InputError(
            f"{arguments.first} takes (C, H, W) = {takes[0]} and {arguments.second} {takes[1]}; "
            "compare models of one input shape"
        )
    images, labels = _images(arguments, first if first.dataset or first.example is not None else second, count)
    print(show_comparison(compare_networks(a, b, images, labels)))
    return 0


def _for_side(arguments: argparse.Namespace, workload: str, other: str | None) -> argparse.Namespace:
    """The arguments for one of two networks: a scheme and calibration are for the one that needs them."""
    from accelsim.sources import graph_folder

    given = argparse.Namespace(**vars(arguments))
    if graph_folder(workload) is not None and other is not None and graph_folder(other) is None:
        for option in _SETTLED:
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


REFERENCE_MACS = 50_000_000
"""About what the reference evaluates in the seconds that compiling the engine's kernels takes."""


def _export(arguments: argparse.Namespace) -> int:
    from accelsim.exporters import export_onnx
    from accelsim.files import check_file

    if arguments.output.suffix != ".onnx":
        raise InputError(f"--output {arguments.output}: an ONNX file's name ends in .onnx; change it")
    check_file(arguments.output)
    graph = _source(arguments, arguments.workload).graph
    export_onnx(graph, arguments.output, codes=arguments.codes)
    print(f"{arguments.output}: {len(graph.nodes)} nodes in QDQ form, {arguments.output.stat().st_size:,} bytes")
    return 0


def _requant_diff(arguments: argparse.Namespace) -> int:
    from accelsim.config import load_quantization
    from accelsim.explore.requantization import FORMAT, VERSION, compare_sweep
    from accelsim.files import is_standard_output, write_json
    from accelsim.report import show_requantization_difference

    _positive("--samples", arguments.samples)
    if arguments.samples > MOST_SAMPLES:
        raise InputError(f"--samples {arguments.samples}: must be at most {MOST_SAMPLES}")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: must be at least 0")
    for option in ("images", "threads"):
        if getattr(arguments, option) is not None:
            _positive(f"--{option}", getattr(arguments, option))
    if arguments.workload is None:
        options = ("quantization", *_SOURCE_OPTIONS[1:], "input", "images", "hardware", "set", "threads")
        _refuse_given(arguments, options, "without --workload there is no network to run; name one")
    _check_destinations(arguments)
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
        document["network"] = _requant_diff_network(arguments, a, b)
    if arguments.json is not None:
        write_json(arguments.json, document)
        if is_standard_output(arguments.json):
            return 0
    print(show_requantization_difference(document))
    return 0


MOST_SAMPLES = 10_000_000
"""Pairs of a kind: some hundreds of bytes each while they are compared."""


def _requant_diff_network(
    arguments: argparse.Namespace, a: QuantizationScheme, b: QuantizationScheme
) -> dict[str, Any]:
    """The part of a comparison that runs a network."""
    from accelsim.config import load_quantization
    from accelsim.config.quantization import differing_keys
    from accelsim.explore.requantization import compare_networks, with_requantization
    from accelsim.ir import quantize_input
    from accelsim.sources import find_workload, graph_folder

    hardware = _hardware(arguments)
    ready = graph_folder(arguments.workload) is not None
    if ready:
        _refuse_settled(arguments, arguments.workload)
    elif arguments.quantization is None:
        _refuse_given(arguments, ("quantization_set",), "overrides keys of --quantization, which is not given")
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
    images, labels = _images(arguments, first, arguments.images, exactly=arguments.images is not None)
    graphs = (first.graph, source(b).graph if keys else first.graph)
    if not keys:
        how = (a.requantization.numerics(), b.requantization.numerics())
        graphs = (with_requantization(first.graph, how[0]), with_requantization(first.graph, how[1]))
    with _progress(len(images)) as progress:
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


def _simulate(arguments: argparse.Namespace) -> int:
    from accelsim.energy import load_energy
    from accelsim.ir import quantize_input
    from accelsim.pipeline import input_codes, load_compiled, run_checked, run_unchecked
    from accelsim.sources import read_images

    _check_destinations(arguments)
    if arguments.timing_only:
        _refuse_given(arguments, ("input", "telemetry"), "--timing-only computes no values")
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


def _cosim(arguments: argparse.Namespace) -> int:
    from accelsim.rtl import (
        COUNTERS,
        Parameters,
        build,
        check_export,
        check_supported,
        cosimulate,
        require,
        write_sources,
    )

    _positive("--batch", arguments.batch)
    _check_destinations(arguments)
    if arguments.export is not None:
        check_export(arguments.export)
    if arguments.jitter < 0 or arguments.jitter >= 1 << 31:
        raise InputError(f"--jitter {arguments.jitter}: must be 0 (none) or a seed up to {(1 << 31) - 1}")
    require(arguments.simulator)
    program = _program_to_cosimulate(arguments)
    check_supported(program)
    parameters = Parameters.of(program.hardware)
    if arguments.export is not None:
        write_sources(parameters, arguments.export)
    built = build(parameters, arguments.simulator)
    result = cosimulate(program, arguments.simulator, built=built, jitter=arguments.jitter)
    print(f"{program.name} on {program.hardware.name}, batch {program.batch}: machine and RTL in {arguments.simulator}")
    if result.difference is not None:
        print(f"DIFFERENT: {result.difference}")
        return 1
    assert result.model.cycles is not None
    assert result.rtl.cycles is not None
    if arguments.jitter:
        print(f"cycles    {result.model.cycles:,} without, {result.rtl.cycles:,} with a DRAM that delays at random")
    else:
        print(f"cycles    {result.rtl.cycles:,}; issue, done and stalls of {result.instructions} instructions equal")
    print(f"DRAM      {program.dram.size:,} bytes equal")
    print(f"counters  {len(COUNTERS)} equal; {result.rtl.counts['mul']:,} products")
    return 0


def _program_to_cosimulate(arguments: argparse.Namespace) -> Program:
    """A program directory's own, input included, or the workload compiled for the chosen hardware."""
    from accelsim.compiler import compile_graph
    from accelsim.ir import quantize_input
    from accelsim.isa import load_program

    folder = Path(arguments.workload)
    if (folder / "program.bin").exists():
        for option in ("hardware", "set", "quantization", "quantization_set", "data", "calibration", "batch", "input"):
            if getattr(arguments, option) != arguments.parser.get_default(option):
                name = f"--{option.replace('_', '-')}"
                raise InputError(f"{name}: {folder} is compiled already, input included; give its workload instead")
        return load_program(folder)
    hardware = _hardware(arguments)
    source = _source(arguments, arguments.workload)
    program = compile_graph(source.graph, hardware, arguments.batch)
    images, _ = _images(arguments, source, arguments.batch, exactly=True)
    return program.with_input(quantize_input(source.graph, images))


def _disasm(arguments: argparse.Namespace) -> int:
    from accelsim.isa import load_program, to_text

    program = load_program(arguments.program)
    labels = [layer.name for layer in program.layers]
    width = max(map(len, labels), default=0)
    for index, instruction in enumerate(program.instructions):
        name = labels[instruction.label] if instruction.label < len(labels) else ""
        print(f"{to_text(instruction)}  # {index} {name:{width}}".rstrip())
    return 0


def _list(_: argparse.Namespace) -> int:
    from accelsim import workloads
    from accelsim.config import preset_names
    from accelsim.config.sweep import load_sweep

    print("workloads")
    for name in workloads.names():
        info = workloads.describe(name)
        accuracy = info.float_accuracy
        known = "seeded, not trained" if accuracy is None else f"float accuracy {100 * accuracy:.2f} %"
        print(f"  {name:<16} {info.summary} ({info.dataset}, {known})")
    for kind in ("hardware", "energy", "quantization", "studies"):
        print(f"{kind}\n  {'  '.join(preset_names(kind))}")
    print("sweeps")
    for name in preset_names("sweeps"):
        print(f"  {name:<20} {load_sweep(name).title}")
    return 0


def _hardware(arguments: argparse.Namespace) -> Hardware:
    from accelsim.config import load_hardware

    return load_hardware(arguments.hardware or "default_16x16", arguments.set)


def _source(arguments: argparse.Namespace, workload: str) -> Source:
    from accelsim.sources import find_workload

    _refuse_settled(arguments, workload)
    scheme = _scheme(arguments, workload)
    return find_workload(workload, quantization=scheme, data=arguments.data, calibration=arguments.calibration)


def _scheme(arguments: argparse.Namespace, workload: str) -> QuantizationScheme | None:
    """The scheme the user asks for; None where they ask for none."""
    from accelsim.config import load_quantization

    if arguments.quantization is None and not arguments.quantization_set:
        return None
    default = "onnx" if workload.endswith(".onnx") else "int8"
    return load_quantization(arguments.quantization or default, arguments.quantization_set)


_SETTLED = ("quantization", "quantization_set", "calibration")
"""What a graph directory has settled already."""


def _refuse_settled(arguments: argparse.Namespace, workload: str) -> None:
    """Refuse options that a graph or program directory would not take."""
    from accelsim.sources import graph_folder

    if graph_folder(workload) is not None:
        _refuse_given(arguments, _SETTLED, f"{workload} is a graph directory, quantised already")


def _images(
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
        page = html_report(outcome, graph, report, _command(arguments), _run_versions())
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


def _check_destinations(arguments: argparse.Namespace) -> None:
    """Refuse what could not be written in the end before hours of work, not after them."""
    from accelsim.files import check_file, check_folder

    for option in ("output", "figures", "dump_tensors", "export"):
        if getattr(arguments, option, None) is not None:
            check_folder(getattr(arguments, option))
    for option in ("json", "html", "trace"):
        if getattr(arguments, option, None) is not None:
            check_file(getattr(arguments, option))


_DESTINATIONS = frozenset({"json", "html", "figures", "dump_tensors", "trace"})
"""Options of a run that say where something is written, and change nothing of it."""


def _command(arguments: argparse.Namespace) -> str:
    """The command of a run without its destinations, so that the same run has the same page wherever it lies."""
    import shlex

    words = arguments.parser.prog.split()
    for action in arguments.parser._actions:
        value = getattr(arguments, action.dest, None)
        if action.dest in _DESTINATIONS or value is None or value == action.default:
            continue
        if not action.option_strings:
            words.append(str(value))
        elif value is True:
            words.append(action.option_strings[-1])
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [action.option_strings[-1], str(one)]
    return shlex.join(words)


def _run_versions() -> dict[str, str]:
    """Versions of what a run's numbers come from; torch where it was asked for anything."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {**_versions("simpy", *(("torch",) if "torch" in sys.modules else ())), "python": python}


def _positive(option: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{option} {value}: must be at least 1")
    return value


class _Bars:
    """A progress bar for each stage of long work on a terminal, and nothing in a pipe."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._update if sys.stderr.isatty() else lambda *_: None

    def _update(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage != self._stage or done < self._bar.n:
            self.__exit__()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, unit="image", leave=False)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class _progress:
    """A progress bar on a terminal, and nothing in a pipe."""

    def __init__(self, total: int):
        self._total = total
        self._bar: Any = None

    def __enter__(self) -> Callable[[int], None]:
        if self._total > 1 and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit="image", leave=False)
        return self._update

    def _update(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


# vectors ------------------------------------------------------------------------------------------------------


def _vectors_arguments(parser: argparse.ArgumentParser) -> None:
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
    export.set_defaults(command=_vectors_export, parser=export)
    check = actions.add_parser("check", help="find where a design's dump first differs", description=CHECK_TEXT)
    check.add_argument("pack", type=Path, metavar="PACK", help="what 'vectors export' wrote")
    check.add_argument("dump", type=Path, metavar="DUMP", help="folder of .hex or .npy files named as in the pack")
    check.add_argument(
        "--trace", type=int, default=40, metavar="N", help="about how many lines of the sum to show (40)"
    )
    check.set_defaults(command=_vectors_check, parser=check)
    coverage = actions.add_parser("coverage", help="count what a pack's vectors reach")
    coverage.add_argument("pack", type=Path, metavar="PACK", help="what 'vectors export' wrote")
    coverage.set_defaults(command=_vectors_coverage, parser=coverage)
    wave = actions.add_parser("wave", help="the array's registers over time as a VCD file", description=WAVE_TEXT)
    wave.add_argument("workload", metavar="WORKLOAD|DIR", help=WORKLOAD_HELP)
    wave.add_argument("-o", "--output", type=Path, required=True, metavar="F.vcd", help="file to write")
    wave.add_argument("--layer", metavar="NAME", help="the layer to step (default: the first on the array)")
    wave.add_argument("--computes", type=int, metavar="N", help="only its first N COMPUTEs (default: all)")
    _own_hardware_arguments(wave)
    wave.set_defaults(command=_vectors_wave, parser=wave, images=1)


def _own_hardware_arguments(parser: argparse.ArgumentParser) -> None:
    """Hardware, source and input of a workload, where a program directory may bring all three."""
    parser.add_argument(
        "--hardware", metavar="F", help="preset or TOML file (default: default_16x16, or a program directory's own)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the hardware")
    _source_arguments(parser)
    _input_argument(parser)


WAVE_TEXT = "Step one layer's COMPUTEs register by register, in the machine's own cycles, and write a VCD file."
EXPORT_TEXT = (
    "Write every layer's operands, parameters and expected results as .hex and .npy, with a manifest and benches."
)
CHECK_TEXT = (
    "Compare a dump with a pack: the first divergence, the sum that differs, and what the design did otherwise."
)


def _vectors_export(arguments: argparse.Namespace) -> int:
    from accelsim import vectors
    from accelsim.vectors.manifest import OVERFLOW

    _one_of("--level", arguments.level, vectors.LEVELS)
    if arguments.policy is not None:
        _one_of("--policy", arguments.policy, tuple(OVERFLOW))
    _positive("--images", arguments.images)
    _check_destinations(arguments)
    corners = arguments.workload == vectors.CORNERS
    if corners:
        options = ("images", "input", *_SOURCE_OPTIONS)
        _refuse_given(arguments, options, "corners has its own layers and inputs")
    request = vectors.Request(
        level=arguments.level,
        policy=arguments.policy,
        layers=arguments.layer,
        simple=arguments.simple,
        command=_export_command(arguments),
        versions=_versions(*(() if corners else ("torch",))),
    )
    if corners:
        hardware = _hardware(arguments)
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


_SOURCE_OPTIONS = ("quantization", "quantization_set", "data", "calibration")


def _refuse_given(arguments: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """Refuse the first of some options that was given and would change nothing."""
    for option in options:
        if getattr(arguments, option) != arguments.parser.get_default(option):
            name = f"--{option.replace('_', '-')}"
            raise InputError(f"{name}: {why}; leave {name} out")


def _network(arguments: argparse.Namespace) -> tuple[IntegerGraph, Hardware, Any]:
    """Graph, hardware and input codes of a workload, or of a program directory, which brings all three."""
    from accelsim.ir import quantize_input
    from accelsim.pipeline import input_codes, load_compiled

    folder = Path(arguments.workload)
    if not (folder / "program.bin").exists():
        hardware = _hardware(arguments)
        source = _source(arguments, arguments.workload)
        images, _ = _images(arguments, source, arguments.images, exactly=True)
        return source.graph, hardware, quantize_input(source.graph, images)
    options = ("hardware", "set", "input", *_SOURCE_OPTIONS)
    _refuse_given(arguments, options, f"{folder} is a program directory, which brings its own")
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


def _versions(*optional: str) -> dict[str, str]:
    """Versions of what made the numbers; `optional` where installed."""
    from importlib import metadata

    found = {"accelsim": __version__}
    for name in ("numpy", *optional):
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def _vectors_check(arguments: argparse.Namespace) -> int:
    from accelsim.vectors import check, load_pack, read_dump

    lines = _positive("--trace", arguments.trace)
    pack = load_pack(arguments.pack)
    result = check(pack, read_dump(pack, arguments.dump), trace_lines=lines)
    print(result.text)
    return 0 if result.passed else 1


def _vectors_coverage(arguments: argparse.Namespace) -> int:
    from accelsim.vectors import load_pack, measure, show_coverage

    pack = load_pack(arguments.pack)
    print(show_coverage(measure(pack.layer(entry) for entry in pack.manifest.layer)))
    return 0


def _vectors_wave(arguments: argparse.Namespace) -> int:
    from accelsim.compiler import compile_graph
    from accelsim.pipeline import load_compiled
    from accelsim.report import write_waveform

    if arguments.computes is not None:
        _positive("--computes", arguments.computes)
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


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{option} {value}: is not one of {', '.join(known)}{did_you_mean(value, known)}")


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": (_run, "compile, simulate, check every bit against the reference, report", _run_arguments),
    "compile": (_compile, "write a program directory", _compile_arguments),
    "quantize": (_quantize, "write a workload's integer graph", _quantize_arguments),
    "topology": (topology, "write a workload's layers as a SCALE-Sim topology", topology_arguments),
    "export": (_export, "write a workload's integer graph as ONNX in QDQ form", _export_arguments),
    "evaluate": (_evaluate, "accuracy and confusions on test images, on the fast engine", _evaluate_arguments),
    "accumulator": (
        _accumulator,
        "accuracy, cycles and energy against accumulator width; smallest widths",
        _accumulator_arguments,
    ),
    "sweep": (sweep, "many machines, schemes and workloads: every point measured once", sweep_arguments),
    "plot": (plot, "figures of a sweep and a page to look around in", plot_arguments),
    "animate": (
        animate,
        "a matrix product on the array, cycle by cycle, as a page",
        animate_arguments,
    ),
    "study": (_study, "accuracy of a network quantised in many ways: one study file, one table", _study_arguments),
    "compare": (_compare, "two models on the same images, node by node: codes off by 1, 2, more", _compare_arguments),
    "requant-diff": (
        _requant_diff,
        "where two requantisations differ, by how much, and what it does to accuracy",
        _requant_diff_arguments,
    ),
    "diff": (diff, "two runs side by side, from their reports: configuration, cycles, energy, stalls", diff_arguments),
    "explain": (explain, "why a layer takes its cycles, and what would help: what-ifs, simulated", explain_arguments),
    "arithmetic": (
        arithmetic,
        "one matrix product with float32 and int8 operands: cycles, energy, accuracy",
        arithmetic_arguments,
    ),
    "simulate": (_simulate, "run a program directory and check it", _simulate_arguments),
    "cosim": (_cosim, "the same program on the RTL: bits, cycles and counts compared", _cosim_arguments),
    "disasm": (_disasm, "print a program as assembler text", _disasm_arguments),
    "vectors": (_vectors_export, "golden vectors for other designs: export, check, coverage, wave", _vectors_arguments),
    "list": (_list, "workloads and presets there are", lambda _: None),
}
