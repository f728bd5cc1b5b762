"""The array's registers over time as a VCD file, from the register-level grid (docs/vectors.md, section 7).

`array` and `sums` are named as in the RTL, from compute_unit.sv down, to look at two waveforms side by side.
`grid` has no counterpart: it shows the sequencer of the register-level grid, which counts tiles where the RTL walks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.config import RECORD_BYTES
from accelsim.errors import InputError
from accelsim.files import check_file, write_whole
from accelsim.isa import Compute, Program, unpack_records
from accelsim.machine import Accelerator, Issued, Observer, pe_grid
from accelsim.machine.memories import Memories
from accelsim.machine.pe_grid import FIRST, LAST, LIVE, GridConfig, Registers

Int64 = npt.NDArray[np.int64]

CYCLE_NS = 10
"""Of the waveform's time: cycle c begins, with the rising edge of clk, at 10 c ns."""
MOST_CYCLES = 50_000
_OPERAND_BITS = 9
_WORD_BITS = 32


@dataclass(frozen=True)
class _Signal:
    """One kind of register: its name in the grid and in the waveform, and its width."""

    grid: str
    name: str
    bits: int


@dataclass
class _Snapshots(Observer):
    """The memories as each of some COMPUTEs finds them."""

    chosen: list[int]
    computes: list[tuple[int, Compute]] = field(default_factory=list)
    activation: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    weight: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    bias: list[Int64] = field(default_factory=list)
    accumulators: Int64 | None = None

    def computing(self, index: int, instruction: Compute, memories: Memories) -> None:
        if index not in self.chosen:
            return
        if self.accumulators is None:
            self.accumulators = memories.accumulators.copy()
        self.computes.append((index, instruction))
        self.activation.append(memories.activation.copy())
        self.weight.append(memories.weight.copy())
        whole = memories.parameter[: memories.parameter.size // RECORD_BYTES * RECORD_BYTES]
        self.bias.append(unpack_records(whole.reshape(-1, RECORD_BYTES))[0])


def write_waveform(
    program: Program, path: Path, *, layer: str | None = None, most: int | None = None, codes: Int64 | None = None
) -> tuple[str, int, int, int]:
    """Run a program, then step one layer's COMPUTEs register by register and write what the registers hold.

    Args:
        program: as compiled.
        path: the .vcd file.
        layer: name of the layer; None is the first that has COMPUTEs.
        most: only so many COMPUTEs, from the layer's first; None is all.
        codes: the input int64 (batch, H, W, C); None is what the DRAM image holds.
    Returns:
        The layer's name, the number of COMPUTEs (those before it that still run are among them), and the first and last
        cycle, which are the machine's own.
    Raises:
        InputError: no such layer, one without COMPUTEs, or more than `MOST_CYCLES` cycles.
        RuntimeError: the grid and the machine disagree about a cycle: an error of ours.
    """
    check_file(path)
    label = _label(program, layer)
    machine = Accelerator(program)
    times = {issued.index: issued for issued in machine.run(values=False).timeline}  # time does not depend on data
    chosen = _chosen(program, times, label, most)
    first = min(times[index].issue for index in chosen)
    last = max(times[index].done for index in chosen)
    name = program.layers[label].name
    if last - first >= MOST_CYCLES:
        raise InputError(
            f"layer {name}: {len(chosen)} COMPUTEs take {last - first + 1:,} cycles, more than the "
            f"{MOST_CYCLES:,} of a waveform; give a smaller --computes"
        )
    watch = _Snapshots(chosen)
    machine.run(codes, clock=False, observer=watch)
    hardware = program.hardware
    config = GridConfig(
        rows=hardware.array.rows,
        columns=hardware.array.columns,
        psum_bits=hardware.psum_bits,
        overflow=hardware.accumulator.overflow,
        saturate_at=hardware.accumulator.saturate_at,
        subtract_zero_points=program.modes.zero_points == "subtracted",
        mac_latency=hardware.array.mac_latency_cycles,
        mac_interval=hardware.array.mac_interval_cycles,
        add_latency=hardware.add_latency_cycles,
    )
    stream = io.StringIO()
    with _writer(stream) as writer:
        recorder = _Recorder(writer, config, hardware.accumulator.width_bits, first)
        assert watch.accumulators is not None
        grid = pe_grid.run(
            list(_rebased(watch)),
            config,
            activation=np.concatenate(watch.activation),
            weight=np.concatenate(watch.weight),
            accumulators=watch.accumulators,
            bias=np.concatenate(watch.bias),
            ready=[times[index].issue - first for index, _ in watch.computes],
            observe=recorder.see,
        )
        recorder.end(last - first + 1)
    for (index, _), issue, done in zip(watch.computes, grid.issue, grid.done, strict=True):
        if (issue + first, done + first) != (times[index].issue, times[index].done):
            raise RuntimeError(f"waveform: COMPUTE {index} runs in other cycles on the grid than on the machine")
    write_whole(path, stream.getvalue())
    return name, len(watch.computes), first, last


def _label(program: Program, layer: str | None) -> int:
    names = [one.name for one in program.layers]
    computing = sorted({i.label for i in program.instructions if isinstance(i, Compute)})
    if layer is None and computing:
        return computing[0]
    if layer not in names or names.index(layer) not in computing:
        known = ", ".join(names[label] for label in computing) or "none"
        raise InputError(f"--layer {layer}: {program.name} has no such layer on the array; those on it: {known}")
    return names.index(layer)


def _chosen(program: Program, times: dict[int, Issued], label: int, most: int | None) -> list[int]:
    """COMPUTEs of the layer, and before them those that the array has not finished when they begin."""
    computes = [index for index, i in enumerate(program.instructions) if isinstance(i, Compute)]
    own = [index for index in computes if program.instructions[index].label == label][:most]
    start = computes.index(own[0])
    while start and times[computes[start - 1]].done >= times[computes[start]].issue:
        start -= 1
    return computes[start : computes.index(own[-1]) + 1]


def _rebased(watch: _Snapshots) -> Iterator[Compute]:
    """The COMPUTEs on the concatenated snapshots: each finds its own copy of the buffers."""
    activation = weight = bias = 0
    for number, (_, compute) in enumerate(watch.computes):
        yield replace(
            compute,
            act_base=compute.act_base + activation,
            weight_base=compute.weight_base + weight,
            param=compute.param + bias,
        )
        activation += watch.activation[number].size
        weight += watch.weight[number].size
        bias += watch.bias[number].size


def _writer(stream: io.StringIO) -> Any:
    try:
        from vcd import VCDWriter
    except ImportError:
        raise InputError("waveforms need pyvcd, which is not installed; install accelsim[wave]") from None
    return VCDWriter(stream, timescale="1 ns", date="", version="accelsim", comment="clk rises at 10 ns * cycle")


class _Recorder:
    """Turns the grid's registers into changes of VCD variables."""

    def __init__(self, writer: Any, config: GridConfig, width: int, first: int):
        self._writer, self._first = writer, first
        self._previous: dict[str, Any] = {}
        sum_bits = min(config.psum_bits, pe_grid.EXACT_BITS) if config.saturate_at == "every_add" else 64
        self._pe = [
            _Signal("pe.activation", "activation", _OPERAND_BITS),
            _Signal("pe.weight", "weight", _OPERAND_BITS),
            _Signal("pe.shadow", "shadow", _OPERAND_BITS),
            _Signal("pe.psum", "psum", sum_bits),
            _Signal("pe.preload", "preload", sum_bits),
            _Signal("pe.drain", "drain", sum_bits),
            _Signal("pe.drain_moves", "drain_moves", 1),
        ]
        self._columns = [
            _Signal("accumulator.operand", "operand", max(width, sum_bits)),
            _Signal("accumulator.psum", "psum", sum_bits),
        ]
        self._single = ("load_tile", "load_row", "stream_tile", "stream_word", "outstanding", "output_stationary")

        def variable(scope: tuple[str, ...], name: str, bits: int) -> Any:
            return writer.register_var(scope, name, "reg", size=bits, init="x")

        self._clk = writer.register_var(("bench",), "clk", "wire", size=1, init=0)
        self._cycle = variable(("bench",), "cycle", _WORD_BITS)
        self._grid = {
            signal.grid: [
                [
                    variable(("array", f"row[{i}]", f"column[{j}]", "pe"), signal.name, signal.bits)
                    for j in range(config.columns)
                ]
                for i in range(config.rows)
            ]
            for signal in self._pe
        }
        # What the RTL keeps once an anti-diagonal is shown in each PE: the wave that was here in the cycle before.
        self._flags = {
            name: [
                [variable(("array", f"row[{i}]", f"column[{j}]", "pe"), name, 1) for j in range(config.columns)]
                for i in range(config.rows)
            ]
            for name in ("live", "first", "last")
        }
        self._lines = {
            signal.grid: [variable(("sums", f"lane[{j}]"), signal.name, signal.bits) for j in range(config.columns)]
            for signal in self._columns
        }
        self._address = variable(("sums",), "pipe_address", _WORD_BITS)
        self._sequencer = {name: variable(("grid",), name, _WORD_BITS) for name in self._single}

    def see(self, cycle: int, registers: Registers) -> None:
        """Write what changed by the beginning of a cycle."""
        now = CYCLE_NS * (cycle + self._first)
        self._writer.change(self._clk, now, 1)
        self._writer.change(self._cycle, now, cycle + self._first)
        flags = np.asarray(registers["pe.flags"]) * (np.asarray(registers["pe.wave"]) >= 0)
        for name, mask in (("live", LIVE), ("first", FIRST), ("last", LAST)):
            self._change(now, name, (flags & mask > 0).astype(np.int64), self._flags[name])
        for name, variables in self._grid.items():
            self._change(now, name, np.asarray(registers[name]), variables)
        for name, lane in self._lines.items():
            self._change(now, name, np.asarray(registers[name])[None], [lane])
        self._writer.change(self._address, now, int(registers["accumulator.address"]))
        for name, variable in self._sequencer.items():
            self._writer.change(variable, now, int(registers[f"fetch.{name}"]))
        self._writer.change(self._clk, now + CYCLE_NS // 2, 0)

    def _change(self, now: int, name: str, values: Int64, variables: list[list[Any]]) -> None:
        before = self._previous.get(name)
        changed = np.ones(values.shape, dtype=np.bool_) if before is None else values != before
        for i, j in np.argwhere(changed).tolist():
            self._writer.change(variables[i][j], now, int(values[i, j]))
        self._previous[name] = values.copy()

    def end(self, cycles: int) -> None:
        """The end of the last cycle."""
        self._writer.close(CYCLE_NS * (cycles + self._first))
