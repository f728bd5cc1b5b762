"""A program on the RTL: what it did, read off the bench's trace."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.isa import Program, Unit
from accelsim.machine import Issued
from accelsim.rtl.build import Build

COUNTERS = (
    *("read.activation", "write.activation", "read.weight", "write.weight", "read.parameter", "write.parameter"),
    *("read.table", "write.table", "read.accumulator", "write.accumulator", "dram.read", "dram.write", "mul"),
)
"""Operations the RTL counts, in the order of counters.sv: bytes of buffers and DRAM, accumulators, products."""


_HEX = re.compile("[0-9a-f]+")
_HEX_OR_ZERO = re.compile("[^0-9a-f]")


IssueEvent = tuple[int, tuple[tuple[Unit, int], ...]]
"""An issue: its cycle, and the stalls before it."""


@dataclass(frozen=True)
class Surplus:
    """An `issue` or `done` too many: of a unit, in a cycle."""

    what: str
    unit: Unit
    cycle: int


@dataclass(kw_only=True)
class RtlRun:
    """What one run of a program on the RTL did.

    Attributes:
        dram: the final DRAM image, or None where it got stuck.
        cycles: last done + 1, or None where it got stuck.
        timeline: issue, done and stalls of each instruction that was done, in program order.
        started: issue and stalls of each instruction that issued and was not done, by its index.
        surplus: the first issue or done that no instruction accounts for: more issues than the unit's queue holds, or a
            done of a unit that has nothing under way.
        counts: operations by type, of the whole run.
        unknown: the first DRAM byte with a bit that is X, which a simulator with four states shows; such bits are 0 in
            `dram`.
        stuck: the cycle in which the bench gave up, or None.
    """

    dram: npt.NDArray[np.uint8] | None = None
    cycles: int | None = None
    timeline: list[Issued] = field(default_factory=list)
    started: dict[int, IssueEvent] = field(default_factory=dict)
    surplus: Surplus | None = None
    counts: dict[str, int] = field(default_factory=dict)
    unknown: int | None = None
    stuck: int | None = None


def run_rtl(program: Program, build: Build, *, limit: int, jitter: int = 0) -> RtlRun:
    """Run a program once; the input is what its DRAM image holds.

    Args:
        program: for the machine that was built, or one with narrower accumulators or smaller memories.
        limit: cycles without an issue or a done after which the bench gives up.
        jitter: a seed other than 0 lets the DRAM refuse and delay beats at random, which changes cycles and no bit.
    Raises:
        InputError: the simulator failed.
    """
    with tempfile.TemporaryDirectory(prefix="accelsim-rtl-") as name:
        folder = Path(name)
        program.save(folder)
        arguments = {
            "program": folder / "program.bin",
            "dram": folder / "dram.bin",
            "dram_bytes": program.dram.size,
            "latency": program.hardware.dram.latency_cycles,
            "jitter": jitter,
            "out": folder / "out.hex",
            "trace": folder / "trace.txt",
            "limit": limit,
        }
        command = [*build.command, *(f"+{key}={value}" for key, value in arguments.items())]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not (folder / "trace.txt").exists():
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise InputError(f"{build.simulator}: the simulation failed: {lines[-1]}; empty the build cache and retry")
        run = read_trace(program, (folder / "trace.txt").read_text())
        if run.stuck is None:
            words = (folder / "out.hex").read_text().split()
            run.unknown = next((n for n, word in enumerate(words) if not _HEX.fullmatch(word)), None)
            text = "".join(words) if run.unknown is None else "".join(_HEX_OR_ZERO.sub("0", word) for word in words)
            run.dram = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return run


def read_trace(program: Program, text: str) -> RtlRun:
    """Lines `issue unit cycle stalls...`, `done unit cycle`, `count number value`, `cycles n` or `stuck cycle`."""
    queues = [[n for n, i in enumerate(program.instructions) if unit == i.UNIT] for unit in Unit]
    issues: list[list[IssueEvent]] = [[] for _ in Unit]
    dones: list[list[int]] = [[] for _ in Unit]
    run = RtlRun()
    for line in text.splitlines():
        kind, *words = line.split()
        numbers = [int(word) for word in words]
        if kind in ("issue", "done"):
            unit, cycle, *stalled = numbers
            begun, ended = issues[unit], dones[unit]
            if len(begun if kind == "issue" else ended) == len(queues[unit] if kind == "issue" else begun):
                run.surplus = run.surplus or Surplus(kind, Unit(unit), cycle)
            elif kind == "issue":
                begun.append((cycle, tuple((Unit(u), n) for u, n in enumerate(stalled) if n)))
            else:
                ended.append(cycle)
        elif kind == "count":
            run.counts[COUNTERS[numbers[0]]] = numbers[1]
        elif kind == "cycles":
            run.cycles = numbers[0]
        elif kind == "stuck":
            run.stuck = numbers[0]
    for unit, queue in zip(Unit, queues, strict=True):
        begun, ended = issues[unit], dones[unit]  # in the queue's order, and each as long as the one before or shorter
        for index, (issue, stalls), done in zip(queue, begun, ended, strict=False):
            run.timeline.append(Issued(index, unit, program.instructions[index].label, issue, done, stalls))
        run.started.update(zip(queue[len(ended) :], begun[len(ended) :], strict=False))
    run.timeline.sort(key=lambda issued: issued.index)
    return run
