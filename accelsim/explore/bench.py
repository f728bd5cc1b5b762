"""One point of a sweep measured: a prepared workload on a machine, and the figures that were asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.accounting import layer_cycles, price
from accelsim.compiler import compile_graph
from accelsim.config import Hardware, build
from accelsim.config.hardware import hardware_from_dict
from accelsim.energy import AreaTable, by_place
from accelsim.energy.evaluation import as_number
from accelsim.energy.table import EnergyTable, energy_from_dict
from accelsim.engine import exact_arithmetic, execute, uniform, watch
from accelsim.errors import InputError
from accelsim.files import parse_npy, read_bytes, write_whole
from accelsim.ir import IntegerGraph, Mac, bits_for, load_graph, save_graph, width_bounds
from accelsim.machine import Accelerator
from accelsim.pipeline import Outcome

Figures = dict[str, Any]
"""Figure -> number."""

FIGURES: dict[str, tuple[str, ...]] = {
    "cycles": ("cycles", "milliseconds", "utilization", "dram_bytes_read", "dram_bytes_written"),
    "layers": (),
    "energy": ("energy",),
    "area": ("area",),
    "accuracy": ("accuracy", "float"),
    "safe_width": ("safe_width", "proved_width"),
}
"""Group of `measure` -> its figures; "energy" has ``energy.PLACE`` of every place beside its total, "layers" has
``cycles.LAYER`` of every layer."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A workload quantised by one scheme, with the images it is judged on.

    Attributes:
        graph: what runs.
        codes: integers (N, H, W, C), the images as the graph takes them; None where nothing looks at images.
        labels: int64 (N,), or None.
        float_percent: accuracy of the float network on the same images, percent; None where nobody knows.
    """

    graph: IntegerGraph
    codes: npt.NDArray[np.integer[Any]] | None = None
    labels: npt.NDArray[np.int64] | None = None
    float_percent: float | None = None

    def save(self, folder: Path) -> None:
        """Write it as a directory, for other processes; `load` reads it back."""
        save_graph(self.graph, folder)
        for name in ("codes", "labels"):
            if (array := getattr(self, name)) is not None:
                write_whole(folder / f"{name}.npy", _npy(array))

    @classmethod
    def load(cls, folder: Path, float_percent: float | None) -> Prepared:
        """Read what `save` wrote."""
        arrays = {
            name: parse_npy(read_bytes(path), path, "remove the folder and repeat the command")
            for name in ("codes", "labels")
            if (path := folder / f"{name}.npy").exists()
        }
        return cls(load_graph(folder), arrays.get("codes"), arrays.get("labels"), float_percent)


def _npy(array: npt.NDArray[Any]) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def measure(
    prepared: Prepared,
    hardware: Hardware,
    energy: EnergyTable,
    area: AreaTable,
    batch: int,
    groups: Sequence[str],
) -> Figures:
    """The figures of one point.

    Args:
        prepared: the workload; with images where `groups` names "accuracy" or "safe_width".
        groups: keys of `FIGURES`.
    Returns:
        Cycles (a layer's too) and energy are of one batch, in cycles and the table's unit; DRAM traffic in bytes;
        `utilization` the share of PE-cycles with a product, 0..1; `area` in transistors of PEs and PPU lanes;
        accuracies in percent; `safe_width` the fewest bits at which no addition overflows on these images,
        `proved_width` on any.
    Raises:
        InputError: the graph does not fit the machine, or a table has no figure for it: the point is infeasible.
    """
    figures: Figures = {}
    if {"cycles", "layers", "energy"} & set(groups):
        figures |= _run(prepared.graph, hardware, energy, batch, groups)
    if "area" in groups:
        figures["area"] = area.machine_transistors(hardware)
    if "accuracy" in groups:
        figures |= _accuracy(prepared, hardware)
    if "safe_width" in groups:
        figures |= _widths(prepared, hardware)
    return figures


def _run(graph: IntegerGraph, hardware: Hardware, energy: EnergyTable, batch: int, groups: Sequence[str]) -> Figures:
    """One compilation and one timed run without values serve all three groups."""
    outcome = _timed(graph, hardware, batch)
    machine = outcome.machine
    figures: Figures = {}
    if "cycles" in groups:
        cycles = sum(layer_cycles(outcome))
        macs = batch * sum(map(graph.macs, graph.nodes))
        counts = machine.counts().values()
        figures = {
            "cycles": cycles,
            "milliseconds": cycles / hardware.clock_mhz / 1000,
            "utilization": macs / (cycles * hardware.array.rows * hardware.array.columns),
            "dram_bytes_read": sum(n for layer in counts for key, n in layer.items() if key.op == "dram.read"),
            "dram_bytes_written": sum(n for layer in counts for key, n in layer.items() if key.op == "dram.write"),
        }
    if "layers" in groups:
        names = [layer.name for layer in outcome.program.layers]
        figures |= {f"cycles.{name}": n for name, n in zip(names, layer_cycles(outcome), strict=True)}
    if "energy" in groups:
        by_op = price(outcome, graph, energy).by_op
        places = by_place(by_op)
        figures["energy"] = as_number(sum(places.values(), start=type(next(iter(places.values())))(0)))
        figures |= {f"energy.{place}": as_number(value) for place, value in places.items()}
    return figures


@lru_cache(maxsize=4)
def _timed(graph: IntegerGraph, hardware: Hardware, batch: int) -> Outcome:
    """A compiled program and its run in time, shared by points that differ in energy alone."""
    program = compile_graph(graph, hardware, batch)
    machine = Accelerator(program)
    return Outcome(program, machine, machine.run(values=False))


def _accuracy(prepared: Prepared, hardware: Hardware) -> Figures:
    graph = prepared.graph
    if prepared.codes is None or prepared.labels is None:
        raise InputError(f"{graph.name}: its images have no labels, so that it has no accuracy")
    if len(graph.output_shape) != 1:
        raise InputError(f"{graph.name}: its output has shape {graph.output_shape}; accuracy needs a vector")
    compile_graph(graph, hardware)  # a graph that does not fit has no accuracy on this machine
    outputs = execute(graph, prepared.codes, hardware.arithmetic(), threads=1)[graph.output]
    right = graph.to_pytorch(outputs).argmax(axis=1) == prepared.labels
    return {"accuracy": 100 * float(np.mean(right)), "float": prepared.float_percent}


def _widths(prepared: Prepared, hardware: Hardware) -> Figures:
    graph = prepared.graph
    assert prepared.codes is not None
    layers = [node for node in graph.nodes if isinstance(node, Mac)]
    if not layers:
        raise InputError(f"{graph.name}: has no convolution or linear layer, and so no accumulator")
    seen = watch(graph, prepared.codes, uniform(graph, exact_arithmetic(hardware.arithmetic())), threads=1).layers
    observed = [seen[node.name].layer() for node in layers]
    return {
        "safe_width": max(bits_for(int(one.minimum[0]), int(one.maximum[0])) for one in observed),
        "proved_width": max(width_bounds(graph, node).l1 for node in layers),
    }


@dataclass(frozen=True)
class Task:
    """What a worker is asked: plain data, so that it travels to any process or machine.

    Attributes:
        key: the point's content hash.
        hardware, energy, area: as their files say.
        batch, groups: as for `measure`.
        float_percent: of the prepared workload.
    """

    key: str
    hardware: dict[str, Any]
    energy: dict[str, Any]
    area: dict[str, Any]
    batch: int
    groups: tuple[str, ...]
    float_percent: float | None = None


@dataclass(frozen=True)
class Answer:
    """What came of a task: figures, or why there are none.

    Attributes:
        status: "done"; "infeasible", the point breaks a rule that `reason` states; "failed", a defect of ours or of the
            machine it ran on.
    """

    key: str
    status: str
    figures: Figures
    reason: str | None
    seconds: float


@lru_cache(maxsize=32)
def _energy_table(text: str) -> EnergyTable:
    """A table from the keys of its file, as JSON: points share few of them."""
    data = json.loads(text)
    return energy_from_dict(data, data.get("name", "energy"))


@lru_cache(maxsize=32)
def _area_table(text: str) -> AreaTable:
    return build(AreaTable, json.loads(text), "area")


def answer(task: Task, prepared: Prepared) -> Answer:
    """Measure one point; never raises, whatever the point does."""
    started = time.perf_counter()

    def ended(status: str, figures: Figures, reason: str | None) -> Answer:
        return Answer(task.key, status, figures, reason, time.perf_counter() - started)

    try:
        figures = measure(
            prepared,
            hardware_from_dict(task.hardware, task.hardware.get("name", "hardware")),
            _energy_table(json.dumps(task.energy, sort_keys=True)),
            _area_table(json.dumps(task.area, sort_keys=True)),
            task.batch,
            task.groups,
        )
    except InputError as error:
        return ended("infeasible", {}, str(error))
    except MemoryError:
        return ended("failed", {}, "not enough memory for this point")
    except Exception as error:  # one point's defect must not cost the others
        return ended("failed", {}, " ".join(f"{type(error).__name__}: {error}".split())[:500])
    return ended("done", figures, None)
