"""vectors check: where a design's dump first differs from a pack, the sum that differs, and what the design did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from accelsim.vectors.causes import Cause, Compared, find_causes
from accelsim.vectors.edges import leaves, word_at
from accelsim.vectors.evaluation import compute
from accelsim.vectors.layers import Layer
from accelsim.vectors.manifest import LayerEntry, TensorEntry
from accelsim.vectors.pack import Dumped, Pack
from accelsim.vectors.text import hexadecimal
from accelsim.vectors.trace import dot_product, post_processing, show_steps

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

# In the order values flow through a design. Tile sums of one tile are looked at before those of the next.
_PHASES = (
    ("input", "input0", "input1", "entries", "weight", "bias", "m0", "m0_0", "m0_1", "shift", "shift_0", "shift_1"),
    ("tile.activation", "tile.weight", "tile.start", "tile.bias", "tile.m0", "tile.shift"),
    ("cycle.activation_valid", "cycle.activation", "cycle.switch", "cycle.weight_valid", "cycle.weight"),
    ("cycle.start_valid", "cycle.start"),
    ("cycle.psum_valid", "cycle.psum"),
    ("tile.psum", "tile.accumulator"),
    ("accumulator",),
    ("tile.ppu_input", "ppu_input"),
    ("tile.output", "output"),
)


@dataclass(frozen=True)
class Place:
    """Where an element of a tensor is, as far as its tensor tells."""

    block: int | None = None
    chunk: int | None = None
    word: int | None = None
    column: int | None = None
    row: int | None = None
    channel: int | None = None
    cycle: int | None = None


@dataclass
class Divergence:
    """The first element that differs."""

    layer: LayerEntry
    tensor: TensorEntry
    index: tuple[int, ...]
    expected: int
    got: int | None  # None: unknown
    place: Place


@dataclass
class Result:
    """What a check found.

    Attributes:
        compared, tensors: elements and files.
        first: the first divergence, or None.
        given: names of the tensors dumped, by layer name.
        counts: mismatches by layer name, then tensor, in order.
        causes: mistakes that explain the first divergence's layer, best first.
        tiles: single tiles tried for being transposed, and how many come into question.
        text: all of it, for people.
    """

    compared: int
    tensors: int
    first: Divergence | None = None
    given: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)
    tiles: tuple[int, int] = (0, 0)
    text: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return self.first is None


def check(pack: Pack, dump: dict[str, Dumped], *, trace_lines: int = 40) -> Result:
    """Compare every dumped tensor with the pack's.

    Args:
        pack: from `load_pack`.
        dump: from `read_dump`, any subset of the pack.
        trace_lines: about how many lines of the sum are shown.
    """
    result = Result(0, len(dump))
    culprit: tuple[Layer, list[Compared]] | None = None
    for entry in pack.manifest.layer:
        compared = [_compare(pack, entry, tensor, dump[tensor.file]) for tensor in entry.tensor if tensor.file in dump]
        result.given[entry.name] = [one.tensor.name for one in compared]
        result.compared += sum(int(np.count_nonzero(one.mask)) for one in compared)
        wrong = {one.tensor.name: int(np.count_nonzero(one.wrong)) for one in compared if one.wrong.any()}
        if not wrong:
            continue
        result.counts[entry.name] = wrong
        if culprit is None:
            culprit = pack.layer(entry), compared
            result.first = _first(entry, compared)
    if culprit is None or result.first is None:
        result.text = f"PASS: {result.compared:,} values in {result.tensors} files agree"
        return result
    layer, compared = culprit
    place = result.first.place
    found = find_causes(layer, compared, (place.block, place.chunk))
    result.causes, result.tiles = found.causes, (found.tried, found.tiles)
    result.text = "\n".join(_show(result, result.first, layer, trace_lines))
    return result


# --- what counts -------------------------------------------------------------------------------------------


def _compare(pack: Pack, entry: LayerEntry, tensor: TensorEntry, got: Dumped) -> Compared:
    return Compared(tensor, pack.read(tensor), _mask(pack, entry, tensor), got)


def _mask(pack: Pack, entry: LayerEntry, tensor: TensorEntry) -> Bool:
    """Elements that a design must get right: not the padding of tiles, and on an edge only what is valid."""
    mask = np.ones(tensor.shape, dtype=np.bool_)
    sums = entry.sums
    if tensor.level == "layer" or sums is None:
        return mask
    if tensor.level == "cycle":
        flags = next((t for t in entry.tensor if t.name == f"{tensor.name}_valid"), None)
        return mask if flags is None else pack.read(flags) > 0
    if tensor.axes[-1] == "column":
        for block, (_, lanes, _) in enumerate(sums.blocks):
            mask[block, ..., lanes:] = False
    if tensor.axes[-1] == "row" and not sums.diagonal:
        for chunk, (_, length) in enumerate(sums.chunks):
            mask[:, chunk, :, length:] = False
    if tensor.axes[-2:] == ["row", "column"]:
        for chunk, (_, length) in enumerate(sums.chunks):
            mask[:, chunk, length if not sums.diagonal else sums.rows :] = False
    return mask


def _first(entry: LayerEntry, compared: list[Compared]) -> Divergence:
    """The earliest in the order of the data: phases, in a phase tiles, in a tile tensors."""
    best: tuple[tuple[int, ...], Compared, tuple[int, ...]] | None = None
    for one in compared:
        phase, rank = _phase(one.tensor.name)
        by_tile = one.tensor.axes[:2] == ["block", "chunk"]
        if not one.wrong.any():
            continue
        index = tuple(int(n) for n in np.argwhere(one.wrong)[0])
        if one.tensor.level == "cycle":  # time first, then block: each block starts at cycle 0
            index = min((tuple(int(n) for n in i) for i in np.argwhere(one.wrong)), key=lambda i: (i[0], i[1], i[2]))
        key = (phase, *(index[:2] if by_tile else (-1, -1)), rank, *index)
        if best is None or key < best[0]:
            best = key, one, index
    assert best is not None
    _, one, index = best
    got = None if one.got.unknown[index] else int(one.got.values[index])
    return Divergence(entry, one.tensor, index, int(one.expected[index]), got, locate(entry, one.tensor, index))


def _phase(name: str) -> tuple[int, int]:
    for phase, names in enumerate(_PHASES):
        if name in names:
            return phase, names.index(name)
    return len(_PHASES), 0


def locate(entry: LayerEntry, tensor: TensorEntry, index: tuple[int, ...]) -> Place:
    """Tile, word, column, channel and cycle of an element, as far as its tensor and the pack's level tell."""
    axis = dict(zip(tensor.axes, index, strict=True))
    sums = entry.sums
    if sums is None:
        return Place(channel=axis.get("channel"))
    block, chunk, word = axis.get("block"), axis.get("chunk"), axis.get("word")
    column, row, cycle = axis.get("column"), axis.get("row"), axis.get("cycle")
    channel = axis.get("channel", axis.get("n"))
    if channel is not None:
        block = next(b for b, (first, lanes, _) in enumerate(sums.blocks) if first <= channel < first + lanes)
        column = channel - sums.blocks[block][0]
    elif block is not None and column is not None:
        channel = sums.blocks[block][0] + column
    result = tensor.role == "expected"
    if "image" in axis and result:
        _, height, width, _ = entry.geometry.output
        word = (axis["image"] * height + axis["y"]) * width + axis["x"]
    if tensor.name.startswith("cycle.psum") and entry.cycles is not None and cycle is not None and column is not None:
        found = word_at(sums, entry.cycles, cycle, column)
        if found is not None:
            chunk, word = found
    elif result and entry.cycles is not None and word is not None and column is not None and "chunk" in axis:
        assert chunk is not None
        cycle = leaves(sums, entry.cycles, chunk, word, column)
    if "set" in axis and block is None:
        block = next((b for b, one in enumerate(sums.blocks) if one[2] == axis["set"]), None)
    return Place(block=block, chunk=chunk, word=word, column=column, row=row, channel=channel, cycle=cycle)


# --- for people --------------------------------------------------------------------------------------------


def _show(result: Result, first: Divergence, layer: Layer, trace_lines: int) -> list[str]:
    entry, tensor, place, sums = first.layer, first.tensor, first.place, layer.entry.sums
    got = "x (unknown)" if first.got is None else f"{first.got}  {hexadecimal(first.got, tensor.bits)}"
    axes = ", ".join(f"{name} {value}" for name, value in zip(tensor.axes, first.index, strict=True))
    lines = [f"FAIL: layer {entry.name} ({entry.op}, number {entry.number}), {tensor.file}: first at {axes}"]

    def say(name: str, text: str) -> None:
        lines.append(f"  {name:<10}{text}")

    if place.block is not None and sums is not None:
        channel, lanes, _ = sums.blocks[place.block]
        text = f"block {place.block} (channels {channel}..{channel + lanes - 1})"
        if place.chunk is not None:
            k, length = sums.chunks[place.chunk]
            unit = "tap" if sums.diagonal else "k"
            text += f", chunk {place.chunk} ({unit} {k}..{k + length - 1})"
        say("tile", text)
    if place.row is not None:
        say("row", f"{place.row}")
    if place.word is not None:
        _, height, width, _ = entry.geometry.output
        image, rest = divmod(place.word, height * width)
        say(
            "row" if place.row is None else "word",
            f"word {place.word}: image {image}, y {rest // width}, x {rest % width}",
        )
    if place.column is not None:
        say("column", f"{place.column}" + (f": output channel {place.channel}" if place.channel is not None else ""))
    elif place.channel is not None:
        say("channel", f"{place.channel}")
    if place.cycle is not None:
        say("cycle", f"{place.cycle}, counted from the block's first load or read")
    say("expected", f"{first.expected}  {hexadecimal(first.expected, tensor.bits)}")
    say("got", got)
    lines += _trace(first, layer, trace_lines)
    lines += _counts(result, first)
    return lines + _causes(result, entry)


def _trace(first: Divergence, layer: Layer, limit: int) -> list[str]:
    place, sums = first.place, layer.entry.sums
    if first.tensor.role != "expected":
        return []
    if sums is None:
        return _operands_without_sums(first, layer)
    if place.block is None or place.word is None or place.column is None:
        return []
    only = place.chunk if first.tensor.name.endswith(("psum", "psum_valid")) and not sums.running else None
    steps = dot_product(layer, place.block, place.word, place.column, only)
    if first.tensor.name == "tile.accumulator" and place.chunk is not None:
        steps = [step for step in steps if step.chunk <= place.chunk]
    register = f"{sums.policy}, {sums.psum_bits} bits in the array, {sums.width_bits} in the accumulator"
    lines = ["", f"the sum, addition by addition ({register}; ! left its range):"]
    lines += [f"  {line}" for line in show_steps(steps, limit)]
    if first.tensor.name.endswith(("ppu_input", "output")) and place.channel is not None:
        arrays = compute(layer.entry, layer.arrays)
        block = place.block
        value = int(arrays["tile.ppu_input"][block, place.word, place.column])
        bias = int(arrays["tile.bias"][block, place.column])
        lines.append(f"  {value - bias} + bias {bias} = {value}")
        if first.tensor.name.endswith("output"):
            lines += [f"  {line}" for line in post_processing(layer, value, place.channel)]
    return lines


def _operands_without_sums(first: Divergence, layer: Layer) -> list[str]:
    """The inputs of a pool, sum, clip or table at the place that differs."""
    image, y, x, channel = first.index
    shape = layer.entry.geometry
    lines = ["", "operands:"]
    for name in sorted(name for name in layer.arrays if name.startswith("input")):
        values = layer.arrays[name]
        if shape.kernel == [1, 1] and layer.entry.op not in ("max_pool2d", "avg_pool2d"):
            lines.append(f"  {name} {int(values[image, y, x, channel])}")
            continue
        top, _, left, _ = shape.padding
        rows = range(y * shape.stride[0] - top, y * shape.stride[0] - top + shape.kernel[0])
        columns = range(x * shape.stride[1] - left, x * shape.stride[1] - left + shape.kernel[1])
        for row in rows:
            inside = [
                str(int(values[image, row, column, channel]))
                if 0 <= row < shape.input[1] and 0 <= column < shape.input[2]
                else "-"
                for column in columns
            ]
            lines.append(f"  {name} row {row}: {' '.join(inside)}")
    return lines


def _counts(result: Result, first: Divergence) -> list[str]:
    total = sum(sum(counts.values()) for counts in result.counts.values())
    lines = ["", f"mismatches: {total:,} of {result.compared:,} values in {result.tensors} files"]
    for name, counts in result.counts.items():
        said = ", ".join(f"{tensor} {count:,}" for tensor, count in counts.items())
        after = " (may follow from the first)" if name != first.layer.name else ""
        lines.append(f"  layer {name}: {said}{after}")
    return lines


def _causes(result: Result, entry: LayerEntry) -> list[str]:
    found = [cause for cause in result.causes if not cause.left]
    if found:
        lines = ["", f"cause: {found[0].text}"]
        lines.append(f"  with it, all {found[0].explained:,} mismatches of layer {entry.name} vanish")
        return lines + [f"  so they do with: {cause.text}" for cause in found[1:]] + _cut(result)
    lines = ["", "cause: none of those that are known explains every mismatch of the layer"]
    if not any(tensor.startswith("input") for tensor in result.given.get(entry.name, ())):
        lines.append(
            "  if the design fed in results of its own, dump the layer's input, or the layers before it, as well"
        )
    if result.causes and 2 * result.causes[0].left < result.causes[0].explained:
        near = result.causes[0]
        lines.append(f"  nearest: {near.text}: {near.left:,} of {near.explained:,} would be left")
    return lines + _cut(result)


def _cut(result: Result) -> list[str]:
    tried, tiles = result.tiles
    if tried == tiles:
        return []
    return [
        f"  of the {tiles:,} tiles whose weights alone might be transposed, the first {tried:,} were tried; dump "
        "tile.psum or tile.accumulator as well, which tell the tile"
    ]
