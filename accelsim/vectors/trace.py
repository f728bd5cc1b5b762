"""One output's sum, addition by addition, and what the PPU makes of it: for reading beside a waveform.

Plain Python integers, written apart from `evaluation`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accelsim.numerics import requantize, to_output
from accelsim.vectors.evaluation import operands
from accelsim.vectors.layers import Layer
from accelsim.vectors.manifest import Sums

HEADING = ("", "chunk", "row", "k", "(r, s, c)", "x", "w", "x * w", "exact sum", "kept")


class Step(NamedTuple):
    """One addition: where its product comes from, the exact sum, and what the register keeps."""

    place: str
    chunk: int
    row: int
    k: int
    position: str
    x: int
    w: int
    exact: int
    kept: int

    def cells(self) -> tuple[str, ...]:
        """As text; an addition that left its range is marked."""
        mark = "!" if self.exact != self.kept else ""
        if self.place:
            return (self.place, str(self.chunk), "", "", "", "", "", "", str(self.exact), f"{self.kept}{mark}")
        product = str(self.x * self.w)
        numbers = (self.chunk, self.row, self.k, self.position, self.x, self.w, product, self.exact)
        return ("", *map(str, numbers), f"{self.kept}{mark}")


def dot_product(layer: Layer, block: int, word: int, column: int, chunk: int | None = None) -> list[Step]:
    """Every addition of one output, in hardware order.

    Args:
        layer: a convolution or linear layer with its layer-level arrays.
        block, word, column: which output.
        chunk: the one chunk wanted; None is all, with the additions into the accumulator.
    """
    sums = layer.entry.sums
    assert sums is not None
    tiles = operands(layer.entry, layer.arrays)
    chosen = sums.blocks[block][2]
    total = int(tiles["tile.start"][block, column])
    steps: list[Step] = []
    for number, (first, length) in enumerate(sums.chunks):
        rows = sums.blocks[block][1] if sums.diagonal else length
        partial = total if sums.running else 0
        if chunk in (None, number) and number == (chunk or 0) and total and sums.running:
            steps.append(Step("start", number, 0, 0, "", 0, 0, total, total))
        for row in range(rows):
            if sums.diagonal and row != column:
                continue  # the PE passes the sum on
            x = int(tiles["tile.activation"][chosen, number, word, row])
            w = int(tiles["tile.weight"][block, number, row, column])
            exact = partial + x * w
            partial = _fit(exact, sums.psum_bits, sums)
            k = first if sums.diagonal else first + row
            if chunk in (None, number):
                steps.append(Step("", number, row, k, _position(layer, k), x, w, exact, partial))
        if sums.running:
            total = partial
            continue
        exact = total + partial
        total = _fit(exact, sums.width_bits, sums)
        if chunk is None:
            steps.append(Step("accumulate", number, 0, 0, "", 0, 0, exact, total))
    return steps


def _fit(value: int, bits: int, sums: Sums) -> int:
    half = 1 << (bits - 1)
    if sums.policy == "saturating":
        return max(-half, min(half - 1, value))
    return (value + half) % (2 * half) - half


def _position(layer: Layer, k: int) -> str:
    geometry = layer.entry.geometry
    if layer.entry.op == "linear":
        return ""
    per_group = 1 if layer.entry.sums and layer.entry.sums.diagonal else geometry.input[3] // geometry.groups
    tap, c = divmod(k, per_group)
    r, s = divmod(tap, geometry.kernel[1])
    return f"({r}, {s}, {c})"


def show_steps(steps: list[Step], limit: int) -> list[str]:
    """The steps as a table of at most about `limit` lines: the first, every one that left its range, and the last."""
    kept = set(range(len(steps)))
    if len(steps) > limit:
        left = [index for index, step in enumerate(steps) if step.exact != step.kept]
        half = max(limit // 3, 1)
        kept = {*range(half), *range(len(steps) - half, len(steps)), *left[:half]}
    rows: list[tuple[str, ...]] = [HEADING]
    gap = False
    for index, step in enumerate(steps):
        if index in kept:
            rows.append(step.cells())
            gap = False
        elif not gap:
            rows.append(("...", *[""] * (len(HEADING) - 1)))
            gap = True
    used = [n for n in range(len(HEADING)) if any(row[n] for row in rows[1:])]
    widths = {n: max(len(row[n]) for row in rows) for n in used}
    return ["  ".join(row[n].rjust(widths[n]) for n in used).rstrip() for row in rows]


def post_processing(layer: Layer, value: int, channel: int) -> list[str]:
    """What the PPU makes of one value (the bias included), step by step."""
    numerics, arrays = layer.entry.numerics, layer.arrays
    how = numerics.requantization
    m0, shift = int(arrays["m0"][channel]), int(arrays["shift"][channel])
    scaled = requantize(np.array([value]), m0, shift, how)
    low, high = numerics.clip
    result = to_output(scaled, numerics.z_y, (low, high), numerics.activation, how.output_overflow)
    lines = [f"requantise {value} with m0 = {m0}, shift = {shift} ({how.scheme.value}, {how.rounding.value})"]
    if how.scheme.value == "fixed_point" and how.order == "multiply_first":
        total = how.multiplier_bits - 1 + shift
        product = value * m0
        if total > 0:
            whole, rest = divmod(product, 1 << total)
            lines.append(f"  {value} * {m0} = {product} = {whole} * 2^{total} + {rest} ({rest / (1 << total):.6f})")
    lines.append(
        f"  rounded {int(scaled[0])}, + Z_y {numerics.z_y} = {int(scaled[0]) + numerics.z_y}, "
        f"limits {low}..{high}: {int(result[0])}"
    )
    return lines
