"""Range setting beyond the extremes: one observer for each way, `scheme_observers` for what a scheme asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from accelsim.config.quantization import QuantizationScheme
from accelsim.errors import InputError
from accelsim.ir.float_graph import (
    FloatActivation,
    FloatArray,
    FloatAvgPool2d,
    FloatFlatten,
    FloatGraph,
    FloatMaxPool2d,
)
from accelsim.quantization.clipping import search
from accelsim.quantization.fusion import plan_fusion
from accelsim.quantization.histogram import Histogram
from accelsim.quantization.ranges import MinMaxObserver, Observer, Range

MOVING_AVERAGE_BATCH = 32
"""Examples whose extremes are one term of the moving average."""

Quantiser = Callable[[FloatArray, Range], FloatArray]
"""Reals to the reals that their codes stand for, in the format that a range leads to."""


class MovingAverageObserver:
    """Extremes of each 32 examples, averaged with exponential decay: one outlier moves a range by a tenth of itself.

    e = (1 - momentum) * e + momentum * (extreme of the next 32 examples), beginning with those of the first; examples
    left over at the end count as 32. Memory decides in what batches tensors arrive, so examples are grouped here.
    Source: Jacob et al. 2018 (arXiv 1712.05877), section 3.1.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.average: Range | None = None
        self.group = MinMaxObserver()
        self.in_group = 0

    def see(self, values: FloatArray) -> None:
        """Take (N, ...) examples into account, in groups that go on over batches."""
        first = 0
        while first < len(values):
            taken = values[first : first + MOVING_AVERAGE_BATCH - self.in_group]
            self.group.see(taken)
            first += len(taken)
            self.in_group += len(taken)
            if self.in_group == MOVING_AVERAGE_BATCH:
                self.average = self._averaged()
                self.group, self.in_group = MinMaxObserver(), 0

    def range(self) -> Range:
        """The average, with the last group whether full or not."""
        return self._averaged() if self.in_group or self.average is None else self.average

    def _averaged(self) -> Range:
        last = self.group.range()
        if self.average is None:
            return last
        keep = 1.0 - self.momentum
        return Range(
            keep * self.average.low + self.momentum * last.low, keep * self.average.high + self.momentum * last.high
        )


class PercentileObserver:
    """Cuts (100 - percentile) % of the values off either end.

    Nearest rank, no interpolation: high is the smallest value that at least `percentile` % of the values do not
    exceed, low the largest that at least as many do not fall below. Values are those of a `Histogram`; an end that cuts
    nothing is the exact extreme. Source: Wu et al. 2020 (arXiv 2004.09602), "percentile" calibration.
    """

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile
        self.histogram = Histogram()

    def see(self, values: FloatArray) -> None:
        """Count the batch."""
        self.histogram.add(values)

    def range(self) -> Range:
        """From the lower to the upper percentile."""
        values, counts = self.histogram.bins()
        total = int(counts.sum())
        rank = percentile_rank(total, self.percentile)
        low, high = self.histogram.low, self.histogram.high
        if rank < total:
            high = float(values[np.searchsorted(np.cumsum(counts), rank)])
            low = float(values[::-1][np.searchsorted(np.cumsum(counts[::-1]), rank)])
        return Range(max(low, self.histogram.low), min(high, self.histogram.high))


def percentile_rank(count: int, percentile: float) -> int:
    """ceil(count * percentile / 100), at least 1: the rank, from 1, of the value that `percentile` % do not exceed.

    >>> percentile_rank(10_000, 99.99), percentile_rank(10, 99.9), percentile_rank(3, 60.0)
    (9999, 10, 2)
    """
    # What rounding adds to the product must not lift it over an integer.
    return max(1, int(np.ceil(round(count * percentile / 100.0, 6))))


class MseObserver:
    """The range within which quantising has the least mean squared error.

    sum over all values of (x - quantised(x))**2 over the grid of `clipping.search`, with the quantiser that the scheme
    will use: rounding error and clipping error trade against each other, so the range depends on the format.
    Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1 ("MSE").
    """

    def __init__(self, quantiser: Quantiser, *, two_ends: bool) -> None:
        self.quantiser = quantiser
        self.two_ends = two_ends
        self.histogram = Histogram()

    def see(self, values: FloatArray) -> None:
        """Count the batch."""
        self.histogram.add(values)

    def range(self) -> Range:
        """The best candidate."""
        values, counts = self.histogram.bins()
        weight = counts.astype(np.float64)
        whole = Range(self.histogram.low, self.histogram.high)
        if not np.isfinite(values).all():
            return whole
        return search(
            whole,
            lambda candidate: float(weight @ np.square(values - self.quantiser(values, candidate))),
            two_ends=self.two_ends,
        )


class CrossEntropyObserver:
    """The range of logits that keeps the classifier's probabilities.

    Minus the sum over examples and classes of softmax(v) * log(softmax(quantised(v))), over the grid of
    `clipping.search`; small logits, which a mean squared error would spend codes on, do not matter to a
    softmax. Classes are axis 1.
    Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1 ("Cross entropy").
    """

    def __init__(self, quantiser: Quantiser, *, two_ends: bool) -> None:
        self.quantiser = quantiser
        self.two_ends = two_ends
        self.batches: list[FloatArray] = []

    def see(self, values: FloatArray) -> None:
        """Keep the batch, rounded to float32; (N, classes) or (N, classes, H, W)."""
        with np.errstate(over="ignore"):
            self.batches.append(values.astype(np.float32))

    def range(self) -> Range:
        """The best candidate."""
        logits = np.concatenate(self.batches).astype(np.float64)
        whole = Range(float(logits.min()), float(logits.max()))
        if not np.isfinite(logits).all():
            return whole
        wanted = np.exp(_log_softmax(logits))
        return search(
            whole,
            lambda candidate: -float((wanted * _log_softmax(self.quantiser(logits, candidate))).sum()),
            two_ends=self.two_ends,
        )


def _log_softmax(values: FloatArray) -> FloatArray:
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def scaled_tensors(graph: FloatGraph) -> dict[str, str]:
    """Of every tensor whose scale its own range decides: float node whose output it is to integer node that makes it.

    Pools, clips and flattens keep their input's scale, tables have fixed ones.
    """
    fusion = plan_fusion(graph)
    made: dict[str, str] = {}
    for node in graph.nodes:
        own = fusion.source[node.name] == node.name
        if own and not isinstance(node, FloatActivation | FloatMaxPool2d | FloatAvgPool2d | FloatFlatten):
            fused = fusion.activation.get(node.name)
            made[fused.name if fused else node.name] = node.name
    return made


def scheme_observers(
    graph: FloatGraph, scheme: QuantizationScheme, quantiser: Callable[[str], Quantiser]
) -> dict[str, Callable[[], Observer]]:
    """What is to watch each tensor that has a scale of its own, by float node; for others extremes do.

    Args:
        graph: without batch norms.
        scheme: `activation.range`, its keys, and `activation.logits`. "batch_norm" observes nothing.
        quantiser: of the integer node of a name.
    Raises:
        InputError: `activation.logits` is set and no range decides the scale of the network's output.
    """
    activation = scheme.activation
    two_ends = not activation.symmetric
    watching: dict[str, Callable[[], Observer]] = {}
    tensors = scaled_tensors(graph)
    for name, node in tensors.items():
        match activation.range:
            case "moving_average":
                watching[name] = partial(MovingAverageObserver, activation.momentum)
            case "percentile":
                watching[name] = partial(PercentileObserver, activation.percentile)
            case "mse":
                watching[name] = partial(MseObserver, quantiser(node), two_ends=two_ends)
            case "min_max" | "batch_norm":
                pass
    if activation.logits == "cross_entropy":
        output = logits(graph)
        if scheme.activation_of(tensors[output]).fraction_bits is not None:
            raise InputError(
                f"{graph.name}: activation.logits = 'cross_entropy' changes nothing with "
                f"layers.{tensors[output]}.activation_fraction_bits; set activation.logits = 'same'"
            )
        watching[output] = partial(CrossEntropyObserver, quantiser(tensors[output]), two_ends=two_ends)
    return watching


def logits(graph: FloatGraph) -> str:
    """The float node whose range decides the scale of the network's output.

    Raises:
        InputError: none does: the output is a pool's, a table's or the input's.
    """
    name = graph.output
    while isinstance(graph.by_name[name], FloatFlatten):
        name = graph.by_name[name].inputs[0]
    if name not in scaled_tensors(graph) or not graph.by_name[name].inputs:
        where = graph.by_name[name].source or name
        raise InputError(
            f"{graph.name}: {where}: activation.logits = 'cross_entropy' needs an output with a scale of its own, of a "
            "convolution, linear layer or sum; set activation.logits = 'same'"
        )
    return name
