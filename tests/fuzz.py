"""Hostile input by the thousand: configurations, graphs and programs, damaged at random.

    python tests/fuzz.py [--count 10000] [--seed 1]

Configurations (hardware, quantisation, energy) may load or be refused in one line; those that load compile and run a
small graph, or are refused then. Altered graph and program directories must be refused: loading one is a finding, and
so is any exception but `InputError`. Prints a table and exits with 1 if there are findings.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from graphs import GraphMaker

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, load_quantization, preset_folder
from accelsim.energy import load_energy
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph
from accelsim.machine import Accelerator
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import load_compiled, save_compiled

VALUES = (
    "-1", "0", "1", "2", "7", "16", "255", "256", "65536", "9223372036854775808", "1e9", "0.5", "-0.0", "nan", "inf",
    '"ws"', '"os"', '"is"', '"wrap"', '"end"', '"WS"', '""', '"\\u0000"', "true", "[]", "[1]", '["ws"]', "{}",
    "1979-05-27", "0x10", "'''x'''",
)  # fmt: skip


def small_graph() -> IntegerGraph:
    """A convolution with pooling, a table and a linear layer."""
    maker = GraphMaker(np.random.default_rng(3), Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN))
    node = maker.input(6, 6, 3)
    node = maker.conv(node, 4, (3, 3), padding=(1, 1, 1, 1))
    node = maker.pool(node, "max", (2, 2), (2, 2))
    node = maker.linear(node, 5)
    maker.table(node)
    return maker.graph()


class Fuzzer:
    """Damages files and tries them; `findings` holds what should not have happened."""

    def __init__(self, seed: int, folder: Path):
        self.random = random.Random(seed)
        self.folder = folder
        self.graph = small_graph()
        self.machine = load_hardware("edge_8x8")
        self.results: Counter[tuple[str, str]] = Counter()
        self.findings: list[str] = []
        self.whole = folder / "whole"
        program = compile_graph(self.graph, self.machine)
        save_compiled(program, self.graph, np.zeros((1, 6, 6, 3), np.int64), self.whole)
        load_compiled(self.whole)
        self.files = sorted(path.relative_to(self.whole) for path in self.whole.rglob("*") if path.is_file())

    def attempt(self, kind: str, description: str, work: Callable[[], object], *, must_refuse: bool) -> None:
        """Run `work`; count what it did, note what it should not have done."""
        try:
            work()
        except InputError as error:
            self.results[kind, "refused"] += 1
            if "\n" in str(error):
                self.findings.append(f"{kind}: {description}: message of several lines")
        except Exception:
            self.results[kind, "traceback"] += 1
            self.findings.append(f"{kind}: {description}:\n{traceback.format_exc()}")
        else:
            self.results[kind, "accepted"] += 1
            if must_refuse:
                self.findings.append(f"{kind}: {description}: altered and accepted")

    def configuration(self, number: int) -> None:
        """Damage a shipped TOML file as text or as bytes and use it."""
        kind = self.random.choice(("hardware", "quantization", "energy"))
        original = self.random.choice(sorted(preset_folder(kind).glob("*.toml")))
        path = self.folder / f"{kind}.toml"
        path.write_bytes(self._damaged_toml(original.read_bytes()))

        def use() -> None:
            if kind == "hardware":
                hardware = load_hardware(path)
                if hardware.array.rows * hardware.array.columns * hardware.accumulator.memory_bytes > 1 << 34:
                    return  # legal and large: no finding, and not worth the minutes
                Accelerator(compile_graph(self.graph, hardware)).run(values=False)
            elif kind == "quantization":
                load_quantization(path)
            else:
                load_energy(path)

        self.attempt(kind, f"case {number}, from {original.name}", use, must_refuse=False)

    def _damaged_toml(self, content: bytes) -> bytes:
        lines = content.decode().splitlines()
        for _ in range(self.random.randint(1, 3)):
            at = self.random.randrange(len(lines))
            match self.random.randrange(7):
                case 0 | 1 if "=" in lines[at]:
                    lines[at] = f"{lines[at].partition('=')[0]}= {self.random.choice(VALUES)}"
                case 2:
                    del lines[at]
                    lines = lines or [""]
                case 3:
                    lines.insert(at, self.random.choice(lines))
                case 4:
                    lines.insert(
                        at, f"{self.random.choice(('rows', 'x', 'unit', 'bits'))} = {self.random.choice(VALUES)}"
                    )
                case 5:
                    lines.insert(at, self.random.choice(("[array]", "[[entry]]", "[", "]]", "= =", "[a.b.c]")))
                case _:
                    lines[at] = lines[at][: self.random.randrange(len(lines[at]) + 1)]
        damaged = "\n".join(lines).encode()
        if self.random.random() < 0.2 and damaged:
            at = self.random.randrange(len(damaged))
            damaged = damaged[:at] + bytes([self.random.randrange(256)]) + damaged[at + 1 :]
        return damaged

    def directory(self, number: int) -> None:
        """Damage one file of a program directory and its graph."""
        target = self.folder / "altered"
        name = self.random.choice(self.files)
        path = target / name
        if not path.exists():
            shutil.copytree(self.whole, target, dirs_exist_ok=True)
        content = path.read_bytes()
        damage = self.random.choice(("flip", "flip", "flip", "cut", "grow", "remove", "zero", "swap"))
        match damage:
            case "flip":
                at, bit = self.random.randrange(len(content)), self.random.randrange(8)
                path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            case "cut":
                path.write_bytes(content[: self.random.randrange(len(content))])
            case "grow":
                path.write_bytes(content + self.random.randbytes(self.random.randint(1, 64)))
            case "remove":
                path.unlink()
            case "zero":
                path.write_bytes(bytes(len(content)))
            case "swap":
                other = self.random.choice([file for file in self.files if file != name])
                path.write_bytes((self.whole / other).read_bytes())
        kind = "graph" if name.parts[0] == "graph" else "program"

        def use() -> None:
            program, _ = load_compiled(target)
            Accelerator(program)

        self.attempt(kind, f"case {number}, {damage} {name}", use, must_refuse=True)
        path.write_bytes(content)

    def run(self, count: int) -> None:
        """Half configurations, half directories."""
        for number in range(count):
            if number % 2:
                self.configuration(number)
            else:
                self.directory(number)


def fuzz(count: int, seed: int) -> Fuzzer:
    """Run `count` cases; returns the fuzzer with its results and findings."""
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(seed, Path(name))
        fuzzer.run(count)
    return fuzzer


def main() -> int:
    """Print the table of outcomes, and the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    fuzzer = fuzz(arguments.count, arguments.seed)
    lines = [f"{'input':14}{'refused':>9}{'accepted':>10}{'traceback':>11}"]
    for kind in ("hardware", "quantization", "energy", "graph", "program"):
        counts = [fuzzer.results[kind, outcome] for outcome in ("refused", "accepted", "traceback")]
        lines.append(f"{kind:14}{counts[0]:9,}{counts[1]:10,}{counts[2]:11,}")
    altered = sum("altered and accepted" in finding for finding in fuzzer.findings)
    lines.append(f"{arguments.count:,} inputs, {len(fuzzer.findings)} findings, {altered} altered and accepted")
    sys.stdout.write("\n".join([*lines, *fuzzer.findings[:10]]) + "\n")
    return 1 if fuzzer.findings else 0


if __name__ == "__main__":
    sys.exit(main())
