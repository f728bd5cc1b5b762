"""What the additions of a layer looked like: extremes, mean, deviation, overflows, bits needed, by channel.

Every exact s + p counts, before it is fitted, in the array and in the accumulator memory alike (docs/numerics.md,
section 2.5). Start values are among the extremes, and are no additions. All figures are exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.engine import kernels
from accelsim.engine.evaluation import (
    MEMORY_BYTES,
    check_codes,
    over_slices,
    run_node,
    slice_images,
    to_lanes,
)
from accelsim.engine.layer import VECTOR_LANES, Lanes, Layer
from accelsim.engine.scenarios import Scenario, layers_of
from accelsim.ir import IntegerGraph, Mac
from accelsim.numerics import Arithmetic, fit

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Telemetry:
    """Statistics of the additions of N channels, or of a whole layer as one.

    Attributes:
        additions: int64 (N,).
        overflows: int64 (N,), additions whose exact result left its range; with saturate_at = "end", results fitted.
        minimum, maximum: int64 (N,), of every exact s + p and of start values.
        total, squares: sums of every exact s + p and of its square, N Python integers each.
        histogram: int64 (N, 65): how many s + p need b bits of two's complement, 1 <= b <= 64.
    """

    additions: Int64
    overflows: Int64
    minimum: Int64
    maximum: Int64
    total: tuple[int, ...]
    squares: tuple[int, ...]
    histogram: Int64

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of every exact s + p, by channel."""
        return tuple(total / int(count) for total, count in zip(self.total, self.additions, strict=True))

    @property
    def deviation(self) -> tuple[float, ...]:
        """Standard deviation of every exact s + p, by channel; the variance is exact before the root."""
        counts = [int(count) for count in self.additions]
        return tuple(
            math.sqrt((count * squares - total * total) / (count * count))
            for count, total, squares in zip(counts, self.total, self.squares, strict=True)
        )

    def __add__(self, other: Telemetry) -> Telemetry:
        """Of both sets of images."""
        return Telemetry(
            self.additions + other.additions,
            self.overflows + other.overflows,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
            self.histogram + other.histogram,
        )

    def layer(self) -> Telemetry:
        """All channels as one."""
        return Telemetry(
            self.additions.sum(keepdims=True),
            self.overflows.sum(keepdims=True),
            self.minimum.min(keepdims=True),
            self.maximum.max(keepdims=True),
            (sum(self.total),),
            (sum(self.squares),),
            self.histogram.sum(axis=0, keepdims=True),
        )


@dataclass(frozen=True, eq=False)
class Watched:
    """What `watch` saw.

    Attributes:
        layers: statistics by channel of each convolution and linear layer.
        overflowing: of layers that overflowed, the first slice of images in which they did: what `first_overflow`
            needs to look at.
    """

    layers: dict[str, Telemetry]
    overflowing: dict[str, slice]


def watch(
    graph: IntegerGraph,
    codes: npt.NDArray[np.integer[Any]],
    scenario: Scenario,
    *,
    threads: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int], object] = lambda _: None,
) -> Watched:
    """Evaluate a graph and watch every addition of each convolution and linear layer.

    Args, raises: as `execute_scenarios`.
    """
    check_codes(graph, codes)
    layers = {name: (layer, scenario[name]) for name, layer in layers_of(graph, [scenario]).items()}

    def one(images: slice) -> tuple[slice, dict[str, Telemetry]]:
        tensors: dict[str, Lanes] = {}
        found = {}
        lanes = to_lanes(codes[images])
        for node in graph.nodes:
            sources = [tensors[name] for name in node.inputs]
            if isinstance(node, Mac):
                found[node.name] = watch_layer(*layers[node.name], sources[0])
            tensors[node.name] = run_node(graph, node, lanes, sources, layers)
        return images, found

    parts = over_slices(one, len(codes), slice_images(graph, threads, memory_bytes), threads, progress)
    total = parts[0][1]
    for _, part in parts[1:]:
        total = {name: total[name] + part[name] for name in total}
    overflowing: dict[str, slice] = {}
    for images, part in parts:
        for name, telemetry in part.items():
            if telemetry.overflows.any():
                overflowing.setdefault(name, images)
    return Watched(total, overflowing)


def watch_layer(layer: Layer, arithmetic: Arithmetic, source: Lanes) -> Telemetry:
    """Statistics of one layer's additions over a slice of images, by channel."""
    start = layer.start(arithmetic)
    magnitude = layer.reach(int(source.min()), int(source.max()), start).magnitude
    if magnitude >= 1 << 29:
        return _watch_wide(layer, arithmetic, source)
    every = arithmetic.saturate_at == "every_add"
    mode = kernels.KEEP if not every else {"saturate": kernels.SATURATE, "wrap": kernels.WRAP}[arithmetic.overflow]
    channels = layer.node.out_channels
    seen = np.zeros((channels, 7), dtype=np.int64)
    seen[:, 5], seen[:, 6] = (start, start) if layer.bias_first else (1 << 30, -(1 << 30))
    histogram = np.zeros((channels, kernels.BITS), dtype=np.int64)
    source, window = layer.window(source)
    step = layer.step(source, VECTOR_LANES // 2)
    exact_in = np.float32 if 2 * magnitude + 1 < 1 << 24 else np.float64
    kernels.watched(
        source, window, layer.weight.astype(np.int32), layer.cuts, start.astype(np.int32),
        min(arithmetic.psum_bits, 31), min(arithmetic.width_bits, 31), mode, layer.splits, step,
        ((1 << 63) - 1) // max(magnitude, 1) ** 2, np.empty(step * source.shape[3], dtype=exact_in), seen, histogram,
    )  # fmt: skip
    squares = tuple(int(rest) * (1 << 32) + int(low) for low, rest in zip(seen[:, 3], seen[:, 4], strict=True))
    return Telemetry(seen[:, 0], seen[:, 1], seen[:, 5], seen[:, 6], tuple(seen[:, 2].tolist()), squares, histogram)


def _watch_wide(layer: Layer, arithmetic: Arithmetic, source: Lanes) -> Telemetry:
    """The same in Python integers, one addition at a time: for sums that the compiled loop cannot hold."""
    start = layer.start(arithmetic).tolist()
    operands = layer.operands(source).astype(object)  # (groups, K, L)
    per_group = layer.weight.shape[1]
    found = [
        _watch_channel(
            layer, arithmetic, start[n], layer.weight[n // per_group, n % per_group], operands[n // per_group]
        )
        for n in range(layer.node.out_channels)
    ]
    return Telemetry(
        additions=np.array([one.additions for one in found], dtype=np.int64),
        overflows=np.array([one.overflows for one in found], dtype=np.int64),
        minimum=np.array([min(one.values) for one in found], dtype=np.int64),
        maximum=np.array([max(one.values) for one in found], dtype=np.int64),
        total=tuple(one.total for one in found),
        squares=tuple(one.squares for one in found),
        histogram=np.stack([one.histogram for one in found]),
    )


class _Watcher:
    """One channel's additions over all lanes, in Python integers."""

    def __init__(self) -> None:
        self.additions = self.overflows = self.total = self.squares = 0
        self.values: list[int] = []
        self.histogram = np.zeros(kernels.BITS, dtype=np.int64)

    def see(self, exact: npt.NDArray[Any]) -> None:
        """Take one addition in every lane into account."""
        self.additions += exact.size
        self.total += int(exact.sum())
        self.squares += int((exact * exact).sum())
        self.values += [int(exact.min()), int(exact.max())]
        for value in exact.tolist():
            self.histogram[(value if value >= 0 else ~value).bit_length() + 1] += 1

    def count(self, exact: npt.NDArray[Any], bits: int) -> None:
        """Count what does not fit."""
        limit = 1 << (bits - 1)
        self.overflows += int(((exact < -limit) | (exact >= limit)).sum())


def _watch_channel(
    layer: Layer, arithmetic: Arithmetic, start: int, weight: Int64, operands: npt.NDArray[Any]
) -> _Watcher:
    every = arithmetic.saturate_at == "every_add"
    watcher = _Watcher()

    def add(s: npt.NDArray[Any], p: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
        exact = s + p
        watcher.see(exact)
        if not every:
            return exact
        watcher.count(exact, bits)
        return fit(exact, bits, arithmetic.overflow)

    total = np.full(operands.shape[1], start, dtype=object)
    if layer.bias_first:
        watcher.values.append(start)
    for begin, end in zip(layer.cuts[:-1].tolist(), layer.cuts[1:].tolist(), strict=True):
        psum = np.zeros_like(total) if layer.splits else total
        for k in range(begin, end):
            psum = add(psum, operands[k] * int(weight[k]), arithmetic.psum_bits)
        total = add(total, psum, arithmetic.width_bits) if layer.splits else psum
    if not every:
        watcher.count(total, arithmetic.width_bits)
    return watcher
