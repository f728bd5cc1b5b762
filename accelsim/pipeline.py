"""A program on the machine, every tensor it writes compared with the reference evaluation; program directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, Mac, evaluate, largest_sum, load_graph, save_graph
from accelsim.isa import Instruction, Program, load_program
from accelsim.machine import Accelerator, Observer, Run
from accelsim.numerics import Arithmetic, quantize

Int64 = npt.NDArray[np.int64]
Images = npt.NDArray[np.floating[Any]]

TELEMETRY_LIMIT = 100_000_000
"""MACs of a batch below which partial sums are watched unless the user says otherwise."""


@dataclass(frozen=True)
class Check:
    """The first difference between machine and reference: image, node, index (H, W, C), both codes."""

    image: int
    node: str
    index: tuple[int, int, int]
    expected: int
    got: int

    def __str__(self) -> str:
        place = ", ".join(map(str, self.index))
        return (
            f"image {self.image}, node {self.node}, (y, x, channel) = ({place}): "
            f"expected {self.expected}, got {self.got}"
        )


@dataclass
class Outcome:
    """A program's timed run and the check of all its images.

    Attributes:
        program: what ran.
        machine: it, loaded.
        timed: the run with the clock, of the first batch.
        outputs: codes int64 (N, *output_shape), or None without values.
        images_checked: images whose every written tensor was compared.
        mismatch: the first difference, or None.
        labels: int64 (N,) or None.
        tensors: codes int64 (N, H, W, C) of every node, where asked for: as the machine wrote them, and, of nodes
            fused away, as the reference computes them.
    """

    program: Program
    machine: Accelerator
    timed: Run
    outputs: Int64 | None = None
    images_checked: int = 0
    mismatch: Check | None = None
    labels: Int64 | None = None
    tensors: dict[str, Int64] | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of images whose largest output is at their label, where labels are known."""
        if self.labels is None or self.outputs is None or self.outputs.ndim != 2:
            return None
        return float(np.mean(self.outputs.argmax(axis=1) == self.labels))


class TensorCollector(Observer):
    """Puts what each POST writes into the tensor of the node it belongs to."""

    def __init__(self, program: Program):
        self.tensors = {
            name: np.zeros((program.batch, *shape), dtype=np.int64) for name, shape in program.shapes.items()
        }
        self._pieces = {piece.instruction: piece for piece in program.pieces}

    def post_wrote(self, index: int, instruction: Instruction, codes: Int64) -> None:
        """Words are (image, y, x) and lanes channels; swapped operands have words of channels and lanes of images."""
        piece = self._pieces[index]
        part = self.tensors[piece.node][
            piece.image : piece.image + piece.images,
            piece.y : piece.y + piece.y_count,
            piece.x : piece.x + piece.x_count,
            piece.channel : piece.channel + piece.lanes,
        ]
        part[...] = (codes.T if getattr(instruction, "broadcast", 0) else codes).reshape(part.shape)


def simulate(program: Program, images: Images | None = None, *, telemetry: bool = False) -> Outcome:
    """Run a program once with clock and values, unchecked.

    Args:
        program: from `compile` or `load_program`.
        images: float (batch, C, H, W); None runs the input the DRAM image holds.
        telemetry: watch partial sums.
    """
    machine = Accelerator(program)
    codes = None if images is None else _quantized_by_program(program, images)
    timed = machine.run(codes, telemetry=telemetry)
    assert timed.output is not None
    return Outcome(program, machine, timed, outputs=_to_pytorch(program, timed.output))


def run_checked(
    program: Program,
    graph: IntegerGraph,
    codes: Int64,
    *,
    labels: Int64 | None = None,
    telemetry: bool | None = None,
    keep_tensors: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Outcome:
    """Run images through a program and compare every tensor it writes with the reference evaluation.

    The clock runs once, for the first batch, because time does not depend on data; the other batches run without.

    Args:
        program: compiled from `graph`.
        graph: for the reference.
        codes: int64 (N, H, W, C); a last partial batch is filled up with its first image, which is not counted.
        labels: int64 (N,).
        telemetry: watch the partial sums of the first batch; None does below `TELEMETRY_LIMIT` MACs.
        keep_tensors: fill `Outcome.tensors`.
        progress: called with the number of images done after each batch.
    """
    machine = Accelerator(program)
    arithmetic = program.hardware.arithmetic()
    if telemetry is None:
        telemetry = sum(layer.macs for layer in program.layers) < TELEMETRY_LIMIT
    outcome: Outcome | None = None
    outputs, kept = [], []
    for first in range(0, len(codes), program.batch):
        batch = codes[first : first + program.batch]
        count = len(batch)
        full = np.concatenate([batch, np.repeat(batch[:1], program.batch - count, axis=0)])
        collector = TensorCollector(program)
        run = machine.run(full, clock=first == 0, telemetry=telemetry and first == 0, observer=collector)
        if outcome is None:
            outcome = Outcome(program, machine, run, labels=labels)
        assert run.output is not None
        outputs.append(run.output[:count])
        expected = evaluate(graph, batch, arithmetic).tensors
        if outcome.mismatch is None:
            outcome.mismatch = _compare(graph, expected, collector, run.output[:count], first)
        if keep_tensors:
            kept.append({**expected, **{name: tensor[:count] for name, tensor in collector.tensors.items()}})
        outcome.images_checked += count
        progress(first + count)
    if outcome is None:
        raise InputError("no images to run; give at least one")
    outcome.outputs = _to_pytorch(program, np.concatenate(outputs))
    if keep_tensors:
        outcome.tensors = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return outcome


def _compare(
    graph: IntegerGraph, expected: dict[str, Int64], collector: TensorCollector, output: Int64, first: int
) -> Check | None:
    """Compare all written tensors, and the result as it lies in DRAM, in the graph's order."""
    found = {**collector.tensors, f"{graph.output} in DRAM": output}
    for name in (*(node.name for node in graph.nodes if node.name in collector.tensors), f"{graph.output} in DRAM"):
        want, got = expected[name.removesuffix(" in DRAM")], found[name][: len(output)]
        different = np.argwhere(want != got)
        if len(different):
            image, y, x, channel = (int(v) for v in different[0])
            where = (image, y, x, channel)
            return Check(first + image, name, (y, x, channel), int(want[where]), int(got[where]))
    return None


def _to_pytorch(program: Program, codes: Int64) -> Int64:
    shape = program.output.output_shape
    return np.ascontiguousarray(np.moveaxis(codes, 3, 1)).reshape(len(codes), *shape)


def _quantized_by_program(program: Program, images: Images) -> Int64:
    region = program.input
    height, width, channels = region.shape
    if images.shape not in ((region.batch, channels, height, width), (region.batch, height * width * channels)):
        raise InputError(
            f"input: shape {images.shape} is not (batch, C, H, W) = {(region.batch, channels, height, width)}"
        )
    if not np.isfinite(images).all():
        raise InputError("input: holds NaN or infinite values; remove them")
    codes = quantize(images, region.scale, region.zero_point, program.modes.activation)
    return np.moveaxis(codes.reshape(-1, channels, height, width), 1, 3)


def save_compiled(program: Program, graph: IntegerGraph, codes: Int64, folder: Path) -> None:
    """Write a program directory whose DRAM image holds the input, with the integer graph inside it as `graph/`."""
    dram = program.dram.copy()
    dram[program.input.slice()] = program.input.pack(codes, program.modes.activation)
    save_graph(graph, folder / "graph")
    replace(program, dram=dram).save(folder)


def load_compiled(folder: Path) -> tuple[Program, IntegerGraph]:
    """Read a program directory with its graph."""
    program = load_program(folder)
    return program, load_graph(folder / "graph")


def input_codes(program: Program) -> Int64:
    """The input that a program's DRAM image holds: int64 (batch, H, W, C)."""
    data = program.dram[program.input.slice()]
    return program.input.unpack(data, program.modes.activation)


def proved_overflow_free(graph: IntegerGraph, node: Mac, arithmetic: Arithmetic) -> bool:
    """Whether the weights' l1 norm proves that no addition of a layer can overflow, whatever the input."""
    layer = arithmetic.at_width(node.accumulator_width_bits)
    bias = int(np.abs(node.bias).max()) if graph.bias_at == "accumulator" else 0
    return largest_sum(graph, node) + bias < 1 << (layer.psum_bits - 1)
