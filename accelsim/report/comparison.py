"""Two networks on the same images, node by node: where they first differ, by how much, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.ir import IntegerGraph, TensorType
from accelsim.report.text import table

Codes = npt.NDArray[np.integer[Any]]

IMAGES_AT_ONCE = 64
"""Images whose every tensor is held, twice."""


SAME_SCALE = 2.0**-22
"""Relative difference of scales below which codes mean the same: files of other tools hold scales in float32."""


@dataclass(frozen=True)
class Side:
    """One of two networks.

    Attributes:
        name: as the user gave it.
        graph: its nodes, scales and shapes.
        codes: images to codes (N, H, W, C) of every node.
    """

    name: str
    graph: IntegerGraph
    codes: Callable[[npt.NDArray[np.floating[Any]]], Mapping[str, Codes]]


@dataclass(frozen=True)
class NodeDifference:
    """One node that both networks have, with the same shape.

    Attributes:
        values: how many were compared.
        differing: real values S * (q - Z) that are not equal.
        largest: largest absolute difference of real values.
        steps: {code of B - code of A: how often} where both quantise the node alike; else None.
        first: image, y, x and channel of the first value that differs, with its codes in A and B; None where equal.
        sqnr_db: signal of A to difference, decibels; infinite where equal.
    """

    node: str
    values: int
    differing: int
    largest: float
    steps: dict[int, int] | None
    first: tuple[tuple[int, ...], int, int] | None
    sqnr_db: float

    @property
    def off_by(self) -> tuple[int, int, int, int] | None:
        """Codes that differ by 0, 1, 2 and more, where both networks quantise the node alike."""
        if self.steps is None:
            return None
        counts = [0, 0, 0, 0]
        for step, count in self.steps.items():
            counts[min(abs(step), 3)] += count
        return counts[0], counts[1], counts[2], counts[3]


@dataclass(frozen=True)
class Comparison:
    """What two networks make of the same images.

    Attributes:
        names: of A and B.
        nodes: those with the same name and shape in both, in the order of A.
        unmatched: names that only A has, only B has, and both have with different shapes.
        images: how many were compared.
        changed: images whose largest output is another in B; None where the outputs are not vectors of one size.
        accuracy: of A and B, 0..1; None where no labels are known.
    """

    names: tuple[str, str]
    nodes: list[NodeDifference]
    unmatched: tuple[list[str], list[str], list[str]]
    images: int
    changed: int | None
    accuracy: tuple[float, float] | None


@dataclass
class _Tally:
    """Counts of one node over blocks of images."""

    a: TensorType
    b: TensorType
    values: int = 0
    differing: int = 0
    largest: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    steps: Counter[int] = field(default_factory=Counter)
    first: tuple[tuple[int, ...], int, int] | None = None

    def see(self, name: str, a: Codes, b: Codes, image: int) -> None:
        """Add a block whose first image has the number `image`."""
        real_a = self.a.scale * (a.astype(np.float64) - self.a.zero_point)
        real_b = self.b.scale * (b.astype(np.float64) - self.b.zero_point)
        error = np.abs(real_a - real_b)
        if self.alike:
            error = np.where(a == b, 0.0, error)  # scales may differ by float32's rounding
        self.values += error.size
        self.differing += int((error > 0).sum())
        self.largest = max(self.largest, float(error.max()))
        self.noise += float((error**2).sum())
        self.signal += float((real_a**2).sum())
        if self.alike:
            from accelsim.explore.differences import count_differences  # brings the engine's compiler along

            (found,) = count_differences({name: a}, {name: b})
            self.steps.update(found.steps)
        if self.first is None and error.any():
            index = tuple(int(i) for i in np.unravel_index(np.flatnonzero(error)[0], error.shape))
            self.first = ((index[0] + image, *index[1:]), int(a[index]), int(b[index]))

    @property
    def alike(self) -> bool:
        """Whether both are integers that mean the same."""
        if self.a.kind != self.b.kind or self.a.kind == "float32":
            return False
        return self.a.zero_point == self.b.zero_point and abs(self.a.scale / self.b.scale - 1) <= SAME_SCALE

    def result(self, name: str) -> NodeDifference:
        """What was counted."""
        if self.noise == 0:
            sqnr = float("inf")
        else:
            sqnr = float(10 * np.log10(self.signal / self.noise)) if self.signal else float("-inf")
        steps = dict(sorted(self.steps.items())) if self.alike else None
        return NodeDifference(name, self.values, self.differing, self.largest, steps, self.first, sqnr)


def compare_networks(
    a: Side, b: Side, images: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64] | None = None
) -> Comparison:
    """Evaluate both networks and compare the nodes they share.

    Nodes are matched by name, and compared where their shapes (H, W, C) are equal: as codes if both networks give the
    node one scale (within `SAME_SCALE`) and zero point, else as real values.

    Args:
        a, b: networks of one input shape.
        images: float (N, C, H, W) or (N, K), N >= 1.
        labels: int64 (N,), for accuracies.
    """
    shared = [node.name for node in a.graph.nodes if node.name in b.graph.by_name]
    shapes = {name: (a.graph.by_name[name].output, b.graph.by_name[name].output) for name in shared}
    tallies = {name: _Tally(*pair) for name, pair in shapes.items() if pair[0].shape == pair[1].shape}
    other_shape = [name for name in shared if name not in tallies]
    only = tuple(
        [node.name for node in one.graph.nodes if node.name not in other.graph.by_name]
        for one, other in ((a, b), (b, a))
    )
    predictions: tuple[list[Any], list[Any]] = ([], [])
    for start in range(0, len(images), IMAGES_AT_ONCE):
        block = images[start : start + IMAGES_AT_ONCE]
        found_a, found_b = a.codes(block), b.codes(block)
        for name, tally in tallies.items():
            tally.see(name, found_a[name], found_b[name], start)
        for side, found, kept in ((a, found_a, predictions[0]), (b, found_b, predictions[1])):
            kept.append(side.graph.to_pytorch(found[side.graph.output]).reshape(len(block), -1).argmax(axis=1))
    changed, accuracy = None, None
    if len(a.graph.output_shape) == 1 and a.graph.output_shape == b.graph.output_shape:
        first, second = (np.concatenate(kept) for kept in predictions)
        changed = int((first != second).sum())
        if labels is not None:
            accuracy = float((first == labels).mean()), float((second == labels).mean())
    nodes = [tally.result(name) for name, tally in tallies.items()]
    return Comparison((a.name, b.name), nodes, (only[0], only[1], other_shape), len(images), changed, accuracy)


def show_comparison(found: Comparison) -> str:
    """The comparison as a table for a terminal, with what could not be compared and what it does to predictions."""
    rows = []
    for d in found.nodes:
        off = ["-"] * 4
        if d.off_by is not None and d.steps is not None:
            off = [f"{count:,}" for count in (*d.off_by[1:], max(map(abs, d.steps), default=0))]
        sqnr = "equal" if d.sqnr_db == np.inf else f"{d.sqnr_db:.1f}"
        first = "" if d.first is None else f"({', '.join(map(str, d.first[0]))}): {d.first[1]}, {d.first[2]}"
        share = f"{100 * (d.values - d.differing) / d.values:.3f}"
        rows.append([d.node, f"{d.values:,}", f"{d.differing:,}", share, *off, f"{d.largest:.4g}", first, sqnr])
    header = ["node", "values", "differ", "equal %", "off by 1", "2", "more", "max", "largest (real)"]
    lines = table([*header, "first (image, y, x, channel): A, B", "SQNR dB"], rows)
    words = ("only in A", "only in B", "of other shapes in A and B")
    notes = [f"{word}: {', '.join(names)}" for word, names in zip(words, found.unmatched, strict=True) if names]
    if any(d.steps is None for d in found.nodes):
        notes.append("-: scale or zero point differs, so only real values are compared")
    if found.changed is not None:
        notes.append(f"predictions changed: {found.changed} of {found.images}")
    if found.accuracy is not None:
        notes.append(f"accuracy: A {100 * found.accuracy[0]:.2f} %, B {100 * found.accuracy[1]:.2f} %")
    return "\n".join([*lines, *([""] if notes else []), *notes])
