"""A program on the machine, every tensor it writes compared with the reference evaluation; program directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.compiler import compile_graph
from accelsim.config import Hardware, load_hardware
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, host_operators, load_graph, quantize_input, save_graph
from accelsim.ir import evaluate as evaluate_reference
from accelsim.isa import Instruction, Program, load_program
from accelsim.machine import Accelerator, Observer, Run
from accelsim.numerics import quantize

Int64 = npt.NDArray[np.int64]
Images = npt.NDArray[np.floating[Any]]

TELEMETRY_LIMIT = 100_000_000
"""MACs of a batch below which partial sums are watched unless the user says otherwise."""

REFERENCE_IMAGES = 64
"""Images of a run that the reference evaluation judges; the engine, which tests hold equal to it, judges the rest. Its
kernels take seconds to compile and a hundredth of the reference's time for each image."""

JUDGED_AT_ONCE = 256
"""Images whose every tensor the engine keeps for the comparison."""


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
        outputs: codes int64 `(N, *output_shape)`, or None without values.
        images_checked: images whose every written tensor was compared; 0 where nobody judged.
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
    def bit_exact(self) -> bool | None:
        """Whether every bit agrees, or None where nobody judged."""
        return self.mismatch is None if self.images_checked else None

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
        images: float (batch, C, H, W), or (batch, K) for vectors, in the units the model was calibrated in; batch is
            the program's. None runs the input the DRAM image holds.
        telemetry: watch partial sums; `timed.statistics` then holds them by layer label.
    Returns:
        `outputs`: int64 `(batch, *output_shape)`, codes of the output's format, and `timed`: cycles and the timeline.
    Raises:
        InputError: images of another shape, or not finite; a program that the static check refuses.

    >>> import accelsim, numpy as np
    >>> from accelsim.ir import FloatGraph, FloatInput, FloatLinear
    >>> layer = FloatLinear(name="fc", inputs=("x",), shape=(3,), weight=np.eye(3, 4), bias=None)
    >>> model = FloatGraph(name="model", nodes=(FloatInput(name="x", inputs=(), shape=(4,)), layer), output="fc")
    >>> graph = accelsim.quantize(model, np.eye(4), accelsim.load_quantization("int8"))
    >>> program = accelsim.compile(graph, accelsim.load_hardware("edge_8x8"), batch=2)
    >>> outcome = simulate(program, np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]]))
    >>> outcome.outputs
    array([[127,   0,   0],
           [  0,   0,  64]])
    >>> outcome.timed.cycles == 1 + max(issued.done for issued in outcome.timed.timeline)
    True
    """
    if images is not None and images.shape[:1] != (program.batch,):
        raise InputError(f"input: shape {images.shape} is not that of a batch of {program.batch}, as compiled")
    codes = None if images is None else _quantized_by_program(program, images)
    return run_unchecked(program, codes, telemetry=telemetry)


def run_unchecked(
    program: Program, codes: Int64 | None = None, *, values: bool = True, telemetry: bool = False
) -> Outcome:
    """Run one batch with the clock, judged by nobody.

    Args:
        program: from `compile` or `load_program`.
        codes: int64 (batch, H, W, C) of `quantize_input`; None leaves what the DRAM image holds.
        values: False runs time alone; then there are no outputs.
        telemetry: watch partial sums.
    """
    machine = Accelerator(program)
    timed = machine.run(codes, values=values, telemetry=telemetry and values)
    outputs = None if timed.output is None else _to_pytorch(program, timed.output)
    return Outcome(program, machine, timed, outputs=outputs)


@dataclass(frozen=True, eq=False)  # an array does not compare to one truth value
class Classification:
    """What labelled images are taken for.

    Attributes:
        accuracy: share of images whose largest output is at their label, 0..1.
        predictions: int64 (N,), index of the largest output code of each image; of equal ones, the first.
        count: N.
        confusion: int64 (K, K), how many images of each label (row) are taken for each class (column).
    """

    accuracy: float
    predictions: Int64
    count: int
    confusion: Int64 = field(repr=False)


def evaluate(
    graph_or_program: IntegerGraph | Program,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    hardware: Hardware | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Classification:
    """Classify images without a clock and without a check: the bits are those of `simulate`.

    A graph runs on the fast engine, after it was compiled once to see that it fits the machine, unless a part of it
    needs the host (`ir.host_operators`); a program, which holds no graph, on the machine.

    Args:
        graph_or_program: a classifier: its output is a vector of K.
        images: float (N, C, H, W), or (N, K) for vectors, in the units the model was calibrated in, N >= 1; any N,
            whatever the program's batch, which changes no bit.
        labels: integers (N,), 0..K-1.
        hardware: what a graph is compiled for; None is the preset ``default_16x16``. A program brings its own.
        threads: of the engine; None takes every core.
        progress: called with the number of images done, now and then.
    Raises:
        InputError: images or labels of a wrong shape, type or range; an output that is no vector; a program of
            another machine than `hardware`; a graph that does not fit the machine.

    >>> import accelsim, numpy as np
    >>> from accelsim.ir import FloatGraph, FloatInput, FloatLinear
    >>> layer = FloatLinear(name="fc", inputs=("x",), shape=(3,), weight=np.eye(3, 4), bias=None)
    >>> model = FloatGraph(name="model", nodes=(FloatInput(name="x", inputs=(), shape=(4,)), layer), output="fc")
    >>> graph = accelsim.quantize(model, np.eye(4), accelsim.load_quantization("int8"))
    >>> found = evaluate(graph, np.eye(4), [0, 1, 2, 2])
    >>> found
    Classification(accuracy=0.75, predictions=array([0, 1, 2, 0]), count=4)
    >>> found.confusion.tolist()
    [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    """
    if isinstance(graph_or_program, IntegerGraph) and host_operators(graph_or_program):
        return _evaluate_on_the_host(graph_or_program, images, labels, hardware, threads, progress)
    if isinstance(graph_or_program, Program):
        program = graph_or_program
    else:
        program = compile_graph(graph_or_program, load_hardware() if hardware is None else hardware)
    if hardware is not None and hardware.fingerprint() != program.hardware.fingerprint():
        raise InputError(
            f"program {program.name}: was compiled for {program.hardware.name}, not for {hardware.name}; "
            "compile its graph for this machine, or leave hardware out"
        )
    pixels, wanted = np.asarray(images), np.asarray(labels)
    _check_labelled(program.name, program.output.output_shape, pixels, wanted)
    codes = _quantized_by_program(program, pixels)
    if isinstance(graph_or_program, Program):
        outputs = _on_the_machine(program, codes, progress)
    else:
        arithmetic = program.hardware.arithmetic()
        found = _engine()(graph_or_program, codes, arithmetic, threads=threads, progress=progress)
        outputs = found[program.output.node].astype(np.int64)
    return _classified(_to_pytorch(program, outputs), wanted)


def _evaluate_on_the_host(
    graph: IntegerGraph,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    hardware: Hardware | None,
    threads: int | None,
    progress: Callable[[int], object],
) -> Classification:
    """`evaluate` of a graph that no machine runs alone: its sums are those of the hardware's accumulator."""
    pixels, wanted = np.asarray(images), np.asarray(labels)
    _check_labelled(graph.name, graph.output_shape, pixels, wanted)
    arithmetic = (load_hardware() if hardware is None else hardware).arithmetic()
    found = _engine()(graph, quantize_input(graph, pixels), arithmetic, threads=threads, progress=progress)
    return _classified(graph.to_pytorch(found[graph.output]), wanted)


def _engine() -> Callable[..., dict[str, npt.NDArray[np.int16]]]:
    """The fast engine's `execute`; it brings a compiler along, which a run on the machine need not wait for."""
    from accelsim.engine import execute

    return execute


def _classified(outputs: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> Classification:
    """Outputs (N, K) judged by labels."""
    predictions = np.asarray(outputs.argmax(axis=1), dtype=np.int64)
    classes = outputs.shape[1]
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (wanted, predictions), 1)
    return Classification(float(np.mean(predictions == wanted)), predictions, len(predictions), confusion)


def _on_the_machine(program: Program, codes: Int64, progress: Callable[[int], object]) -> Int64:
    """Outputs int64 (N, H, W, C) of every image, batch by batch without a clock."""
    machine = Accelerator(program)
    outputs = []
    for first in range(0, len(codes), program.batch):
        batch = codes[first : first + program.batch]
        output = machine.run(_filled_up(batch, program.batch), clock=False).output
        assert output is not None
        outputs.append(output[: len(batch)])
        progress(first + len(batch))
    return np.concatenate(outputs)


def _check_labelled(name: str, shape: tuple[int, ...], images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    if images.dtype.kind != "f":
        raise InputError(f"images: type {images.dtype} is not floating point; scale them as the calibration was")
    if not images.ndim or not len(images):
        raise InputError("no images to run; give at least one")
    if len(shape) != 1:
        raise InputError(f"{name}: its output has shape {shape}; labels need a vector")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(f"labels: {labels.dtype} {labels.shape}; give integers ({len(images)},), one for each image")
    (classes,) = shape
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels: {labels.min()}..{labels.max()} leave 0..{classes - 1}, the network's outputs")


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
    """Run images through a program and compare every tensor it writes with an independent evaluation.

    The clock runs once, for the first batch, because time does not depend on data; the other batches run without. The
    reference evaluation judges the first `REFERENCE_IMAGES` images (whole batches), the engine all others.

    Args:
        program: compiled from `graph`.
        graph: for reference and engine.
        codes: int64 (N, H, W, C), N >= 1, of `quantize_input`; a last partial batch is filled up with its first image,
            which is not counted.
        labels: int64 (N,), for `Outcome.accuracy`; None where nobody knows them.
        telemetry: watch the partial sums of the first batch; None does below `TELEMETRY_LIMIT` MACs.
        keep_tensors: fill `Outcome.tensors`.
        progress: called with the number of images done after each batch.
    Returns:
        `mismatch`, None where every bit agrees, `timed` of the first batch and `outputs` int64 `(N, *output_shape)`.
    Raises:
        InputError: no images; codes of another shape or outside the activation format; a program that the static
            check refuses.

    >>> import accelsim, numpy as np
    >>> from accelsim.ir import FloatGraph, FloatInput, FloatLinear
    >>> layer = FloatLinear(name="fc", inputs=("x",), shape=(3,), weight=np.eye(3, 4), bias=None)
    >>> model = FloatGraph(name="model", nodes=(FloatInput(name="x", inputs=(), shape=(4,)), layer), output="fc")
    >>> graph = accelsim.quantize(model, np.eye(4), accelsim.load_quantization("int8"))
    >>> program = accelsim.compile(graph, accelsim.load_hardware("edge_8x8"), batch=2)
    >>> codes = accelsim.quantize_input(graph, np.eye(3, 4))
    >>> outcome = run_checked(program, graph, codes, labels=np.arange(3))
    >>> outcome.mismatch is None, outcome.images_checked, outcome.accuracy
    (True, 3, 1.0)
    """
    machine = Accelerator(program)
    if telemetry is None:
        telemetry = sum(layer.macs for layer in program.layers) < TELEMETRY_LIMIT
    outcome: Outcome | None = None
    outputs, kept = [], []
    judge = _Judge(graph, program, codes)
    for first in range(0, len(codes), program.batch):
        batch = codes[first : first + program.batch]
        count = len(batch)
        full = _filled_up(batch, program.batch)
        collector = TensorCollector(program)
        run = machine.run(full, clock=first == 0, telemetry=telemetry and first == 0, observer=collector)
        if outcome is None:
            outcome = Outcome(program, machine, run, labels=labels)
        assert run.output is not None
        outputs.append(run.output[:count])
        expected = judge.tensors(first, count)
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


class _Judge:
    """What every tensor of an image must be: by the reference for the first images, by the engine for the rest."""

    def __init__(self, graph: IntegerGraph, program: Program, codes: Int64):
        self._graph = graph
        self._arithmetic = program.hardware.arithmetic()
        self._codes = codes
        self._first = 0
        self._block: dict[str, npt.NDArray[np.int16]] = {}
        # Whole batches, so that no batch lies in two blocks.
        self._size = max(1, JUDGED_AT_ONCE // program.batch) * program.batch

    def tensors(self, first: int, count: int) -> dict[str, Int64]:
        """Codes of every node, (count, H, W, C), of images first, first + 1, ..."""
        if first < REFERENCE_IMAGES:
            return evaluate_reference(self._graph, self._codes[first : first + count], self._arithmetic).tensors
        if not self._block or first >= self._first + self._size:
            names = [node.name for node in self._graph.nodes]
            self._first = first
            self._block = _engine()(self._graph, self._codes[first : first + self._size], self._arithmetic, nodes=names)
        place = slice(first - self._first, first - self._first + count)
        return {name: codes[place].astype(np.int64) for name, codes in self._block.items()}


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


def _filled_up(codes: Int64, batch: int) -> Int64:
    """A last, partial batch with its first image repeated."""
    return np.concatenate([codes, np.repeat(codes[:1], batch - len(codes), axis=0)])


def _quantized_by_program(program: Program, images: npt.NDArray[Any]) -> Int64:
    """Codes (N, H, W, C) of images (N, C, H, W) or (N, C * H * W), any N."""
    region = program.input
    height, width, channels = region.shape
    if images.shape[1:] not in ((channels, height, width), (height * width * channels,)):
        expected = (channels, height, width)
        raise InputError(f"input: shape {images.shape} is not (batch, C, H, W) with (C, H, W) = {expected}")
    if not np.isfinite(images).all():
        raise InputError("input: holds NaN or infinite values; remove them")
    codes = quantize(
        images,
        region.scale,
        region.zero_point,
        program.modes.activation,
        limits=region.limits,
        precision=region.precision,
    )
    return np.moveaxis(codes.reshape(-1, channels, height, width), 1, 3)


def save_compiled(program: Program, graph: IntegerGraph, codes: Int64, folder: Path) -> None:
    """Write a program directory whose DRAM image holds the input, with the integer graph inside it as `graph/`."""
    ready = program.with_input(codes)
    save_graph(graph, folder / "graph")
    ready.save(folder)


def load_compiled(folder: Path) -> tuple[Program, IntegerGraph]:
    """Read a program directory with its graph."""
    program = load_program(folder)
    return program, load_graph(folder / "graph")


def input_codes(program: Program) -> Int64:
    """The input that a program's DRAM image holds: int64 (batch, H, W, C)."""
    data = program.dram[program.input.slice()]
    return program.input.unpack(data, program.modes.activation)
