"""Two integer graphs on the same images, node by node: where they first differ, by how much, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelsim.ir import IntegerGraph, evaluate
from accelsim.numerics import Arithmetic
from accelsim.report.text import table


@dataclass(frozen=True)
class NodeDifference:
    """One node that both graphs have, with the same shape.

    Attributes:
        values: how many were compared.
        differing: real values S * (q - Z) that are not equal.
        largest: largest absolute difference of real values.
        off_by: codes that differ by 0, 1, 2 and more, where both graphs quantise the node alike; else None.
        sqnr_db: signal to difference, decibels; infinite where equal.
    """

    node: str
    values: int
    differing: int
    largest: float
    off_by: tuple[int, int, int, int] | None
    sqnr_db: float


def compare_graphs(
    a: IntegerGraph,
    b: IntegerGraph,
    codes_a: npt.NDArray[np.int64],
    codes_b: npt.NDArray[np.int64],
    arithmetic: Arithmetic,
) -> list[NodeDifference]:
    """Evaluate both graphs and compare the nodes they share, in the order of `a`.

    Args:
        a, b: integer graphs; nodes are matched by name and shape.
        codes_a, codes_b: the same images, quantised for each graph's input.
        arithmetic: of the hardware.
    """
    found_a, found_b = evaluate(a, codes_a, arithmetic).tensors, evaluate(b, codes_b, arithmetic).tensors
    result = []
    for node in a.nodes:
        other = b.by_name.get(node.name)
        if other is None or other.output.shape != node.output.shape:
            continue
        first, second = found_a[node.name], found_b[node.name]
        real_a = node.output.scale * (first - node.output.zero_point)
        real_b = other.output.scale * (second - other.output.zero_point)
        error = np.abs(real_a - real_b)
        off_by = None
        alike = (node.output.scale, node.output.zero_point) == (other.output.scale, other.output.zero_point)
        if alike and a.activation == b.activation:
            steps = np.abs(first - second)
            off_by = (
                int((steps == 0).sum()),
                int((steps == 1).sum()),
                int((steps == 2).sum()),
                int((steps > 2).sum()),
            )
        noise, signal = float((error**2).sum()), float((real_a**2).sum())
        sqnr = np.inf if noise == 0 else -np.inf if signal == 0 else 10 * np.log10(signal / noise)
        largest = float(error.max())
        result.append(NodeDifference(node.name, error.size, int((error > 0).sum()), largest, off_by, float(sqnr)))
    return result


def show_comparison(differences: list[NodeDifference]) -> str:
    """The comparison as a table for a terminal."""
    rows = []
    for d in differences:
        off = ["-"] * 3 if d.off_by is None else [f"{count:,}" for count in d.off_by[1:]]
        sqnr = "equal" if d.sqnr_db == np.inf else f"{d.sqnr_db:.1f}"
        rows.append([d.node, f"{d.values:,}", f"{d.differing:,}", *off, f"{d.largest:.4g}", sqnr])
    header = ["node", "values", "differ", "off by 1", "off by 2", "more", "largest (real)", "SQNR dB"]
    return "\n".join(table(header, rows))
