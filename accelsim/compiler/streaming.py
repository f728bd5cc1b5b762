"""One layer whose operands or result live in DRAM: bands of the result, each loaded, computed and stored.

A plan says how: the bands, which loop is outer, how many bands each streamed tensor has on chip at once, and where in
the activation buffer they lie. A layer whose tensors all stay on chip is one band without transfers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from accelsim.compiler.cut_layer import CutLayer, Group
from accelsim.compiler.emission import Emitter, Place
from accelsim.compiler.tiling import Rectangle, even_spans
from accelsim.ir import Add, TensorType
from accelsim.isa import Load, Memory, Store


@dataclass(frozen=True)
class Home:
    """Where a tensor of a group of images lives: at `on_chip` in the activation buffer, or else at `dram`."""

    tensor: TensorType
    on_chip: int | None
    dram: int = 0

    @property
    def streamed(self) -> bool:
        """Whether it lives in DRAM."""
        return self.on_chip is None


class Shape(NamedTuple):
    """How a layer is cut: at most so many images, rows and columns of the result in a band, blocks in a group.

    `outer` = "groups" loads a group's constants once and runs all bands with them; "bands" loads a band once and runs
    all groups on it. `slots` bands of each streamed tensor are on chip at once.
    """

    images: int
    rows: int
    columns: int
    blocks: int
    outer: Literal["groups", "bands"]
    slots: int


class Transfer(NamedTuple):
    """A strided copy between a tensor in DRAM and its part on chip; offsets are from their bases, in bytes."""

    dram: int
    buffer: int
    row_bytes: int
    rows: int
    dram_step: int
    buffer_step: int


def bands_of(shape: Shape, images: int, tensor: TensorType) -> list[Rectangle]:
    """Cut the result of `images` images, in (image, y, x) order."""
    return [
        Rectangle(image, image_count, y, y_count, x, x_count)
        for image, image_count in even_spans(images, shape.images)
        for y, y_count in even_spans(tensor.height, shape.rows)
        for x, x_count in even_spans(tensor.width, shape.columns)
    ]


def transfers(tensor: TensorType, part: Rectangle, channel: int, channels: int) -> Iterator[Transfer]:
    """As few copies as move a part of a tensor, its channels `channel`..`channel + channels - 1`.

    On chip the part is dense, (image, y, x, channel).
    """
    row = tensor.width * tensor.channels
    first = (part.image * tensor.height + part.y) * row + part.x * tensor.channels + channel
    across = part.x_count * channels
    if channels < tensor.channels:
        if part.x_count == tensor.width and (part.y_count == tensor.height or part.images == 1):
            pixels = part.images * part.y_count * part.x_count
            for start, count in even_spans(pixels, MAX_ROWS):
                yield Transfer(
                    first + start * tensor.channels, start * channels, channels, count, tensor.channels, channels
                )
            return
        for number in range(part.images * part.y_count):
            image, y = divmod(number, part.y_count)
            at = first + (image * tensor.height + y) * row
            yield Transfer(at, number * across, channels, part.x_count, tensor.channels, channels)
        return
    if part.x_count == tensor.width:
        down = part.y_count * row
        if part.y_count == tensor.height or part.images == 1:
            yield Transfer(first, 0, part.images * down, 1, 0, 0)
        else:
            yield Transfer(first, 0, down, part.images, tensor.height * row, down)
        return
    for image in range(part.images):
        yield Transfer(
            first + image * tensor.height * row, image * part.y_count * across, across, part.y_count, row, across
        )


MAX_ROWS = 65535
"""The most rows of one transfer: its field has 16 bits."""


def slices(layer: CutLayer, group: Group, shape: Shape, homes: list[Home]) -> list[tuple[int, int]]:
    """The channels (first, count) of each operand that a band holds for a group."""
    if layer.sliced and shape.outer == "groups":
        return [layer.channels(group)] * len(homes)
    return [(0, home.tensor.channels) for home in homes]


class Staging(NamedTuple):
    """Bytes of one slot of each streamed operand and of the result; 0 for what stays on chip."""

    sources: tuple[int, ...]
    result: int

    def total(self, slots: int) -> int:
        """Bytes of the whole workspace."""
        return slots * (sum(self.sources) + self.result)


def staging(layer: CutLayer, homes: list[Home], result: Home, shape: Shape, images: int) -> Staging:
    """The workspace a plan needs."""
    most = min(images, shape.images)
    groups = layer.groups(shape.blocks)
    widest = max(groups, key=lambda group: layer.channels(group)[1])
    rows, columns = layer.most(0, shape.rows), layer.most(1, shape.columns)
    sources = tuple(
        most * rows[k] * columns[k] * slices(layer, widest, shape, homes)[k][1] if home.streamed else 0
        for k, home in enumerate(homes)
    )
    channels = layer.channels(widest)[1] if shape.outer == "groups" else result.tensor.channels
    return Staging(sources, most * rows[-1] * columns[-1] * channels if result.streamed else 0)


def allowed(layer: CutLayer, homes: list[Home], result: Home, shape: Shape) -> bool:
    """Whether the layer can be cut so.

    A POST reads the residual at the offsets it writes the result at, so that both must have rows of one length.
    """
    split = shape.columns < result.tensor.width or (shape.outer == "groups" and len(layer.groups(shape.blocks)) > 1)
    return not (isinstance(layer.operation.head, Add) and split and homes[1].streamed != result.streamed)


def emit_layer(
    emitter: Emitter,
    layer: CutLayer,
    homes: list[Home],
    result: Home,
    shape: Shape,
    workspace: int,
    images: int,
    first_image: int,
) -> None:
    """Emit one layer for `images` images, the first being image `first_image` of the batch.

    Args:
        emitter: gets the instructions.
        layer: what is emitted.
        homes: of its operands.
        result: home of its result.
        shape: how it is cut.
        workspace: address of the bands in the activation buffer.
        images, first_image: of this group.
    """
    sizes = staging(layer, homes, result, shape, images)
    label = layer.operation.label
    bases = []
    for size in (*sizes.sources, sizes.result):
        bases.append(workspace)
        workspace += shape.slots * size
    turn = 0

    def load_band(band: Rectangle, group: Group) -> list[Place]:
        places = []
        needed = zip(homes, layer.needs(band), slices(layer, group, shape, homes), sizes.sources, strict=True)
        for number, (home, need, (channel, channels), size) in enumerate(needed):
            if home.on_chip is not None:
                places.append(Place(home.on_chip, home.tensor))
                continue
            at = bases[number] + turn % shape.slots * size
            for move in transfers(home.tensor, need, channel, channels):
                emitter.instructions.append(
                    Load(
                        label=label,
                        memory=Memory.ACTIVATION,
                        dram_address=home.dram + move.dram,
                        buffer_address=at + move.buffer,
                        row_bytes=move.row_bytes,
                        rows=move.rows,
                        dram_step=move.dram_step,
                        buffer_step=move.buffer_step,
                    )
                )
            places.append(Place(at, home.tensor, need, channel, channels))
        return places

    def target(band: Rectangle, channel: int, channels: int) -> Place:
        if result.on_chip is not None:
            return Place(result.on_chip, result.tensor)
        return Place(bases[-1] + turn % shape.slots * sizes.result, result.tensor, band, channel, channels)

    def store_band(band: Rectangle, place: Place) -> None:
        if result.on_chip is not None:
            return
        for move in transfers(result.tensor, band, place.channel, place.channels):
            emitter.instructions.append(
                Store(
                    label=label,
                    dram_address=result.dram + move.dram,
                    buffer_address=place.base + move.buffer,
                    row_bytes=move.row_bytes,
                    rows=move.rows,
                    dram_step=move.dram_step,
                    buffer_step=move.buffer_step,
                )
            )

    bands = bands_of(shape, images, result.tensor)
    groups = layer.groups(shape.blocks)
    if shape.outer == "groups":
        for group in groups:
            constants = layer.load(group)
            for band in bands:
                places = load_band(band, group)
                place = target(band, *layer.channels(group))
                layer.emit(group, constants, band, places, place, first_image)
                store_band(band, place)
                turn += 1
        return
    for band in bands:
        places = load_band(band, groups[0])
        place = target(band, 0, result.tensor.channels)
        for group in groups:
            layer.emit(group, layer.load(group), band, places, place, first_image)
        store_band(band, place)
        turn += 1
