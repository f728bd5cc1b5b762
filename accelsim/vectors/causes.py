"""What a design did otherwise: each known mistake is made on purpose, and stands if every mismatch vanishes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.numerics import SINGLE_ROUNDINGS, Rounding
from accelsim.vectors.edges import edges
from accelsim.vectors.evaluation import Arrays, Variant, compute
from accelsim.vectors.layers import Layer
from accelsim.vectors.manifest import Sums, TensorEntry
from accelsim.vectors.pack import Dumped

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
MOST_TILES = 128
"""Single tiles tried one after another, where only a layer's results are dumped."""


@dataclass(frozen=True)
class Compared:
    """A dumped tensor beside the expected one; `mask` says which elements count."""

    tensor: TensorEntry
    expected: Int64
    mask: Bool
    got: Dumped

    @property
    def wrong(self) -> Bool:
        """Elements that count and differ, or are unknown."""
        return self.mask & (self.got.unknown | (self.got.values != self.expected))

    def left_by(self, expected: Int64) -> int:
        """Mismatches if this had been expected."""
        return int(np.count_nonzero(self.mask & (self.got.unknown | (self.got.values != expected))))

    def left_after(self, values: Int64) -> int:
        """Mismatches if these values had been dumped."""
        return int(np.count_nonzero(self.mask & (self.got.unknown | (values != self.expected))))


@dataclass(frozen=True)
class Cause:
    """A mistake, and how many of the layer's mismatches are left when it is made on purpose."""

    text: str
    left: int
    explained: int


@dataclass(frozen=True)
class Found:
    """Causes, best first, and how many single tiles were tried of those that come into question."""

    causes: list[Cause]
    tried: int = 0
    tiles: int = 0


def find_causes(layer: Layer, compared: list[Compared], place: tuple[int | None, int | None]) -> Found:
    """Mistakes that explain mismatches of one layer, best first.

    Args:
        layer: with its layer-level arrays.
        compared: every dumped tensor of the layer.
        place: (block, chunk) of the first divergence, None where not known.
    Returns:
        Causes that leave fewer mismatches than there are, those that leave none first; of single tiles at most
        `MOST_TILES` are tried.
    """
    wrong = [one for one in compared if one.wrong.any()]
    total = sum(int(np.count_nonzero(one.wrong)) for one in wrong)
    found = [Cause(text, left, total) for text, left in _rewritten(wrong, place, layer.entry.sums)]
    results = [one for one in compared if one.tensor.role == "expected"]
    tried = tiles = 0
    if results and all(one.tensor.role == "expected" for one in wrong):
        tiles = len(_tiles(layer, place)) if layer.entry.sums is not None else 0
        tried = min(tiles, MOST_TILES)
        for text, variant in _variants(layer, place):
            predicted = _predict(layer, variant)
            if predicted is not None:
                left = sum(one.left_by(predicted[one.tensor.name]) for one in results)
                found.append(Cause(text, left, total))
    better = [cause for cause in found if cause.left < total]
    return Found(sorted(better, key=lambda cause: cause.left), tried, tiles)  # stable: of equals, the first tried


def _predict(layer: Layer, variant: Variant) -> Arrays | None:
    """What the mistake would give; None where the scheme does not take its values."""
    try:
        arrays = compute(layer.entry, layer.arrays, variant)
    except OverflowError:
        return None
    if layer.entry.cycles is not None and layer.entry.sums is not None:
        arrays |= edges(layer.entry.sums, arrays)
    return arrays


# --- mistakes in what is computed --------------------------------------------------------------------------


def _variants(layer: Layer, place: tuple[int | None, int | None]) -> Iterator[tuple[str, Variant]]:
    numerics, sums = layer.entry.numerics, layer.entry.sums
    declared = Rounding(numerics.rounding)
    for rounding in _roundings(layer):
        if rounding is not declared:
            yield f"rounding: {rounding.value} instead of {declared.value}", Variant(rounding=rounding)
    if sums is None:
        return
    if sums.policy == "saturating":
        yield "overflow: additions wrap instead of saturating", Variant(overflow="wrap")
        yield "overflow: sums saturate once at the end, not at every addition", Variant(fit_at_end=True)
    elif sums.policy == "wrapping":
        yield "overflow: additions saturate instead of wrapping", Variant(overflow="saturate")
    yield "bias: not added", Variant(biases=0)
    yield "bias: added twice", Variant(biases=2)
    yield "transposed tile: every weight tile", Variant(weights=_transposed)
    for tile in _tiles(layer, place)[:MOST_TILES]:
        yield (
            f"transposed tile: weights of block {tile[0]}, chunk {tile[1]} only",
            Variant(weights=_transposed, only=tile),
        )
    if layer.entry.op != "linear" or layer.entry.geometry.input[1:3] != [1, 1]:
        kernel = "(c, h, w)" if layer.entry.op == "linear" else "(c, r, s)"
        said = "(h, w, c)" if layer.entry.op == "linear" else "(r, s, c)"
        yield f"channel order: k of the weights runs over {kernel} instead of {said}", Variant(weight_order="crs")
    yield (
        "byte order: element 0 of an activation line taken from its most significant end",
        Variant(activations=lambda words: words[:, ::-1]),
    )
    yield (
        "byte order: element 0 of a weight line taken from its most significant end",
        Variant(weights=lambda tile: tile[:, ::-1]),
    )


def _roundings(layer: Layer) -> list[Rounding]:
    how = layer.entry.numerics.requantization
    double = how.scheme.value == "fixed_point" and how.multiplier_bits == 32 and how.order == "multiply_first"
    if layer.entry.op == "avg_pool2d":
        double = False
    return [*SINGLE_ROUNDINGS, *([Rounding.TFLITE_DOUBLE] if double else [])]


def _transposed(tile: Int64) -> Int64:
    """An R x C tile whose lines were taken for columns."""
    rows, columns = tile.shape
    return tile.reshape(columns, rows).T


def _tiles(layer: Layer, place: tuple[int | None, int | None]) -> list[tuple[int, int]]:
    """Tiles that alone could make the first divergence: its own, or where only results are known its block's."""
    sums = layer.entry.sums
    assert sums is not None
    return [
        tile
        for tile in np.ndindex(len(sums.blocks), len(sums.chunks))
        if all(known in (None, own) for known, own in zip(place, tile, strict=True))
    ]


# --- mistakes in how it was written ------------------------------------------------------------------------


def _rewritten(
    wrong: list[Compared], place: tuple[int | None, int | None], sums: Sums | None
) -> Iterator[tuple[str, int]]:
    """For each way to write all of the wrong tensors otherwise: what is left when that is undone."""
    ways: list[tuple[str, Callable[[Compared], Int64 | None]]] = [
        ("byte order: bytes of an element reversed", _swapped_bytes),
        ("byte order: elements of a line reversed, element 0 in the most significant bits", _reversed_line),
        ("transposed tile: every tile is written column by column", _transposed_results),
        ("channel order: (image, channel, y, x) instead of (image, y, x, channel)", _channels_first),
    ]
    block, chunk = place
    if block is not None and chunk is not None:
        text = f"transposed tile: block {block}, chunk {chunk} is written column by column"
        ways.insert(3, (text, lambda one: _transposed_result(one, (block, chunk))))
    for text, undo in ways:
        undone = [(one, undo(one)) for one in wrong]
        if all(values is not None for _, values in undone):
            yield text, sum(one.left_after(values) for one, values in undone if values is not None)
    order = _channel_order(wrong, sums)
    if order is not None:
        yield order, 0


def _swapped_bytes(one: Compared) -> Int64 | None:
    bits = one.tensor.bits
    if bits < 16:
        return None
    return one.got.values.astype(f"i{bits // 8}").byteswap().astype(np.int64)


def _reversed_line(one: Compared) -> Int64 | None:
    return one.got.values[..., ::-1] if one.tensor.per_line > 1 and one.tensor.level != "layer" else None


def _transposed_results(one: Compared) -> Int64 | None:
    if one.tensor.level != "tile" or len(one.tensor.shape) < 3:
        return None
    *outer, rows, columns = one.tensor.shape
    return np.swapaxes(one.got.values.reshape(*outer, columns, rows), -1, -2)


def _transposed_result(one: Compared, place: tuple[int, int]) -> Int64 | None:
    if one.tensor.level != "tile" or len(one.tensor.shape) != 4:
        return None
    rows, columns = one.tensor.shape[-2:]
    values = one.got.values.copy()
    values[place] = values[place].reshape(columns, rows).T
    return values


def _channels_first(one: Compared) -> Int64 | None:
    if one.tensor.axes != ["image", "y", "x", "channel"]:
        return None
    images, height, width, channels = one.tensor.shape
    return np.moveaxis(one.got.values.reshape(images, channels, height, width), 1, 3)


@dataclass(frozen=True)
class _Lanes:
    """A wrong tensor with what is permuted, channels or columns, as its rows: (N, the rest)."""

    expected: Int64
    got: Int64
    mask: Bool


def _channel_order(wrong: list[Compared], sums: Sums | None) -> str | None:
    """One order of the channels, or of every block's columns, that makes all the wrong tensors right."""
    if any(one.got.unknown[one.mask].any() for one in wrong):
        return None
    for unit, view in (("channels", lambda one: _by_channel(one, sums)), ("columns", _by_column)):
        lanes = [view(one) for one in wrong]
        order = _common_order([one for one in lanes if one is not None]) if None not in lanes else None
        if order is not None:
            return f"channel order: {_describe(order, unit)}"
    return None


def _by_channel(one: Compared, sums: Sums | None) -> _Lanes | None:
    """Whole tensors and tiles alike: column j of block b is channel first(b) + j."""
    axes = one.tensor.axes
    if axes[-1] in ("channel", "n"):
        return _Lanes(*(_last_first(array) for array in (one.expected, one.got.values, one.mask)))
    if axes[0] != "block" or axes[-1] != "column" or sums is None:
        return None
    blocks = sums.blocks
    return _Lanes(
        *(
            np.concatenate([_last_first(array[block, ..., :lanes]) for block, (_, lanes, _) in enumerate(blocks)])
            for array in (one.expected, one.got.values, one.mask)
        )
    )


def _by_column(one: Compared) -> _Lanes | None:
    if one.tensor.axes[-1] != "column":
        return None
    return _Lanes(*(_last_first(array) for array in (one.expected, one.got.values, one.mask)))


def _last_first(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.reshape(-1, array.shape[-1]).T


def _common_order(lanes: list[_Lanes]) -> list[int] | None:
    """For each channel, the dumped one that holds it in every tensor, itself where it may be; None where none does.

    Channels that one tensor cannot tell apart, another may: a channel's values in all tensors are matched at once.
    """
    count = len(lanes[0].expected)
    if any(len(one.expected) != count for one in lanes):
        return None
    expected = np.concatenate([one.expected for one in lanes], axis=1)
    got = np.concatenate([one.got for one in lanes], axis=1)
    mask = np.concatenate([one.mask for one in lanes], axis=1)
    used = np.flatnonzero(mask.any(axis=1))
    there: dict[bytes, list[int]] = {}
    for lane in used.tolist():
        there.setdefault(got[lane].tobytes(), []).append(lane)
    order = list(range(count))
    for lane in used.tolist():
        places = there.get(expected[lane].tobytes(), [])
        if not places:
            return None
        order[lane] = places.pop(places.index(lane) if lane in places else 0)
    if order == list(range(count)) or (mask & (got[order] != expected)).any():
        return None
    return order


def _describe(order: list[int], unit: str) -> str:
    moved = [n for n, source in enumerate(order) if source != n]
    if order == list(range(len(order)))[::-1]:
        return f"{unit} in reverse order"
    if len(moved) == 2:
        return f"{unit} {moved[0]} and {moved[1]} exchanged"
    turn = order[0]
    if order == [(n + turn) % len(order) for n in range(len(order))]:
        return f"{unit} rotated by {turn}"
    shown = ", ".join(f"{n} is in {order[n]}'s place" for n in moved[:8])
    return f"{unit} permuted ({shown}{', ...' if len(moved) > 8 else ''})"
