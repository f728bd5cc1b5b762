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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from accelsim import __version__
from accelsim.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from accelsim.config import Hardware
    from accelsim.energy import EnergyTable
    from accelsim.ir import IntegerGraph
    from accelsim.isa import Program
    from accelsim.pipeline import Outcome
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
        hint = did_you_mean(words[0].partition("=")[0], [name for name in self._option_string_actions if len(name) > 2])
        self.error(f"unknown arguments: {' '.join(words)}{hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _build_parser()
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


def _build_parser() -> _Parser:
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


WORKLOAD_HELP = "a shipped name, a graph or program directory, or file.py:function"


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
        "--quantization", default="int8", metavar="F", help="preset or TOML file (default: %(default)s)"
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
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw energy, utilisation, timeline, partial sums")


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


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help=WORKLOAD_HELP)
    _hardware_arguments(parser)
    _source_arguments(parser)
    parser.add_argument("--images", type=int, default=200, metavar="N", help="test images (default: %(default)s)")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help=WORKLOAD_HELP)
    parser.add_argument("second", metavar="B", help=WORKLOAD_HELP)
    _hardware_arguments(parser)
    _source_arguments(parser)
    parser.add_argument(
        "--second-quantization", metavar="F", help="scheme of B, where it is float and another than A's"
    )
    _input_argument(parser)
    parser.add_argument("--images", type=int, default=20, metavar="N", help="images to compare (default: %(default)s)")


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", type=Path, metavar="DIR", help="program directory")
    parser.add_argument(
        "--input", type=Path, metavar="F.npy", help="float images of one batch (default: those compiled in)"
    )
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

    _positive("--batch", arguments.batch)
    count = arguments.batch if arguments.images is None else _positive("--images", arguments.images)
    _check_destinations(arguments)
    energy = load_energy(arguments.energy)
    hardware = _hardware(arguments)
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
    from accelsim.pipeline import evaluate
    from accelsim.report import describe_hardware
    from accelsim.sources import load_images

    count = _positive("--images", arguments.images)
    hardware = _hardware(arguments)
    source = _source(arguments, arguments.workload)
    if source.dataset is None:
        raise InputError(f"{arguments.workload}: its images have no labels; give --data NAME of a data set")
    found = load_images(source, arguments.data, count)
    assert found.labels is not None
    with _progress(count) as progress:
        result = evaluate(source.graph, found.images, found.labels, hardware, progress=progress)
    right = round(result.accuracy * count)
    print(f"{arguments.workload} on {describe_hardware(hardware)}")
    print(f"accuracy        {100 * right / count:.2f} % ({right} of {count} images of {found.source})")
    if source.float_accuracy is not None:
        print(f"float accuracy  {100 * source.float_accuracy:.2f} % (of the whole test set)")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from accelsim.ir import quantize_input
    from accelsim.report import compare_graphs, show_comparison

    count = _positive("--images", arguments.images)
    hardware = _hardware(arguments)
    first = _source(arguments, arguments.first)
    if arguments.second_quantization is not None:
        arguments.quantization = arguments.second_quantization
    second = _source(arguments, arguments.second)
    takes = [(x.channels, x.height, x.width) for x in (first.graph.input.output, second.graph.input.output)]
    if takes[0] != takes[1]:
        raise InputError(
            f"{arguments.first} takes (C, H, W) = {takes[0]} and {arguments.second} {takes[1]}; "
            "compare models of one input shape"
        )
    images, _ = _images(arguments, first if first.dataset or first.example is not None else second, count)
    differences = compare_graphs(
        first.graph,
        second.graph,
        quantize_input(first.graph, images),
        quantize_input(second.graph, images),
        hardware.arithmetic(),
    )
    print(show_comparison(differences))
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    from accelsim.energy import load_energy
    from accelsim.ir import quantize_input
    from accelsim.pipeline import input_codes, load_compiled, run_checked
    from accelsim.sources import read_images

    _check_destinations(arguments)
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
    outcome = run_checked(program, graph, codes, telemetry=arguments.telemetry)
    return _finish(arguments, outcome, graph, energy)


def _cosim(arguments: argparse.Namespace) -> int:
    from accelsim.rtl import COUNTERS, Parameters, build, check_supported, cosimulate, require, write_sources

    _positive("--batch", arguments.batch)
    _check_destinations(arguments)
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
    from dataclasses import replace

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
    dram = program.dram.copy()
    dram[program.input.slice()] = program.input.pack(quantize_input(source.graph, images), program.modes.activation)
    return replace(program, dram=dram)


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

    print("workloads")
    for name in workloads.names():
        info = workloads.describe(name)
        print(f"  {name:<16} {info.summary} ({info.dataset}, float accuracy {100 * info.float_accuracy:.2f} %)")
    for kind in ("hardware", "energy", "quantization"):
        print(f"{kind}\n  {'  '.join(preset_names(kind))}")
    return 0


def _hardware(arguments: argparse.Namespace) -> Hardware:
    from accelsim.config import load_hardware

    return load_hardware(arguments.hardware, arguments.set)


def _source(arguments: argparse.Namespace, workload: str) -> Source:
    from accelsim.config import load_quantization
    from accelsim.sources import find_workload

    scheme = load_quantization(arguments.quantization, arguments.quantization_set)
    return find_workload(workload, quantization=scheme, data=arguments.data, calibration=arguments.calibration)


def _images(arguments: argparse.Namespace, source: Source, count: int, *, exactly: bool = False) -> tuple[Any, Any]:
    """Images and labels (or None): those of --input, at most or exactly `count`, or the first `count` test images."""
    from accelsim.sources import load_images, read_images

    if arguments.input is None:
        found = load_images(source, arguments.data, count)
        return found.images, found.labels
    images = read_images(arguments.input)
    if exactly and count > len(images):
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
    from accelsim.files import is_standard_output, write_json
    from accelsim.report import build_report, price, show, show_image, write_figures

    priced = price(outcome, graph, energy)
    report = build_report(outcome, graph, priced)
    report["float_accuracy"] = float_accuracy
    if arguments.json is not None:
        write_json(arguments.json, report)
    if arguments.figures is not None:
        write_figures(outcome, graph, priced, arguments.figures)
    if arguments.json is not None and is_standard_output(arguments.json):  # JSON alone, for the reader at the other end
        return 0 if report["bit_exact"] else 1
    if image is not None and outcome.outputs is not None and outcome.outputs.ndim == 2:
        label = None if outcome.labels is None else int(outcome.labels[0])
        print(show_image(image, int(outcome.outputs[0].argmax()), label))
        print()
    print(show(report, outcome.program.hardware, priced))
    return 0 if report["bit_exact"] else 1


def _check_destinations(arguments: argparse.Namespace) -> None:
    """Refuse what could not be written in the end before hours of work, not after them."""
    from accelsim.files import check_file, check_folder

    for option in ("output", "figures", "dump_tensors", "export"):
        if getattr(arguments, option, None) is not None:
            check_folder(getattr(arguments, option))
    if getattr(arguments, "json", None) is not None:
        check_file(arguments.json)


def _positive(option: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{option} {value}: must be at least 1")
    return value


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


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": (_run, "compile, simulate, check every bit against the reference, report", _run_arguments),
    "compile": (_compile, "write a program directory", _compile_arguments),
    "quantize": (_quantize, "write a workload's integer graph", _quantize_arguments),
    "evaluate": (_evaluate, "accuracy on test images, on the machine without a clock", _evaluate_arguments),
    "compare": (_compare, "two models on the same images, node by node", _compare_arguments),
    "simulate": (_simulate, "run a program directory and check it", _simulate_arguments),
    "cosim": (_cosim, "the same program on the RTL: bits, cycles and counts compared", _cosim_arguments),
    "disasm": (_disasm, "print a program as assembler text", _disasm_arguments),
    "list": (_list, "workloads and presets there are", lambda _: None),
}
