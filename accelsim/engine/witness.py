"""The first overflow of a layer, with everything needed to check it by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from accelsim.engine.evaluation import Codes, check_codes, run_node, to_lanes
from accelsim.engine.layer import Lanes, Layer
from accelsim.engine.scenarios import Scenario, layers_of
from accelsim.engine.telemetry import watch_layer
from accelsim.ir import IntegerGraph
from accelsim.numerics import Arithmetic, IntFormat, fit


@dataclass(frozen=True)
class Witness:
    """One addition whose exact result left its range.

    Attributes:
        layer: the node's name.
        image: index among the images evaluated.
        y, x, channel: of the output element.
        chunk: which chunk of its K, from 0.
        k: the product, in (r, s, c) order; for an addition in the memory, the last of its chunk.
        where: in the array, in the accumulator memory, or at the end of the sum (saturate_at = "end").
        before: s, as it stands in the register or the memory.
        added: p, the product or the chunk's sum; at the end 0.
        operands: (activation, weight) whose product was added, zero points taken off where they are; None otherwise.
        value: the exact s + p.
        limit: the end of the range that it passed.
        bits: the width of that adder.
    """

    layer: str
    image: int
    y: int
    x: int
    channel: int
    chunk: int
    k: int
    where: Literal["array", "memory", "end"]
    before: int
    added: int
    operands: tuple[int, int] | None
    value: int
    limit: int
    bits: int


def first_overflow(
    graph: IntegerGraph, codes: npt.NDArray[np.integer[Any]] | Codes, scenario: Scenario, name: str
) -> Witness | None:
    """The first overflow of a layer: of the first image with one, in output order (y, x, channel), then in k order.

    Args:
        graph, scenario: as for `execute_scenarios`.
        codes: integers (N, H, W, C) of the images to look at, in order.
        name: a convolution or linear layer.
    Raises:
        ValueError: `name` is no such layer, or the scenario lacks one.
        InputError: codes that are no input of the graph.
    Returns:
        The addition, or None where no image has one. Images are looked at in halves, each evaluated once more, so
        name few images, or those of which `watch` counted an overflow.
    """
    check_codes(graph, codes)
    layers = {key: (layer, scenario[key]) for key, layer in layers_of(graph, [scenario]).items()}
    if name not in layers:
        raise ValueError(f"{name!r} is no convolution or linear layer of graph {graph.name}")
    layer, arithmetic = layers[name]
    source = _input_of(graph, to_lanes(codes), layers, name)
    first, count = 0, source.shape[3]
    if not watch_layer(layer, arithmetic, source).overflows.any():
        return None
    while count > 1:
        half = count // 2
        if watch_layer(layer, arithmetic, source[..., first : first + half]).overflows.any():
            count = half
        else:
            first, count = first + half, count - half
    return _in_image(layer, arithmetic, np.ascontiguousarray(source[..., first : first + 1]), first)


def _input_of(graph: IntegerGraph, codes: Lanes, layers: dict[str, tuple[Layer, Arithmetic]], name: str) -> Lanes:
    tensors: dict[str, Lanes] = {}
    for node in graph.nodes:
        if node.name == name:
            break
        tensors[node.name] = run_node(graph, node, codes, [tensors[source] for source in node.inputs], layers)
    return tensors[graph.by_name[name].inputs[0]]


def _in_image(layer: Layer, arithmetic: Arithmetic, source: Lanes, image: int) -> Witness:
    """Find the first output of one image that overflows, then its first addition that does."""
    groups, per_group, _ = layer.weight.shape
    operands = layer.operands(source)  # (groups, K, positions)
    start = layer.start(arithmetic)
    out = np.concatenate(
        [
            _overflowing(
                layer, arithmetic, operands[group], layer.weight[group], start[group * per_group :][:per_group]
            )
            for group in range(groups)
        ],
        axis=1,
    )
    position, channel = (int(index) for index in np.argwhere(out)[0])
    values = operands[channel // per_group, :, position].tolist()
    weights = layer.weight[channel // per_group, channel % per_group].tolist()
    for step in additions(layer, arithmetic, values, weights, int(start[channel])):
        form = IntFormat(step.bits)
        if step.fitted and not form.minimum <= step.value <= form.maximum:
            y, x = divmod(position, layer.node.output.width)
            return Witness(
                layer=layer.node.name,
                image=image,
                y=y,
                x=x,
                channel=channel,
                chunk=step.chunk,
                k=step.k,
                where=step.where,
                before=step.before,
                added=step.added,
                operands=(values[step.k], weights[step.k]) if step.where == "array" else None,
                value=step.value,
                limit=form.minimum if step.value < form.minimum else form.maximum,
                bits=step.bits,
            )
    raise AssertionError("an output that overflowed has an addition that did")


def _overflowing(
    layer: Layer,
    arithmetic: Arithmetic,
    values: npt.NDArray[np.int64],
    weight: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Whether any addition of an output overflows: (positions, channels) of values (K, positions), weight (N, K)."""
    every = arithmetic.saturate_at == "every_add"
    out = np.zeros((values.shape[1], len(weight)), dtype=np.bool_)

    def add(s: npt.NDArray[np.int64], p: npt.NDArray[np.int64], bits: int, fitted: bool) -> npt.NDArray[np.int64]:
        exact = s + p
        if not fitted:
            return exact
        form = IntFormat(bits)
        np.logical_or(out, (exact < form.minimum) | (exact > form.maximum), out=out)
        return fit(exact, bits, arithmetic.overflow)

    total = np.repeat(start[None, :], values.shape[1], axis=0)
    for begin, end in zip(layer.cuts[:-1].tolist(), layer.cuts[1:].tolist(), strict=True):
        psum = np.zeros_like(total) if layer.splits else total
        for k in range(begin, end):
            psum = add(psum, np.outer(values[k], weight[:, k]), arithmetic.psum_bits, every)
        total = add(total, psum, arithmetic.width_bits, every) if layer.splits else psum
    if not every:
        add(total, np.zeros_like(total), arithmetic.width_bits, True)
    return out


class Addition(NamedTuple):
    """One addition of an output: value = before + added, exactly; `fitted` to `bits` at once, or not at all."""

    where: Literal["array", "memory", "end"]
    chunk: int
    k: int
    before: int
    added: int
    value: int
    bits: int
    fitted: bool


def additions(
    layer: Layer, arithmetic: Arithmetic, values: list[int], weights: list[int], start: int
) -> Iterator[Addition]:
    """Every addition of one output in hardware order, in Python integers.

    Args:
        values, weights: the K operands, as multiplied.
        start: what the sum starts from, fitted.
    """
    every = arithmetic.saturate_at == "every_add"

    def fitted(value: int, bits: int) -> int:
        return int(fit(np.array([value], dtype=object), bits, arithmetic.overflow)[0]) if every else value

    total = start
    for chunk, (begin, end) in enumerate(zip(layer.cuts[:-1].tolist(), layer.cuts[1:].tolist(), strict=True)):
        psum = 0 if layer.splits else total
        for k in range(begin, end):
            product = values[k] * weights[k]
            yield Addition("array", chunk, k, psum, product, psum + product, arithmetic.psum_bits, every)
            psum = fitted(psum + product, arithmetic.psum_bits)
        if layer.splits:
            yield Addition("memory", chunk, end - 1, total, psum, total + psum, arithmetic.width_bits, every)
            total = fitted(total + psum, arithmetic.width_bits)
        else:
            total = psum
    if not every:
        yield Addition("end", len(layer.cuts) - 2, len(values) - 1, total, 0, total, arithmetic.width_bits, True)
