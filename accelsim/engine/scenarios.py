"""Many widths at once: one exact pass with the extremes of its prefixes, and only what overflow changes again.

A scenario gives every layer an arithmetic; rows and dataflow are common to all, widths and modes are not. The exact
evaluation (no limit anywhere) is done once for a slice of images. In each scenario, images whose sums provably stay
inside have the exact codes; of the others the sums follow from the prefixes' extremes where the theorem of
docs/numerics.md, section 10.2, holds, and else from a pass in hardware order. Only images whose codes changed are
carried on to the next node, and scenarios that agree so far share what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.engine import kernels
from accelsim.engine.evaluation import (
    MEMORY_BYTES,
    Codes,
    check_codes,
    last_uses,
    named,
    over_slices,
    run_node,
    slice_images,
    to_lanes,
)
from accelsim.engine.layer import Lanes, Layer, Sums, Tracked, fit_sums, form_sums, lane_type
from accelsim.engine.nodes import apply, finish
from accelsim.ir import Input, IntegerGraph, Mac, Node, refuse_matmul
from accelsim.numerics import Arithmetic, IntFormat

Scenario = Mapping[str, Arithmetic]
"""The arithmetic of each convolution and linear layer, by node name, at that layer's width."""

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Variation:
    """Images of a slice whose tensor at a node is not the exact one: their indices, ascending, and their codes."""

    images: Indices
    codes: Lanes


@dataclass(frozen=True, eq=False)
class ScenarioOutcome:
    """What one scenario makes of the images.

    Attributes:
        output: int16 (N, H, W, C), codes of the graph's output.
        changed: images whose tensor differs from that of exact sums, by node.
    """

    output: Codes
    changed: dict[str, int]


def uniform(graph: IntegerGraph, arithmetic: Arithmetic) -> Scenario:
    """One arithmetic for every layer; a layer's own accumulator width still narrows it."""
    return {
        node.name: arithmetic.at_width(node.accumulator_width_bits) for node in graph.nodes if isinstance(node, Mac)
    }


def exact_arithmetic(arithmetic: Arithmetic) -> Arithmetic:
    """The same array with sums that nothing limits in practice: 64 bits, fitted once at the end."""
    return Arithmetic(
        psum_bits=64,
        width_bits=64,
        overflow="saturate",
        saturate_at="end",
        rows=arithmetic.rows,
        dataflow=arithmetic.dataflow,
    )


def execute_scenarios(
    graph: IntegerGraph,
    codes: npt.NDArray[np.integer[Any]],
    scenarios: Sequence[Scenario],
    *,
    threads: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int], object] = lambda _: None,
) -> list[ScenarioOutcome]:
    """Evaluate a graph under many arithmetics; each result is that of `execute` under that arithmetic alone.

    Args:
        graph, codes, threads, memory_bytes, progress: as for `execute`.
        scenarios: one or more, of one array (rows and dataflow).
    Raises:
        ValueError: scenarios of different arrays, none, or one without an arithmetic for every layer.
        InputError: as for `execute`; also where the scheme does not take an exact sum (tflite_double beyond 32 bits).
    """
    check_codes(graph, codes)
    layers = layers_of(graph, scenarios)
    shape = graph.by_name[graph.output].output.shape
    outputs = [np.empty((len(codes), *shape), dtype=np.int16) for _ in scenarios]

    def one(images: slice) -> list[dict[str, int]]:
        base, variations, changed = _run_slice(graph, to_lanes(codes[images]), layers, scenarios)
        for output, variation in zip(outputs, variations, strict=True):
            mine = base.copy()
            mine[..., variation.images] = variation.codes
            output[images] = np.moveaxis(mine, 3, 0)
        return changed

    size = slice_images(graph, threads, memory_bytes, arrays=5, scenarios=len(scenarios))
    parts = over_slices(one, len(codes), size, threads, progress)
    return [
        ScenarioOutcome(output, {node.name: sum(part[index][node.name] for part in parts) for node in graph.nodes})
        for index, output in enumerate(outputs)
    ]


def layers_of(graph: IntegerGraph, scenarios: Sequence[Scenario]) -> dict[str, Layer]:
    """The graph's layers, cut for the one array of all scenarios; raises as `execute_scenarios`."""
    if not scenarios:
        raise ValueError("no scenarios; give at least one")
    refuse_matmul(graph, "cannot be evaluated under many widths at once")
    macs = [node for node in graph.nodes if isinstance(node, Mac)]
    for scenario in scenarios:
        if missing := [node.name for node in macs if node.name not in scenario]:
            raise ValueError(f"a scenario has no arithmetic for layer {missing[0]!r}")
    arrays = {(how.rows, how.dataflow) for scenario in scenarios for how in scenario.values()}
    if len(arrays) > 1:
        raise ValueError(f"scenarios of different arrays (rows, dataflow): {sorted(arrays)}")
    return {node.name: Layer(graph, node, scenarios[0][node.name]) for node in macs}


def _run_slice(
    graph: IntegerGraph, codes: Lanes, layers: dict[str, Layer], scenarios: Sequence[Scenario]
) -> tuple[Lanes, list[Variation], list[dict[str, int]]]:
    """The exact output of a slice, by scenario what differs from it, and how many images differ at every node."""
    base: dict[str, Lanes] = {}
    variations: list[dict[str, Variation]] = [{} for _ in scenarios]
    changed: list[dict[str, int]] = [{} for _ in scenarios]
    last = last_uses(graph)
    for position, node in enumerate(graph.nodes):
        sources = [base[name] for name in node.inputs]
        tracked = None
        if isinstance(node, Mac):
            layer = layers[node.name]
            tracked = _tracked(layer, sources[0])
            with named(node.name):
                base[node.name] = finish(graph, node, tracked.total)
        else:
            base[node.name] = run_node(graph, node, codes, sources, {})
        none = Variation(np.empty(0, dtype=np.int64), base[node.name][..., :0])
        shared: dict[tuple[object, ...], Variation] = {}
        for scenario, found in zip(scenarios, variations, strict=True):
            inputs = [found[name] for name in node.inputs]
            arithmetic = scenario[node.name] if isinstance(node, Mac) else None
            # Variations are shared between scenarios, so equal ones are one object.
            key = (arithmetic, *(id(variation) for variation in inputs))
            if key not in shared:
                with named(node.name):
                    if arithmetic is not None and tracked is not None:
                        layer = layers[node.name]
                        pieces = _sums_changed(graph, layer, arithmetic, tracked, sources[0], inputs[0])
                    else:
                        pieces = _inputs_changed(graph, node, sources, inputs)
                shared[key] = _kept(base[node.name], pieces) or none
            found[node.name] = shared[key]
        for count, found in zip(changed, variations, strict=True):
            count[node.name] = len(found[node.name].images)
        for name in {*node.inputs}:
            if last[name] == position and name != graph.output:  # nobody reads it any more
                del base[name]
                for found in variations:
                    del found[name]
    return base[graph.output], [found[graph.output] for found in variations], changed


def _tracked(layer: Layer, source: Lanes) -> Tracked:
    reach = layer.reach(int(source.min()), int(source.max()), layer.exact_start())
    return layer.tracked(source, lane_type(reach.magnitude))


Pieces = list[tuple[Indices, Lanes]]
"""Codes of some images of a slice."""


def _kept(base: Lanes, pieces: Pieces) -> Variation | None:
    """Of all images computed again, those that differ from the exact codes; None where none does."""
    kept = []
    for images, codes in pieces:
        found = np.zeros(len(images), dtype=np.bool_)
        kernels.differing(base, images, codes, found)
        if found.any():
            kept.append((images[found], codes if found.all() else codes[..., found]))
    if not kept:
        return None
    images = np.concatenate([images for images, _ in kept])
    codes = np.concatenate([codes for _, codes in kept], axis=3)
    order = np.argsort(images)
    return Variation(images[order], codes if np.array_equal(order, np.arange(len(order))) else codes[..., order])


def _with(base: Lanes, variation: Variation, images: Indices) -> Lanes:
    """Codes of some images, in a scenario: those of its variation, else the exact ones."""
    if np.array_equal(images, variation.images):
        return variation.codes
    place = np.searchsorted(variation.images, images)
    varied = np.append(variation.images, -1)[place] == images
    taken = np.empty((*base.shape[:3], len(images)), dtype=np.int16)
    kernels.overlaid(base, images, np.where(varied, place, -1), np.ascontiguousarray(variation.codes), taken)
    return taken


def _inputs_changed(graph: IntegerGraph, node: Node, sources: list[Lanes], inputs: list[Variation]) -> Pieces:
    """A node without products: again for images of which an input changed."""
    if isinstance(node, Input):
        return []
    images = np.unique(np.concatenate([variation.images for variation in inputs]))
    if not len(images):
        return []
    taken = [_with(base, variation, images) for base, variation in zip(sources, inputs, strict=True)]
    return [(images, apply(graph, node, taken))]


def _sums_changed(
    graph: IntegerGraph,
    layer: Layer,
    arithmetic: Arithmetic,
    tracked: Tracked,
    source: Lanes,
    variation: Variation,
) -> Pieces:
    """A layer: sums of images that its input or its width changed."""
    again = np.zeros(source.shape[3], dtype=np.bool_)
    again[variation.images] = True
    limited, derived = _limited(layer, arithmetic, tracked, ~again)
    again |= limited
    pieces: Pieces = []
    if derived.any():
        images = np.flatnonzero(derived)
        pieces.append((images, finish(graph, layer.node, _derive(layer, arithmetic, tracked, images))))
    if again.any():
        images = np.flatnonzero(again)
        pieces.append(
            (images, finish(graph, layer.node, form_sums(layer, _with(source, variation, images), arithmetic)))
        )
    return pieces


def _limited(layer: Layer, arithmetic: Arithmetic, tracked: Tracked, mine: Mask) -> tuple[Mask, Mask]:
    """Of the images `mine`, whose input is the exact one: those that need a pass in order, and those whose fitted sums
    follow from the exact pass though they are not the exact sums."""
    every_add = arithmetic.saturate_at == "every_add"
    clamps = every_add and arithmetic.overflow == "saturate"
    form = _sum_format(layer, arithmetic)
    if clamps and not np.array_equal(layer.start(arithmetic), layer.exact_start()):
        return mine, np.zeros_like(mine)  # the sums start somewhere else
    in_order = np.zeros_like(mine)
    if clamps:
        inside = (tracked.image_high <= form.maximum) & (tracked.image_low >= form.minimum)
        in_order = tracked.spread > form.maximum - form.minimum
    else:  # only the exact sum matters, not how it came about
        inside = (tracked.total_high <= form.maximum) & (tracked.total_low >= form.minimum)
    if every_add and layer.splits and (clamps or arithmetic.psum_bits < arithmetic.width_bits):
        psum = IntFormat(arithmetic.psum_bits)
        in_order = in_order | (tracked.chunk_high > psum.maximum) | (tracked.chunk_low < psum.minimum)
    return mine & in_order, mine & ~in_order & ~inside


def _derive(layer: Layer, arithmetic: Arithmetic, tracked: Tracked, images: Indices) -> Sums:
    """Fitted sums (P, N, I) of images whose exact pass decides them."""
    form = _sum_format(layer, arithmetic)
    if arithmetic.saturate_at == "end" or arithmetic.overflow == "wrap":
        return fit_sums(np.take(tracked.total, images, axis=2), form.bits, arithmetic.overflow)
    kind = tracked.total.dtype.type
    sums = np.empty((*tracked.total.shape[:2], len(images)), dtype=kind)
    kernels.reflected(tracked.total, tracked.high, tracked.low, images, kind(form.minimum), kind(form.maximum), sums)
    return sums


def _sum_format(layer: Layer, arithmetic: Arithmetic) -> IntFormat:
    """What the sum itself must fit: the accumulator memory, or the register in which os adds."""
    in_register = not layer.splits and arithmetic.saturate_at == "every_add"
    return IntFormat(arithmetic.psum_bits if in_register else arithmetic.width_bits)
