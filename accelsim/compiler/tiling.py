"""Cutting one operation into pieces the memories hold: output channels, output rectangles, parts of K."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from accelsim.ir import AvgPool2d, Conv2d, Linear, Mac, MaxPool2d, Node, TensorType


class Block(NamedTuple):
    """Output channels first..first + lanes - 1, which read input channels from `source` on."""

    first: int
    lanes: int
    source: int


class Rectangle(NamedTuple):
    """Result positions (of the pool where one is fused): images, rows and columns, each as start and count."""

    image: int
    images: int
    y: int
    y_count: int
    x: int
    x_count: int


class Part(NamedTuple):
    """Part of K: kernel rows r.., positions s.., and bytes offset..offset + length - 1 of each run."""

    r: int
    r_count: int
    s: int
    s_count: int
    offset: int
    length: int
    first_k: int

    @property
    def rows(self) -> int:
        """Weight rows."""
        return self.r_count * self.s_count * self.length


class Runs(NamedTuple):
    """The K loop of a layer as the array sees it: r_count * s_count runs of `length` consecutive bytes."""

    r_count: int
    s_count: int
    length: int


def runs_of(mac: Mac) -> Runs:
    """Runs of one output; for a depthwise layer the length is 1 for each lane of a block."""
    if isinstance(mac, Linear):
        return Runs(1, 1, int(mac.weight.shape[1]))
    assert isinstance(mac, Conv2d)
    kernel_h, kernel_w = mac.kernel
    per_group = int(mac.weight.shape[3])
    if mac.groups == 1 and mac.dilation[1] == 1:
        return Runs(kernel_h, 1, kernel_w * per_group)
    return Runs(kernel_h, kernel_w, per_group)


def blocks_of(mac: Mac, rows: int, columns: int) -> list[Block]:
    """Output channels in blocks of at most C; a group's block never crosses into the next group."""
    if isinstance(mac, Conv2d) and mac.is_depthwise:
        return [Block(n, lanes, n) for n, lanes in spans(mac.out_channels, min(rows, columns))]
    groups = mac.groups if isinstance(mac, Conv2d) else 1
    per_group = mac.out_channels // groups
    inputs = int(mac.weight.shape[3]) if isinstance(mac, Conv2d) else 0
    return [
        Block(group * per_group + n, lanes, group * inputs)
        for group in range(groups)
        for n, lanes in spans(per_group, columns)
    ]


def spans(total: int, most: int) -> list[tuple[int, int]]:
    """Cut 0..total - 1 into (start, count) of at most `most`."""
    return [(start, min(most, total - start)) for start in range(0, total, most)]


def even_spans(total: int, most: int) -> list[tuple[int, int]]:
    """As few (start, count) as `spans`, but of nearly equal count, so that no small rest is left over."""
    pieces = -(-total // most)
    return spans(total, -(-total // pieces))


def rectangles(whole: Rectangle, window: tuple[int, int], stride: tuple[int, int], words: int) -> Iterator[Rectangle]:
    """Cut a rectangle of a result into rectangles whose source positions are at most `words` accumulator words.

    Args:
        whole: what is cut.
        window, stride: of the fused pool, or (1, 1): rows and columns of sums that one result position takes.
        words: accumulator words one rectangle may take; at least one window's.
    """

    def extent(count: int, axis: int) -> int:
        return (count - 1) * stride[axis] + window[axis]

    first, images, top, height, left, width = whole
    image_words = extent(height, 0) * extent(width, 1)
    if image_words <= words:
        for image, count in even_spans(images, min(words // image_words, 255)):
            yield Rectangle(first + image, count, top, height, left, width)
        return
    row_words = extent(width, 1)
    tall = (words // row_words - window[0]) // stride[0] + 1 if words >= row_words * window[0] else 0
    broad = width if tall else (words // window[0] - window[1]) // stride[1] + 1
    for image in range(images):
        for y, y_count in even_spans(height, max(tall, 1)):
            for x, x_count in even_spans(width, broad):
                yield Rectangle(first + image, 1, top + y, y_count, left + x, x_count)


def source_extent(rectangle: Rectangle, pool: MaxPool2d | None) -> tuple[int, int, int, int]:
    """(y, y_count, x, x_count) of the sums a rectangle of results takes."""
    if pool is None:
        return rectangle.y, rectangle.y_count, rectangle.x, rectangle.x_count
    return (
        rectangle.y * pool.stride[0],
        (rectangle.y_count - 1) * pool.stride[0] + pool.kernel[0],
        rectangle.x * pool.stride[1],
        (rectangle.x_count - 1) * pool.stride[1] + pool.kernel[1],
    )


def input_part(head: Node, source: TensorType, rectangle: Rectangle, pool: MaxPool2d | None = None) -> Rectangle:
    """The images, rows and columns of an operand that a rectangle of results needs, at least one row and column.

    Args:
        head: the layer's node.
        source: the operand's type.
        rectangle: results, of the pool where one is fused.
        pool: the fused pool.
    """
    y, y_count, x, x_count = source_extent(rectangle, pool)
    if isinstance(head, Linear):
        return Rectangle(rectangle.image, rectangle.images, 0, source.height, 0, source.width)
    kernel, stride, padding, dilation = (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)
    if isinstance(head, Conv2d):
        kernel, stride, padding, dilation = head.kernel, head.stride, head.padding, head.dilation
    elif isinstance(head, MaxPool2d | AvgPool2d):
        kernel, stride, padding = head.kernel, head.stride, head.padding
    top, _, left, _ = padding

    def needed(first: int, count: int, axis: int, before: int, size: int) -> tuple[int, int]:
        begin = first * stride[axis] - before
        end = begin + (count - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis]
        begin, end = min(max(begin, 0), size - 1), min(max(end, 0), size - 1)
        return begin, end - begin + 1

    rows, columns = needed(y, y_count, 0, top, source.height), needed(x, x_count, 1, left, source.width)
    return Rectangle(rectangle.image, rectangle.images, *rows, *columns)


def parts_of(runs: Runs, rows: int, most: int) -> list[Part] | None:
    """Cut K at chunk edges into parts of at most `most` weight rows; None where not even one chunk fits.

    Order is K's own, (r, s, chunk): where K is cut over instructions never changes which additions are made.
    """
    whole = runs.s_count * runs.length
    if runs.r_count * whole <= most:
        return [Part(0, runs.r_count, 0, runs.s_count, 0, runs.length, 0)]
    if whole <= most:
        return [
            Part(r, n, 0, runs.s_count, 0, runs.length, r * whole) for r, n in even_spans(runs.r_count, most // whole)
        ]
    if runs.length <= most:
        return [
            Part(r, 1, s, n, 0, runs.length, r * whole + s * runs.length)
            for r in range(runs.r_count)
            for s, n in even_spans(runs.s_count, most // runs.length)
        ]
    chunks = most // rows
    if chunks == 0:
        return None
    return [
        Part(r, 1, s, 1, c * rows, min(n * rows, runs.length - c * rows), r * whole + s * runs.length + c * rows)
        for r in range(runs.r_count)
        for s in range(runs.s_count)
        for c, n in even_spans(-(-runs.length // rows), chunks)
    ]
