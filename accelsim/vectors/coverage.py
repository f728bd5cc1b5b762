"""What a set of vectors reaches, counted in the vectors themselves.

A point that nothing reaches is missed, or impossible where the widths rule it out; nothing here is asserted by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from accelsim.numerics import SINGLE_ROUNDINGS, IntFormat, Rounding, fit, requantize
from accelsim.vectors.evaluation import Variant, compute
from accelsim.vectors.layers import Layer

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass
class Point:
    """One thing to reach.

    Attributes:
        name, text: what it is.
        hits: vectors that reach it: dot products, additions, outputs or layers, as the text says.
        first: the first of them.
        possible: whether the pack's widths and modes allow it at all.
    """

    name: str
    text: str
    hits: int = 0
    first: str = ""
    possible: bool = False

    @property
    def status(self) -> str:
        """hit, missed or impossible."""
        return "hit" if self.hits else "missed" if self.possible else "impossible"


@dataclass
class Coverage:
    """All points, in order."""

    points: dict[str, Point] = field(default_factory=dict)

    def declare(self, name: str, text: str) -> None:
        """Make a point known."""
        self.points[name] = Point(name, text)

    def see(self, name: str, layer: Layer, hits: Bool | np.bool_ | bool, *, axes: str = "") -> None:
        """Count where a point is reached in a layer; being asked at all makes it possible."""
        point = self.points[name]
        point.possible = True
        count = int(np.count_nonzero(hits))
        if count and not point.hits:
            point.first = layer.entry.name
            if axes:
                index = np.argwhere(np.asarray(hits))[0]
                names = axes.split(", ")
                point.first += ": " + ", ".join(f"{n} {int(i)}" for n, i in zip(names, index, strict=True))
        point.hits += count

    @property
    def missed(self) -> list[Point]:
        """Points that could be reached and are not."""
        return [point for point in self.points.values() if point.status == "missed"]


def measure(layers: Iterable[Layer]) -> Coverage:
    """Count every point over the layers."""
    coverage = Coverage()
    _declare(coverage)
    for layer in layers:
        _layer(coverage, layer)
    return coverage


def coverage_text(coverage: Coverage) -> str:
    """coverage.toml."""
    lines = ["# What the vectors reach, counted in them: 'accelsim vectors coverage PACK' counts again."]
    for point in coverage.points.values():
        lines += ["", "[[point]]", f'name = "{point.name}"', f'text = "{point.text}"']
        lines += [f'status = "{point.status}"', f"hits = {point.hits}", f'first = "{point.first}"']
    return "\n".join(lines) + "\n"


def show_coverage(coverage: Coverage) -> str:
    """A table for the terminal."""
    points = list(coverage.points.values())
    width = max(len(point.name) for point in points)
    lines = [f"{p.name:<{width}}  {p.status:<10}  {p.hits:>9,}  {p.first}".rstrip() for p in points]
    count = {status: sum(p.status == status for p in points) for status in ("hit", "missed", "impossible")}
    return "\n".join([*lines, "", ", ".join(f"{number} {status}" for status, number in count.items())])


_ROUNDINGS = [mode.value for mode in Rounding]


def _declare(c: Coverage) -> None:
    c.declare("operands.all_minimum", "outputs all of whose activations and weights are the least of their formats")
    c.declare("operands.largest_product", "products of the two least operands: the largest positive")
    for place, adder in (("array", "the array's adder"), ("accumulator", "the accumulator's adder")):
        for end in ("maximum", "minimum"):
            c.declare(f"{place}.at_{end}", f"additions in {adder} whose exact sum is its {end}")
            c.declare(f"{place}.one_past_{end}", f"additions in {adder} whose exact sum is one past its {end}")
            other = "a negative" if end == "maximum" else "a positive"
            c.declare(f"{place}.back_from_{end}", f"additions in {adder} of {other} value to its {end}")
    c.declare("sum.up_then_down", "outputs whose largest positive products come first and negative ones after")
    c.declare("sum.down_then_up", "outputs whose most negative products come first and positive ones after")
    for mode in _ROUNDINGS:
        c.declare(f"rounding.{mode}", f"outputs of layers that round {mode}")
        for sign in ("positive", "negative"):
            c.declare(f"tie.{sign}.{mode}", f"{sign} values exactly half way between two integers, {mode}")
        c.declare(
            f"rounding.{mode}.told_apart", f"layers whose outputs differ from every other single rounding, {mode}"
        )
    for name, text in (
        ("shift.zero", "total shift 0"),
        ("shift.negative", "a left shift"),
        ("shift.minimum", "total shift -31"),
        ("shift.maximum", "total shift 62"),
    ):
        c.declare(name, f"channels with {text}")
    for name, text in (("minimum", "1"), ("normal_minimum", "2^(B-2)"), ("maximum", "2^(B-1) - 1")):
        c.declare(f"m0.{name}", f"channels of fixed_point with m0 = {text}")
    for end in ("maximum", "minimum"):
        c.declare(f"output.at_{end}", f"outputs that are exactly the format's {end} before any clip")
        c.declare(f"output.one_past_{end}", f"outputs one past the format's {end} before the clip")
    for which in ("x", "w", "y"):
        for end in ("minimum", "maximum"):
            c.declare(f"zero_point.{which}.{end}", f"layers whose Z_{which} is the format's {end}")
    for name, text in (
        ("k_below_rows", "tiles with fewer rows than the array"),
        ("k_full", "tiles with all rows"),
        ("k_one_over", "last chunks of one row behind full ones"),
        ("n_below_columns", "blocks with fewer lanes than the array"),
        ("n_full", "blocks with all lanes"),
        ("n_one_over", "last blocks of one lane behind full ones"),
        ("m_one", "layers of one word"),
        ("m_below_rows", "layers of fewer words than rows"),
        ("m_over_rows", "layers of more words than rows"),
        ("padding", "layers with padding"),
    ):
        c.declare(f"tile.{name}", text)


def _layer(c: Coverage, layer: Layer) -> None:
    if layer.entry.sums is None:
        return
    arrays = compute(layer.entry, layer.arrays)
    _shape_points(c, layer)
    _additions(c, layer, arrays)
    _post(c, layer, arrays)


def _shape_points(c: Coverage, layer: Layer) -> None:
    entry, sums, form = layer.entry, layer.entry.sums, layer.entry.numerics.activation
    assert sums is not None
    lengths = [length for _, length in sums.chunks]
    lanes = [count for _, count, _ in sums.blocks]
    R, C = sums.rows, sums.columns
    weight = IntFormat(sums.weight_bits)
    for name, seen in (
        ("k_below_rows", [length < R for length in lengths]),
        ("k_full", [length == R for length in lengths]),
        ("k_one_over", len(lengths) > 1 and lengths[-1] == 1 and lengths[-2] == R),
        ("n_below_columns", [count < C for count in lanes]),
        ("n_full", [count == C for count in lanes]),
        ("n_one_over", len(lanes) > 1 and lanes[-1] == 1 and lanes[-2] == C),
        ("m_one", sums.words == 1),
        ("m_below_rows", sums.words < R),
        ("m_over_rows", sums.words > R),
        ("padding", any(entry.geometry.padding)),
    ):
        c.see(f"tile.{name}", layer, np.asarray(seen))
    for which, zero, limits in (
        ("x", entry.numerics.z_x[0], form.limits),
        ("y", entry.numerics.z_y, form.limits),
        *([("w", sums.z_w, weight.limits)] if sums.zero_points == "subtracted" else []),
    ):
        for end, limit in zip(("minimum", "maximum"), limits, strict=True):
            c.see(f"zero_point.{which}.{end}", layer, zero == limit)


def _additions(c: Coverage, layer: Layer, arrays: dict[str, Int64]) -> None:
    """Walk every addition of the layer, in order, for all words and columns at once."""
    sums, form = layer.entry.sums, layer.entry.numerics.activation
    assert sums is not None
    how = sums.arithmetic
    subtract = sums.zero_points == "subtracted"
    zeros = (layer.entry.numerics.z_x[0], sums.z_w) if subtract else (0, 0)
    least = (form.minimum - zeros[0], IntFormat(sums.weight_bits).minimum - zeros[1])
    largest = max(abs(form.minimum - zeros[0]), abs(form.maximum - zeros[0])) * max(
        abs(IntFormat(sums.weight_bits).minimum - zeros[1]), abs(IntFormat(sums.weight_bits).maximum - zeros[1])
    )
    for block, (_, lanes, chosen) in enumerate(sums.blocks):
        shape = (sums.words, lanes)
        total = np.broadcast_to(arrays["tile.start"][block, :lanes], shape)
        every_minimum = np.ones(shape, dtype=np.bool_)
        order: list[Int64] = []
        for number, (_, length) in enumerate(sums.chunks):
            psum = total if sums.running else np.zeros(shape, dtype=np.int64)
            reach = int(np.abs(psum).max()) + length * largest
            for row in range(lanes if sums.diagonal else length):
                x = arrays["tile.activation"][chosen, number, :, row, None]
                w = arrays["tile.weight"][block, number, row, :lanes]
                active = np.arange(lanes) == row if sums.diagonal else np.ones(lanes, dtype=np.bool_)
                product = x * w
                every_minimum &= ~active | ((x == least[0]) & (w == least[1]))
                minimum_both = active & (x == least[0]) & (w == least[1])
                c.see("operands.largest_product", layer, minimum_both & (product > 0), axes="word, channel")
                psum = _adder(c, layer, "array", psum, np.where(active, product, 0), how.psum_bits, reach)
                if not sums.diagonal:
                    order.append(product)
            if sums.running:
                total = psum
            else:
                reach = int(np.abs(total).max()) + length * largest
                total = _adder(c, layer, "accumulator", total, psum, how.width_bits, reach)
        c.see("operands.all_minimum", layer, every_minimum, axes="word, channel")
        if len(order) > 1:
            products = np.stack(order)
            half = len(order) // 2
            before, after = products[:half], products[half:]
            top, bottom = HIGHEST * HIGHEST, -HIGHEST * (HIGHEST + 1)
            c.see(
                "sum.up_then_down", layer, ((before >= top).all(axis=0) & (after < 0).all(axis=0)), axes="word, channel"
            )
            c.see(
                "sum.down_then_up",
                layer,
                ((before <= bottom).all(axis=0) & (after > 0).all(axis=0)),
                axes="word, channel",
            )


HIGHEST = 127


def _adder(c: Coverage, layer: Layer, place: str, s: Int64, p: Int64, bits: int, reach: int) -> Int64:
    """One addition, fitted; limits that `reach` cannot come to are not asked for."""
    sums = layer.entry.sums
    assert sums is not None
    form = IntFormat(bits)
    exact = s + p if bits < 64 else s  # 64 bits: int64 may not hold one past; no pack reaches it
    if sums.policy != "exact" and bits < 64 and reach > form.maximum:
        for end, limit, sign in (("maximum", form.maximum, 1), ("minimum", form.minimum, -1)):
            c.see(f"{place}.at_{end}", layer, (exact == limit) & (p != 0), axes="word, channel")
            c.see(f"{place}.one_past_{end}", layer, exact == limit + sign, axes="word, channel")
            c.see(f"{place}.back_from_{end}", layer, (s == limit) & (p * sign < 0), axes="word, channel")
    return fit(s + p, bits, sums.arithmetic.overflow)


def _post(c: Coverage, layer: Layer, arrays: dict[str, Int64]) -> None:
    numerics = layer.entry.numerics
    how, form = numerics.requantization, numerics.activation
    mode = how.rounding.value
    value = arrays["ppu_input"]
    m0, shift = layer.arrays["m0"], layer.arrays["shift"]
    axes = "image, y, x, channel"
    c.see(f"rounding.{mode}", layer, np.ones(value.shape, dtype=np.bool_), axes=axes)
    if how.scheme.value in ("fixed_point", "power_of_two"):
        fraction = how.multiplier_bits - 1 if how.scheme.value == "fixed_point" else 0
        total = shift + fraction
        _ties(c, layer, value, m0, shift, mode, axes)
        c.see("shift.zero", layer, total == 0, axes="channel")
        c.see("shift.negative", layer, total < 0, axes="channel")
        c.see("shift.minimum", layer, total == -31, axes="channel")
        c.see("shift.maximum", layer, total == 62, axes="channel")
    if how.scheme.value == "fixed_point":
        c.see("m0.minimum", layer, m0 == 1, axes="channel")
        c.see("m0.normal_minimum", layer, m0 == 1 << (how.multiplier_bits - 2), axes="channel")
        c.see("m0.maximum", layer, m0 == (1 << (how.multiplier_bits - 1)) - 1, axes="channel")
    before = numerics.z_y + requantize(value, m0, shift, how)
    for end, limit, sign in (("maximum", form.maximum, 1), ("minimum", form.minimum, -1)):
        c.see(f"output.at_{end}", layer, np.asarray(before == limit, dtype=np.bool_), axes=axes)
        c.see(f"output.one_past_{end}", layer, np.asarray(before == limit + sign, dtype=np.bool_), axes=axes)
    others = [one for one in SINGLE_ROUNDINGS if one is not how.rounding]
    differs = all(
        bool((compute(layer.entry, layer.arrays, Variant(rounding=one))["output"] != arrays["output"]).any())
        for one in others
    )
    c.see(f"rounding.{mode}.told_apart", layer, differs)


def _ties(c: Coverage, layer: Layer, value: Int64, m0: Int64, shift: Int64, mode: str, axes: str) -> None:
    """Exact products v * M0 half way between two multiples of 2^t, in Python integers: they may exceed 64 bits."""
    how = layer.entry.numerics.requantization
    fraction = how.multiplier_bits - 1 if how.scheme.value == "fixed_point" else 0
    hits = np.zeros(value.shape, dtype=np.bool_)
    for channel, (m, n) in enumerate(zip(m0.tolist(), shift.tolist(), strict=True)):
        t = n + fraction
        if t > 0:
            product = value[..., channel].astype(object) * m
            hits[..., channel] = (product % (1 << t) == 1 << (t - 1)).astype(np.bool_)
    c.see(f"tie.positive.{mode}", layer, hits & (value > 0), axes=axes)
    c.see(f"tie.negative.{mode}", layer, hits & (value < 0), axes=axes)
