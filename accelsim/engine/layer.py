"""One convolution or linear layer in lanes: its operands, what its sums can reach, and the ways to form them.

Which way is decided by what can be proved, never by a setting: where no addition of a chunk, or of the whole sum, can
leave its range, or where a wrapped or once-clamped sum does not depend on the order, a matrix product gives the same
bits as the additions one by one. docs/numerics.md, section 10, states the proofs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from accelsim.engine import kernels
from accelsim.ir import Conv2d, IntegerGraph, Mac, mac_chunks
from accelsim.numerics import Arithmetic, IntFormat, fit

Lanes = npt.NDArray[np.int16]
"""Codes of a slice of images, int16 (H, W, C, B): images innermost."""
Sums = npt.NDArray[np.floating[Any]]
"""Integers in floating point, (H * W, N, B)."""

Int64 = npt.NDArray[np.int64]

FLOAT32_EXACT, FLOAT64_EXACT = 1 << 24, 1 << 53
"""Integers up to here, and so every sum below, are exact in the format."""
VECTOR_LANES = 512
"""Lanes summed at a time: their sums and the operands of a visit stay in the first-level cache."""
PANEL_BYTES = 1 << 20
"""Operands gathered for one matrix product: what the second-level cache of a current core holds."""
FEWEST_LANES = 64
"""Lanes of a panel however long K is: a few vector registers."""
BLAS_CHUNK = 24
"""Mean length of a chunk from which one matrix product a chunk beats additions one by one."""


class Window(NamedTuple):
    """How output positions see the input, as `kernels.gather` takes it; (y, x) each, a linear layer sees all of K.

    Attributes:
        padding: above and left of the image.
        extent: (height, width) of the output.
        zero: taken off every code inside the image.
        outside: the operand where the window leaves the image.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    extent: tuple[int, int]
    zero: int
    outside: int


@dataclass(frozen=True)
class Reach:
    """What the sums of a layer can reach for inputs in a stated range, whatever the data; all ends inclusive.

    Attributes:
        chunk: (low, high) of every exact partial sum of every chunk that starts from 0.
        memory: (low, high) of every exact sum in the accumulator memory, the start value among them.
        running: (low, high) of every exact sum of all of K in one register, the start value among them.
        magnitude: no sum of start value and products, of any of them, in any order, fitted at any addition or at none,
            exceeds this: the start's magnitude and all products' added up, since no fitting raises a magnitude.
    """

    chunk: tuple[int, int]
    memory: tuple[int, int]
    running: tuple[int, int]
    magnitude: int


class Spans(NamedTuple):
    """What the products of a layer can reach, before start values: (least, most) or one figure for each channel."""

    chunk: tuple[int, int]
    running: tuple[Int64, Int64]
    memory: tuple[Int64, Int64]
    magnitude: Int64


class Layer:
    """Operands of one layer of a graph, cut for one kind of array (rows, dataflow)."""

    def __init__(self, graph: IntegerGraph, node: Mac, arithmetic: Arithmetic):
        self.node = node
        self.splits = arithmetic.splits_chunks or (isinstance(node, Conv2d) and node.is_depthwise)
        cuts = mac_chunks(graph, node, arithmetic)
        self.cuts = np.array([0, *(cut.stop for cut in cuts)], dtype=np.int64)
        subtract = graph.zero_points == "subtracted"
        zero = graph.by_name[node.inputs[0]].output.zero_point
        self.zero, self.outside = (zero, 0) if subtract else (0, zero)
        self.bias_first = graph.bias_at == "accumulator"
        """Whether the bias is what sums start from; else the post-processing unit adds it."""
        groups = node.groups if isinstance(node, Conv2d) else 1
        weight = node.weight - (node.weight_zero_point if subtract else 0)
        self.weight = weight.reshape(groups, node.out_channels // groups, -1)
        """int64 (groups, N / groups, K), k in (r, s, c) order."""
        self._floats: dict[type[np.floating[Any]], Sums] = {}
        self._known_spans: dict[tuple[int, int], Spans] = {}

    @property
    def positions(self) -> int:
        """Output positions of one image."""
        return self.node.output.height * self.node.output.width

    def floats(self, kind: type[np.floating[Any]]) -> Sums:
        """The weights in a lane type, converted once."""
        if kind not in self._floats:
            self._floats[kind] = np.ascontiguousarray(self.weight, dtype=kind)
        return self._floats[kind]

    def exact_start(self) -> Int64:
        """What each channel's exact sum starts from: int64 (N,)."""
        return self.node.bias if self.bias_first else np.zeros_like(self.node.bias)

    def start(self, arithmetic: Arithmetic) -> Int64:
        """What each channel's sum starts from, fitted as the hardware does: int64 (N,)."""
        if arithmetic.saturate_at == "end" or not self.bias_first:
            return self.exact_start()
        bits = arithmetic.width_bits if self.splits else arithmetic.psum_bits
        return fit(self.node.bias, bits, arithmetic.overflow)

    def operand_range(self, low: int, high: int) -> tuple[int, int]:
        """(low, high) of what is multiplied, padding included, for codes in low..high."""
        ends = [low - self.zero, high - self.zero]
        if isinstance(self.node, Conv2d) and any(self.node.padding):
            ends.append(self.outside)
        return min(ends), max(ends)

    def reach(self, low: int, high: int, start: Int64) -> Reach:
        """What sums can reach for input codes in low..high and given start values.

        Each product lies between the smaller and the larger of weight times either end of the range; a prefix of the
        sum takes some of them, so its extremes are the sums of the negative and of the positive ends.
        """
        spans = self._spans(*self.operand_range(low, high))
        begin = start.reshape(self.weight.shape[0], -1)
        return Reach(
            spans.chunk,
            memory=(int((begin + spans.memory[0]).min()), int((begin + spans.memory[1]).max())),
            running=(int((begin + spans.running[0]).min()), int((begin + spans.running[1]).max())),
            magnitude=int((np.abs(begin) + spans.magnitude).max()),
        )

    def _spans(self, bottom: int, top: int) -> Spans:
        """What products reach for operands in bottom..top."""
        if (bottom, top) not in self._known_spans:
            products = self.weight * bottom, self.weight * top
            least, most = np.minimum(*products), np.maximum(*products)
            edges = self.cuts[:-1]
            falls = np.add.reduceat(np.minimum(least, 0), edges, axis=2)
            rises = np.add.reduceat(np.maximum(most, 0), edges, axis=2)
            # Only whole chunks arrive in the memory, and never less than 0 or more than 0 before the first.
            whole = np.add.reduceat(least, edges, axis=2), np.add.reduceat(most, edges, axis=2)
            self._known_spans[bottom, top] = Spans(
                (int(falls.min()), int(rises.max())),
                (falls.sum(axis=2), rises.sum(axis=2)),
                (np.minimum(whole[0], 0).sum(axis=2), np.maximum(whole[1], 0).sum(axis=2)),
                np.maximum(-least, most).sum(axis=2),
            )
        return self._known_spans[bottom, top]

    # Ways to form the sums ----------------------------------------------------------------------------------

    def exact(self, source: Lanes, kind: type[np.floating[Any]], start: Int64) -> Sums:
        """Exact sums by matrix products; every sum must be exact in `kind`."""
        begin = start.astype(kind)[:, None]
        return self._products(source, kind, lambda weight, panel, mine: weight @ panel + begin[mine])

    def by_chunk(self, source: Lanes, kind: type[np.floating[Any]], arithmetic: Arithmetic) -> Sums:
        """Chunks by matrix products, each fitted to the partial sum's width, then added in the memory one by one.

        Right where no addition inside a chunk can saturate, or where sums wrap: a sum wrapped at every addition is
        the exact sum wrapped once.
        """
        begin = self.start(arithmetic).astype(kind)[:, None]
        pieces = list(zip(self.cuts[:-1].tolist(), self.cuts[1:].tolist(), strict=True))
        overflow = arithmetic.overflow

        def add(weight: Sums, panel: Sums, mine: slice) -> Sums:
            total: Sums = begin[mine]
            for first, stop in pieces:
                psum: Sums = weight[:, first:stop] @ panel[first:stop]
                if overflow == "wrap":
                    psum = fit_sums(psum, arithmetic.psum_bits, overflow)
                total = fit_sums(psum + total, arithmetic.width_bits, overflow)
            return total

        return self._products(source, kind, add)

    def clamped(self, source: Lanes, kind: type[np.floating[Any]], arithmetic: Arithmetic) -> Sums:
        """Sums clamped at every addition, one by one."""
        out = self._empty(source, kind)
        start = self.start(arithmetic).astype(kind)
        array, memory = (_limits(bits, kind) for bits in (arithmetic.psum_bits, arithmetic.width_bits))
        source, window = self.window(source)
        step = self.step(source, VECTOR_LANES)
        kernels.clamped(source, window, self.floats(kind), self.cuts, start, array, memory, self.splits, step, out)
        return out

    def tracked(self, source: Lanes, kind: type[np.floating[Any]]) -> Tracked:
        """Exact sums with the extremes of their prefixes, start values unfitted."""
        total, high, low = (self._empty(source, kind) for _ in range(3))
        extremes = np.zeros((5, source.shape[3]), dtype=kind)
        extremes[2], extremes[3] = np.finfo(kind).min, np.finfo(kind).max  # the kernel knows no infinities
        start = self.exact_start().astype(kind)
        source, window = self.window(source)
        step = self.step(source, VECTOR_LANES)
        kernels.tracked(
            source, window, self.floats(kind), self.cuts, start, self.splits, step, total, high, low, extremes
        )
        return Tracked(total, high, low, *extremes)

    def _products(self, source: Lanes, kind: type[np.floating[Any]], form: Callable[[Sums, Sums, slice], Sums]) -> Sums:
        """Sums that `form` makes of weights (N / groups, K) and gathered operands (K, L), panel by panel.

        Its third argument is the panel's channels.
        """
        out = self._empty(source, kind)
        source, window = self.window(source)
        groups, channels, depth = self.weight.shape
        images = source.shape[3]
        step = self.step(source, max(VECTOR_LANES, PANEL_BYTES // (depth * np.dtype(kind).itemsize)))
        panel = np.empty((depth, step * images), dtype=kind)
        for group in range(groups):
            mine = slice(group * channels, (group + 1) * channels)
            for first in range(0, self.positions, step):
                count = min(step, self.positions - first)
                kernels.gather(source, window, panel, first, count, group)
                found = form(self.floats(kind)[group], panel[:, : count * images], mine)
                out[first : first + count, mine] = np.moveaxis(found.reshape(channels, count, images), 1, 0)
        return out

    def operands(self, source: Lanes) -> Int64:
        """What is multiplied, all of it: int64 (groups, K, positions * B)."""
        source, window = self.window(source)
        groups, _, depth = self.weight.shape
        panels = np.empty((groups, depth, self.positions * source.shape[3]), dtype=np.int64)
        for group in range(groups):
            kernels.gather(source, window, panels[group], 0, self.positions, group)
        return panels

    def _empty(self, source: Lanes, kind: type[np.floating[Any]]) -> Sums:
        return np.empty((self.positions, self.node.out_channels, source.shape[3]), dtype=kind)

    def step(self, source: Lanes, lanes: int) -> int:
        """Positions of a panel of about so many lanes, fewer where K is large, at least one."""
        lanes = min(lanes, max(FEWEST_LANES, 4 * PANEL_BYTES // (self.weight.shape[2] * 8)))
        return max(1, min(lanes // source.shape[3], self.positions))

    def window(self, source: Lanes) -> tuple[Lanes, Window]:
        """The input as the kernels take it, and how output positions see it."""
        node = self.node
        extent = (node.output.height, node.output.width)
        if isinstance(node, Conv2d):
            padding = (node.padding[0], node.padding[2])
            return source, Window(node.kernel, node.stride, node.dilation, padding, extent, self.zero, self.outside)
        flat = source.reshape(1, 1, -1, source.shape[3])
        return flat, Window((1, 1), (1, 1), (1, 1), (0, 0), extent, self.zero, self.outside)


@dataclass(frozen=True, eq=False)
class Tracked:
    """Exact sums of a slice and what decides whether they fit.

    Attributes:
        total, high, low: (H * W, N, B): the sum, and the extremes of its prefixes in the accumulator memory (ws) or in
            the array (os), the start value among them.
        chunk_high, chunk_low: (B,), extremes of an image's partial sums, 0 among them.
        image_high, image_low: (B,), extremes of an image's `high` and `low`.
        spread: (B,), the largest distance high - low of an image's outputs.
    """

    total: Sums
    high: Sums
    low: Sums
    chunk_high: Sums
    chunk_low: Sums
    image_high: Sums
    image_low: Sums
    spread: Sums

    @cached_property
    def total_high(self) -> Sums:
        """Largest exact sum of each image, (B,)."""
        return self.total.max(axis=(0, 1))

    @cached_property
    def total_low(self) -> Sums:
        """Smallest exact sum of each image, (B,)."""
        return self.total.min(axis=(0, 1))


def lane_type(magnitude: int) -> type[np.floating[Any]]:
    """The narrower float type in which integers up to `magnitude` are exact.

    Raises:
        OverflowError: none is: a sum beyond 2**53, which takes K beyond 2**37 products of bytes.
    """
    if magnitude < FLOAT32_EXACT:
        return np.float32
    if magnitude < FLOAT64_EXACT:
        return np.float64
    raise OverflowError(f"sums up to {magnitude} are beyond the engine's 2**53")


def fit_sums(sums: Sums, bits: int, overflow: str) -> Sums:
    """`numerics.fit` on integers in floating point, exactly; the values must be exact in their type."""
    form = IntFormat(bits)
    low, high = _limits(bits, sums.dtype.type)
    if overflow == "saturate":
        return np.minimum(np.maximum(sums, low), high)
    if not sums.size or (sums.min() >= low and sums.max() <= high):
        return sums
    return np.asarray(form.wrap(sums.astype(np.int64)).astype(sums.dtype))


def _limits(bits: int, kind: type[np.floating[Any]]) -> tuple[Any, Any]:
    """The format's limits as lanes; one beyond the type's exact integers is beyond every sum, so it may be rounded."""
    form = IntFormat(bits)
    return kind(form.minimum), kind(form.maximum)


def form_sums(layer: Layer, source: Lanes, arithmetic: Arithmetic) -> Sums:
    """The sums of one layer over a slice of images, bit for bit those of the additions in hardware order.

    Args:
        source: int16 (H, W, C, B), B >= 1.
        arithmetic: at the layer's width (`Arithmetic.at_width`).
    Returns:
        (H_out * W_out, N, B), fitted, the bias included where it is the start value.
    """
    start = layer.start(arithmetic)
    reach = layer.reach(int(source.min()), int(source.max()), start)
    kind = lane_type(reach.magnitude)
    width, psum = IntFormat(arithmetic.width_bits), IntFormat(arithmetic.psum_bits)
    chunks_fit = psum.minimum <= reach.chunk[0] and reach.chunk[1] <= psum.maximum
    if layer.splits:
        all_fit = chunks_fit and width.minimum <= reach.memory[0] and reach.memory[1] <= width.maximum
        order_matters = arithmetic.overflow == "saturate" or arithmetic.psum_bits < arithmetic.width_bits
    else:
        all_fit = psum.minimum <= reach.running[0] and reach.running[1] <= psum.maximum
        order_matters = arithmetic.overflow == "saturate"
    if all_fit or arithmetic.saturate_at == "end" or not order_matters:
        total = layer.exact(source, kind, start)
        if all_fit:
            return total
        bits = (
            arithmetic.psum_bits
            if not layer.splits and arithmetic.saturate_at == "every_add"
            else (arithmetic.width_bits)
        )
        return fit_sums(total, bits, arithmetic.overflow)
    mean_chunk = int(layer.cuts[-1]) / (len(layer.cuts) - 1)
    if layer.splits and (arithmetic.overflow == "wrap" or (chunks_fit and mean_chunk >= BLAS_CHUNK)):
        return layer.by_chunk(source, kind, arithmetic)
    return layer.clamped(source, kind, arithmetic)
