"""The parser, its commands, and what every command's ending prints: refusals, warnings, exit codes."""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from accelsim import __version__
from accelsim.cli.animate import animate, animate_arguments
from accelsim.cli.arithmetic import arithmetic, arithmetic_arguments
from accelsim.cli.compare import compare, compare_arguments
from accelsim.cli.compile import (
    compile_arguments,
    compile_program,
    disasm_arguments,
    disassemble,
    export,
    export_arguments,
    quantize,
    quantize_arguments,
)
from accelsim.cli.cosim import cosim, cosim_arguments
from accelsim.cli.diff import diff, diff_arguments
from accelsim.cli.evaluate import evaluate, evaluate_arguments
from accelsim.cli.explain import explain, explain_arguments
from accelsim.cli.list import list_names
from accelsim.cli.plot import plot, plot_arguments
from accelsim.cli.requant_diff import requant_diff, requant_diff_arguments
from accelsim.cli.run import run, run_arguments, simulate, simulate_arguments
from accelsim.cli.study import accumulator, accumulator_arguments, study, study_arguments
from accelsim.cli.sweep import sweep, sweep_arguments
from accelsim.cli.topology import topology, topology_arguments
from accelsim.cli.vectors import vectors_arguments, vectors_export
from accelsim.errors import InputError, did_you_mean, one_of

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


@contextmanager
def _interrupts_that_are_swallowed_come_again() -> Iterator[None]:
    """Deliver a Ctrl-C once more that came while a compiled library called back, where Python only reports it.

    Numba's compiler spends seconds in such callbacks.
    """

    def again(swallowed: Any) -> None:
        if not issubclass(swallowed.exc_type, KeyboardInterrupt):
            before(swallowed)
            return
        main_thread = threading.main_thread().ident
        assert main_thread is not None  # it runs
        timer = threading.Timer(0.05, signal.pthread_kill, (main_thread, signal.SIGINT))
        timer.daemon = True
        timer.start()

    before = sys.unraisablehook
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


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
        with warnings.catch_warnings(), _interrupts_that_are_swallowed_come_again():
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
    """The parser of the whole command line, every command's arguments included."""
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


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": (run, "compile, simulate, check every bit against the reference, report", run_arguments),
    "compile": (compile_program, "write a program directory", compile_arguments),
    "quantize": (quantize, "write a workload's integer graph", quantize_arguments),
    "topology": (topology, "write a workload's layers as a SCALE-Sim topology", topology_arguments),
    "export": (export, "write a workload's integer graph as ONNX in QDQ form", export_arguments),
    "evaluate": (evaluate, "accuracy and confusions on test images, on the fast engine", evaluate_arguments),
    "accumulator": (
        accumulator,
        "accuracy, cycles and energy against accumulator width; smallest widths",
        accumulator_arguments,
    ),
    "sweep": (sweep, "many machines, schemes and workloads: every point measured once", sweep_arguments),
    "plot": (plot, "figures of a sweep and a page to look around in", plot_arguments),
    "animate": (
        animate,
        "a matrix product on the array, cycle by cycle, as a page",
        animate_arguments,
    ),
    "study": (study, "accuracy of a network quantised in many ways: one study file, one table", study_arguments),
    "compare": (compare, "two models on the same images, node by node: codes off by 1, 2, more", compare_arguments),
    "requant-diff": (
        requant_diff,
        "where two requantisations differ, by how much, and what it does to accuracy",
        requant_diff_arguments,
    ),
    "diff": (diff, "two runs side by side, from their reports: configuration, cycles, energy, stalls", diff_arguments),
    "explain": (explain, "why a layer takes its cycles, and what would help: what-ifs, simulated", explain_arguments),
    "arithmetic": (
        arithmetic,
        "one matrix product with float32 and int8 operands: cycles, energy, accuracy",
        arithmetic_arguments,
    ),
    "simulate": (simulate, "run a program directory and check it", simulate_arguments),
    "cosim": (cosim, "the same program on the RTL: bits, cycles and counts compared", cosim_arguments),
    "disasm": (disassemble, "print a program as assembler text", disasm_arguments),
    "vectors": (vectors_export, "golden vectors for other designs: export, check, coverage, wave", vectors_arguments),
    "list": (list_names, "workloads and presets there are", lambda _: None),
}
