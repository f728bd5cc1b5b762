"""What could be changed about a machine or its program to see what a layer's cycles hang on.

Each change gives a whole program for a whole machine, which the longest path times and the SimPy machine simulates: no
figure is an estimate. Some of the machines cannot be built (zero latency); they tell how much is at stake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelsim.compiler import compile_graph
from accelsim.compiler.synchronisation import synchronise
from accelsim.config import Hardware
from accelsim.config.hardware import hardware_from_dict
from accelsim.errors import InputError
from accelsim.explore.measured import Bound, weight_loads, weight_memory
from accelsim.ir import IntegerGraph
from accelsim.isa import Instruction, Load, Post, Program, Reduce
from accelsim.timing import D_POST

Settings = Mapping[str, Any]
"""Keys of the hardware, ``section.key``, with their new values."""


@dataclass(frozen=True)
class Subject:
    """What is changed: a program, and the graph it can be compiled from again; None where it cannot."""

    program: Program
    graph: IntegerGraph | None


@dataclass(frozen=True)
class Change:
    """One thing done to a machine or a program.

    Attributes:
        key: its name in files.
        title: for readers, two or three words.
        settings: keys of the hardware that change; None where there is nothing left to change.
        batch: images of a run are so many times as many.
        rewrite: instructions to instructions, or None.
        words: what changes, where listing the settings would be tedious.
        smaller: takes something away, to see whether it is missed.
    """

    key: str
    title: str
    settings: Callable[[Hardware], Settings | None] = lambda _: {}
    batch: int = 1
    rewrite: Callable[[Program], tuple[Instruction, ...]] | None = None
    words: str | None = None
    smaller: bool = False

    def says(self, subject: Subject) -> str | None:
        """Exactly what changes in a subject; None where nothing would."""
        program, hardware = subject.program, subject.program.hardware
        if self.rewrite is _without_weight_loads:
            loads = (program.instructions[index] for index in weight_loads(program))
            size = sum(x.rows * x.row_bytes for x in loads if isinstance(x, Load))
            buffer = weight_memory(program).name.lower()
            held = getattr(hardware, buffer).memory_bytes
            return f"no LOAD of weights ({size:,} bytes; {buffer} buffer: {held:,})" if size else None
        if self.rewrite is _shortest_posts:
            posts = sum(isinstance(x, Post) for x in program.instructions)
            return f"each of {posts:,} POSTs does one value, in {SHORTEST_POST} cycles" if posts else None
        if self.batch > 1:
            batch = program.batch
            return f"batch {batch} -> {self.batch * batch}; cycles per {f'{batch} images' if batch > 1 else 'image'}"
        settings = self.settings(hardware)
        if settings is None:
            return None
        if self.words is not None:
            return self.words
        said = [
            f"{key} {_value(hardware, key)} -> {value}"
            for key, value in settings.items()
            if key not in ("array.rows", "array.columns")
        ]
        if len(said) < len(settings):
            old = {f"array.{side}": _value(hardware, f"array.{side}") for side in ("rows", "columns")}
            shapes = [f"{shape['array.rows']}x{shape['array.columns']}" for shape in (old, {**old, **settings})]
            said.insert(0, f"array {' -> '.join(shapes)}")
        return ", ".join(said)

    def needs_compilation(self, hardware: Hardware) -> bool:
        """Whether another program is needed: a program runs on any DRAM, and depends on every other key."""
        settings = self.settings(hardware) or {}
        return self.batch > 1 or any(not key.startswith("dram.") for key in settings)

    def apply(self, subject: Subject) -> Subject:
        """Make the change.

        Raises:
            InputError: the changed machine is not legal or cannot run the workload; or it needs another compilation
                and there is no graph.
        """
        program = subject.program
        settings = self.settings(program.hardware) or {}
        hardware = _with(program.hardware, settings) if settings else program.hardware
        if self.needs_compilation(program.hardware):
            if subject.graph is None:
                raise InputError(f"{self.title}: needs another compilation")
            program = compile_graph(subject.graph, hardware, self.batch * program.batch)
        elif settings:
            program = replace(program, hardware=hardware)
        if self.rewrite is not None:
            program = replace(program, instructions=self.rewrite(program))
        return Subject(program, subject.graph)


def _with(hardware: Hardware, settings: Settings) -> Hardware:
    data = hardware.model_dump(mode="json")
    for key, value in settings.items():
        section, _, name = key.partition(".")
        data[section][name] = value
    return hardware_from_dict(data, hardware.name)


def _value(hardware: Hardware, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(hardware, section), name)


# Hardware -----------------------------------------------------------------------------------------------------


def _array(rows: float = 1, columns: float = 1) -> Callable[[Hardware], Settings | None]:
    """Another shape; the accumulator memory keeps its depth, so that the array alone differs."""

    def settings(hardware: Hardware) -> Settings | None:
        array = hardware.array
        shape = (array.rows * rows, array.columns * columns)
        if any(side != int(side) or not 1 <= side <= 256 for side in shape):
            return None
        found: dict[str, Any] = {}
        if rows != 1:
            found["array.rows"] = int(shape[0])
        if columns != 1:
            found["array.columns"] = int(shape[1])
            found["accumulator.memory_bytes"] = math.ceil(hardware.accumulator.memory_bytes * columns)
        return found

    return settings


def _bandwidth(hardware: Hardware) -> Settings | None:
    now = hardware.dram.bandwidth_bytes_per_cycle
    return {"dram.bandwidth_bytes_per_cycle": 2 * now} if 2 * now <= 256 else None


def _latency(hardware: Hardware) -> Settings | None:
    return {"dram.latency_cycles": 0} if hardware.dram.latency_cycles else None


def _dataflow(hardware: Hardware) -> Settings | None:
    other = "os" if hardware.array.dataflow == "ws" else "ws"
    return {"array.dataflow": other} if other in hardware.supports.dataflows else None


_BUFFERS = ("activation", "weight", "parameter", "accumulator")


def _buffers(hardware: Hardware) -> Settings:
    return {f"{name}.memory_bytes": 2 * getattr(hardware, name).memory_bytes for name in _BUFFERS}


# Programs -----------------------------------------------------------------------------------------------------


def _without_weight_loads(program: Program) -> tuple[Instruction, ...]:
    """The program as if its weights lay in the buffer from the start: their LOADs gone, the tokens derived anew."""
    gone = weight_loads(program)
    return synchronise([replace(x, wait=0, signal=0) for i, x in enumerate(program.instructions) if i not in gone])


SHORTEST_POST = 2 + D_POST
"""Cycles of a POST of one value: its record, its word, D_post."""


def _shortest_posts(program: Program) -> tuple[Instruction, ...]:
    """The program with every POST cut down to its first value; tokens stay as they are."""
    one = {"lanes": 1, "images": 1, "y_count": 1, "x_count": 1, "r_count": 1, "s_count": 1}
    short = {**one, "reduce": Reduce.NONE, "residual_on": 0, "broadcast": 0, "count_padding": 0}
    return tuple(replace(x, **short) if isinstance(x, Post) else x for x in program.instructions)


CHANGES = (
    Change("double_rows", "twice the rows", _array(rows=2)),
    Change("double_columns", "twice the columns", _array(columns=2)),
    Change("taller", "array twice as tall", _array(2, 1 / 2)),
    Change("wider", "array twice as wide", _array(1 / 2, 2)),
    Change("much_taller", "array 4 times as tall", _array(4, 1 / 4)),
    Change("much_wider", "array 4 times as wide", _array(1 / 4, 4)),
    Change("other_dataflow", "other dataflow", _dataflow),
    Change("double_bandwidth", "twice the DRAM bandwidth", _bandwidth),
    Change("no_latency", "no DRAM latency", _latency),
    Change("resident_weights", "weights on chip already", rewrite=_without_weight_loads),
    Change("double_batch", "twice the batch", batch=2),
    Change("short_posts", "POST almost free", rewrite=_shortest_posts),
    Change("double_buffers", "buffers twice as large", _buffers, words=f"{', '.join(_BUFFERS)}: memory_bytes x 2"),
    Change("half_rows", "half the rows", _array(rows=1 / 2), smaller=True),
    Change("half_columns", "half the columns", _array(columns=1 / 2), smaller=True),
)
"""What is tried, in the order tables show it."""

RELIEF = {
    Bound.ARRAY: ("double_rows", "double_columns"),
    Bound.FILLING: ("taller", "wider", "much_taller", "much_wider"),
    Bound.DRAM: ("double_bandwidth",),
    Bound.WEIGHTS: ("resident_weights", "double_columns"),
    Bound.POST: ("short_posts",),
    Bound.LATENCY: ("no_latency",),
    Bound.NOTHING: (),
}
"""The changes that take away what a bound names. Weights enter the array row by row: more columns, fewer rows."""
