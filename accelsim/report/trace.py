"""A timed run in Chrome's trace event format, for ui.perfetto.dev and chrome://tracing (docs/trace.md).

One microsecond of the file is one cycle: every `ts` and `dur` is a whole number of cycles, so that busy times add up
exactly whatever the clock; nanoseconds are in each slice's args. Events are made and written one after the other.

Slices of a track may not overlap (the format's rule for complete events, and Perfetto drops what breaks it), but
COMPUTEs do: the next issues while the previous drains. So on its unit's track a slice ends where the next one issues,
and what is left of it is a slice of its own on a track "draining". A unit finishes in order, so the unit's track is
covered exactly in the cycles in which at least one instruction is between issue and done: the report's `busy_cycles`.

Format: Trace Event Format, Nat Duca and Dan Sinclair,
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from accelsim.accounting import layer_passes
from accelsim.files import write_whole
from accelsim.isa import Instruction, Load, Memory, Program, Reduce, Source, Start, Store, Unit
from accelsim.isa.walker import Space
from accelsim.machine import Issued
from accelsim.pipeline import Outcome
from accelsim.report.document import describe_hardware
from accelsim.report.occupancy import memory_sizes, occupancy
from accelsim.report.unit_times import stall_spans

Event = dict[str, Any]

# Processes of the file, and their threads: numbered through, because Perfetto looks a thread's name up by its number
# alone, and in the order they are to be shown.
MACHINE, STALLS, MEMORIES = 1, 2, 3
LAYERS = 10
UNITS = {unit: 100 * (1 + unit) for unit in Unit}  # followed by as many draining tracks as need be
WAITS = {unit: 1000 + unit for unit in Unit}

MEMORY_NAMES: dict[Space, str] = {
    "activation": "activation buffer",
    "weight": "weight buffer",
    "parameter": "parameter buffer",
    "table": "table memory",
    "accumulator": "accumulator memory",
}
NAMED: dict[str, type[IntEnum]] = {"memory": Memory, "start": Start, "source": Source, "reduce": Reduce}


def write_trace(outcome: Outcome, path: Path) -> None:
    """Write the timed batch's trace to `path`; compressed with gzip, which both viewers read, if it ends in ``.gz``.

    Raises:
        InputError: the file cannot be written.
        ValueError: the run had no clock.
    """
    if outcome.timed.cycles is None:
        raise ValueError("this run had no clock, so there is nothing to trace")
    text = (line.encode() for line in trace_text(outcome))
    write_whole(path, _gzip(text) if path.suffix == ".gz" else text)


def trace_text(outcome: Outcome) -> Iterator[str]:
    """The file's text in parts: a head, a line for each event, a tail; of a run with a clock."""
    program = outcome.program
    about = {
        "workload": program.name,
        "batch": program.batch,
        "cycles": outcome.timed.cycles,
        "clock_mhz": program.hardware.clock_mhz,
        "time": "1 us = 1 cycle",
        "hardware": program.hardware.model_dump(mode="json"),
    }
    yield f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(about)},\n"traceEvents": [\n'
    separator = ""
    for event in events(outcome):
        yield separator + json.dumps(event, separators=(",", ":"), allow_nan=False)
        separator = ",\n"
    yield "\n]}\n"


def events(outcome: Outcome) -> Iterator[Event]:
    """Every event of the trace; those of one track in the order of their time."""
    program = outcome.program
    timeline = sorted(outcome.timed.timeline, key=lambda issued: issued.issue)
    yield from _names(program)
    yield from _layers(program, timeline)
    yield from _instructions(program, timeline)
    yield from _stalls(program, timeline)
    for space, changes in occupancy(program, timeline).items():
        unit = "words" if space == "accumulator" else "bytes"
        series = f"live {unit} of {memory_sizes(program)[space]:,}"
        for cycle, live in changes:
            yield _counter(MEMORY_NAMES[space], series, cycle, live)
    yield from _dram(program, timeline)


def _names(program: Program) -> Iterator[Event]:
    """Metadata: what processes and the tracks that are always there are called, and their order."""
    for pid, name in ((MACHINE, f"{program.name}: 1 us = 1 cycle"), (STALLS, "stalls"), (MEMORIES, "memories")):
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": pid, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": pid, "args": {"sort_index": pid}}
    labels = {"labels": describe_hardware(program.hardware)}
    yield {"ph": "M", "name": "process_labels", "pid": MACHINE, "tid": MACHINE, "args": labels}
    yield from _track(MACHINE, LAYERS, "layers")
    for unit in Unit:
        yield from _track(MACHINE, UNITS[unit], unit.name)
        yield from _track(STALLS, WAITS[unit], f"{unit.name} waits")


def _track(pid: int, tid: int, name: str) -> Iterator[Event]:
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
    yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}


def _layers(program: Program, timeline: list[Issued]) -> Iterator[Event]:
    for label, first, last in layer_passes(timeline):
        layer = program.layers[label]
        args = {"label": label, "op": layer.op, "nodes": list(layer.nodes), "macs": layer.macs}
        yield _slice(program, "layer", layer.name, MACHINE, LAYERS, first, last + 1, args)


def _instructions(program: Program, timeline: list[Issued]) -> Iterator[Event]:
    """Each instruction's slice, and at its ends the flows of its tokens.

    A flow is named by its number. It starts in the giver's last cycle, inside the slice it binds to, and ends in the
    first cycle of the taker's: the k-th token that a unit gives another is the k-th that is taken.
    """
    gives: dict[int, list[int]] = {}
    takes: dict[int, list[int]] = {}
    for number, (giver, taker) in enumerate(program.order.tokens):
        gives.setdefault(giver, []).append(number)
        takes.setdefault(taker, []).append(number)
    following = _issue_of_next(timeline)
    drains: dict[Unit, list[int]] = {unit: [] for unit in Unit}  # of each draining track, the cycle it is free from
    for issued in timeline:
        index, unit = issued.index, issued.unit
        instruction = program.instructions[index]
        name, done = _name(program, instruction), issued.done + 1
        end, track = min(done, following.get(index, done)), UNITS[unit]
        yield _slice(program, "instruction", name, MACHINE, track, issued.issue, end, _args(program, issued))
        for number in takes.get(index, ()):
            yield _flow("f", number, track, issued.issue)
        if end < done:
            lane = next((i for i, free in enumerate(drains[unit]) if free <= end), len(drains[unit]))
            track = UNITS[unit] + 1 + lane
            if lane == len(drains[unit]):
                drains[unit].append(0)
                which = f" {lane + 1}" if lane else ""
                yield from _track(MACHINE, track, f"{unit.name} draining{which}")
            drains[unit][lane] = done
            yield _slice(program, "drain", f"{name} drains", MACHINE, track, end, done, {"index": index})
        for number in gives.get(index, ()):
            yield _flow("s", number, track, issued.done)


def _issue_of_next(timeline: list[Issued]) -> dict[int, int]:
    """For each instruction that another of its unit follows, that one's issue."""
    found: dict[int, int] = {}
    before: dict[Unit, int] = {}
    for issued in timeline:
        if issued.unit in before:
            found[before[issued.unit]] = issued.issue
        before[issued.unit] = issued.index
    return found


def _name(program: Program, instruction: Instruction) -> str:
    """What a slice is called: its layer, and of a LOAD the memory too; viewers colour and add up by it."""
    layer = program.layers[instruction.label].name
    if isinstance(instruction, Load) and not isinstance(instruction, Store):
        return f"{layer} {Memory(instruction.memory).name.lower()}"
    return layer


def _args(program: Program, issued: Issued) -> Event:
    """What a click shows: when, how long, what it waited for, and every field of the instruction."""
    instruction = program.instructions[issued.index]
    cycles = issued.done - issued.issue + 1
    fields: dict[str, int | str] = {}
    for field in instruction.LAYOUT:
        value = int(getattr(instruction, field.name))
        if field.name in ("wait", "signal"):
            fields[field.name] = ",".join(unit.name for unit in Unit if value >> unit & 1)
        else:
            fields[field.name] = NAMED[field.name](value).name if field.name in NAMED else value
    return {
        "index": issued.index,
        "instruction": type(instruction).__name__.upper(),
        "layer": program.layers[instruction.label].name,
        "issue": issued.issue,
        "done": issued.done,
        "cycles": cycles,
        "ns": _ns(program, cycles),
        "issue_ns": _ns(program, issued.issue),
        "stalls": {source.name: waited for source, waited in issued.stalls},
        "fields": fields,
    }


def _stalls(program: Program, timeline: Iterable[Issued]) -> Iterator[Event]:
    for issued in timeline:
        for source, spans in stall_spans([issued]).items():
            for first, cycles in spans:
                name, args = f"waits for {source.name}", {"index": issued.index}
                yield _slice(program, "stall", name, STALLS, WAITS[issued.unit], first, first + cycles, args)


def _dram(program: Program, timeline: list[Issued]) -> Iterator[Event]:
    """Bytes a cycle on DRAM's two channels: of a transfer the mean from its latency's end until it is done."""
    dram = program.hardware.dram
    for unit, name in ((Unit.LOAD, "DRAM read"), (Unit.STORE, "DRAM write")):
        steps = {0: Fraction(0)}  # cycle -> how much more flows from there on
        for issued in timeline:
            transfer = program.instructions[issued.index]
            if issued.unit is unit and isinstance(transfer, Load):
                first, end = issued.issue + dram.latency_cycles, issued.done + 1
                rate = Fraction(transfer.rows * transfer.row_bytes, end - first)
                steps[first] = steps.get(first, Fraction(0)) + rate
                steps[end] = steps.get(end, Fraction(0)) - rate
        flowing = Fraction(0)
        for cycle in sorted(steps):
            if steps[cycle] or cycle == 0:
                flowing += steps[cycle]
                yield _counter(name, f"bytes per cycle of {dram.bandwidth_bytes_per_cycle}", cycle, float(flowing))


def _slice(
    program: Program, kind: str, name: str, pid: int, tid: int, first: int, end: int, args: dict[str, Any]
) -> Event:
    """A complete event from cycle `first` up to, not including, cycle `end`."""
    if "cycles" not in args:
        args = {"cycles": end - first, "ns": _ns(program, end - first), **args}
    return {"ph": "X", "cat": kind, "name": name, "pid": pid, "tid": tid, "ts": first, "dur": end - first, "args": args}


def _flow(phase: str, number: int, tid: int, cycle: int) -> Event:
    """One end of a token's flow; both bind to the slice that encloses them."""
    event = {"ph": phase, "cat": "token", "name": "token", "id": number, "pid": MACHINE, "tid": tid, "ts": cycle}
    return event | {"bp": "e"} if phase == "f" else event


def _counter(name: str, series: str, cycle: int, value: float) -> Event:
    return {"ph": "C", "name": name, "pid": MEMORIES, "tid": MEMORIES, "ts": cycle, "args": {series: value}}


def _ns(program: Program, cycles: int) -> float:
    return cycles * 1000 / program.hardware.clock_mhz


def _gzip(parts: Iterable[bytes]) -> Iterator[bytes]:
    """A gzip stream without name and time, so that equal runs make equal files."""
    squeeze = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    for part in parts:
        if done := squeeze.compress(part):
            yield done
    yield squeeze.flush()
