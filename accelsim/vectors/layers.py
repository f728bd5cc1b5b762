"""An integer graph and one batch of inputs as layers of vectors, checked against the reference evaluation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from accelsim.config import Hardware
from accelsim.errors import InputError
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    Conv2d,
    IntegerGraph,
    Mac,
    MaxPool2d,
    Node,
    Table,
    evaluate,
    mac_chunks,
)
from accelsim.numerics import Arithmetic
from accelsim.vectors.evaluation import compute
from accelsim.vectors.manifest import EXACT_BITS, Geometry, LayerEntry, Numerics, Policy, Sums

Int64 = npt.NDArray[np.int64]

LARGEST_TILES = 1 << 28
"""Elements of one layer's tiles, 8 bytes each in memory."""


@dataclass
class Layer:
    """One layer: its entry, without the list of tensors, and its arrays, int64, by tensor name."""

    entry: LayerEntry
    arrays: dict[str, Int64] = field(default_factory=dict)


def policy_of(hardware: Hardware, wanted: Policy | None) -> Policy:
    """The policy asked for, or the hardware's.

    Raises:
        InputError: the hardware's is none that a pack can hold.
    """
    if wanted is not None:
        return wanted
    if hardware.accumulator.saturate_at == "end":
        raise InputError(
            f"{hardware.name}: accumulator.saturate_at = 'end' is no adder's behaviour; export with "
            "--policy exact, or use accumulator.saturate_at = 'every_add'"
        )
    return "saturating" if hardware.accumulator.overflow == "saturate" else "wrapping"


def make_layers(
    graph: IntegerGraph,
    hardware: Hardware,
    codes: Int64,
    *,
    policy: Policy,
    first_number: int = 1,
    covers: str = "",
    only: Collection[str] = (),
) -> list[Layer]:
    """Every node but the input as a layer, with operands, parameters and expected values.

    Args:
        graph: legal.
        hardware: array and widths; dataflow ws or os.
        codes: int64 (images, H, W, C), the input.
        policy: of the sums.
        first_number: of the first layer in the pack.
        covers: why the layers are there.
        only: names of the layers wanted; empty is all. Numbers are those of the whole network.
    Raises:
        InputError: a dataflow or input the pack cannot hold, or a layer whose tiles exceed `LARGEST_TILES`.
        RuntimeError: the layers' own evaluation and the reference differ: an error of ours, never of the input.
    """
    if hardware.array.dataflow == "is":
        raise InputError(
            f"{hardware.name}: array.dataflow = 'is' swaps operands of a ws array; export with array.dataflow = 'ws', "
            "whose bits are the same"
        )
    if policy == "exact":  # a layer's own narrower width is a limit, too
        graph = replace(graph, nodes=tuple(_without_width(node) for node in graph.nodes))
    arithmetic = _arithmetic(hardware, policy)
    expected = evaluate(graph, codes, arithmetic).tensors
    layers = []
    for number, node in enumerate(graph.nodes[1:], first_number):
        if only and node.name not in only:
            continue
        entry = _entry(graph, node, hardware, arithmetic, policy, len(codes), number, covers)
        _check_size(entry)
        layer = Layer(entry, _given(node, expected))
        layer.arrays |= compute(entry, layer.arrays)
        if not np.array_equal(layer.arrays["output"], expected[node.name]):
            raise RuntimeError(f"vectors: layer {node.name} differs from the reference evaluation")
        layers.append(layer)
    return layers


def _check_size(entry: LayerEntry) -> None:
    """Refuse, before it is made, what memory would not hold."""
    sums = entry.sums
    if sums is None:
        return
    line = sums.sets * sums.rows + 2 * len(sums.blocks) * sums.columns
    elements = len(sums.chunks) * (sums.words * line + len(sums.blocks) * sums.rows * sums.columns)
    if elements > LARGEST_TILES:
        raise InputError(
            f"layer {entry.name}: its tiles have {elements:,} elements, more than the {LARGEST_TILES:,} of a pack; "
            "export fewer images, or other layers with --layer"
        )


def _without_width(node: Node) -> Node:
    return replace(node, accumulator_width_bits=None) if isinstance(node, Mac) else node


def _arithmetic(hardware: Hardware, policy: Policy) -> Arithmetic:
    how = hardware.arithmetic()
    bits = {"psum_bits": EXACT_BITS, "width_bits": EXACT_BITS} if policy == "exact" else {}
    return Arithmetic(
        psum_bits=bits.get("psum_bits", how.psum_bits),
        width_bits=bits.get("width_bits", how.width_bits),
        overflow="saturate" if policy == "saturating" else "wrap",
        saturate_at="every_add",
        rows=how.rows,
        dataflow=how.dataflow,
    )


def _given(node: Node, tensors: dict[str, Int64]) -> dict[str, Int64]:
    """The layer's operands and parameters."""
    given: dict[str, Int64] = {}
    if isinstance(node, Add):
        for number, name in enumerate(node.inputs):
            given[f"input{number}"] = tensors[name]
            given[f"m0_{number}"], given[f"shift_{number}"] = (
                node.multipliers[number].m0,
                node.multipliers[number].shift,
            )
        return given
    given["input"] = tensors[node.inputs[0]]
    if isinstance(node, Table):
        given["entries"] = node.entries
    if isinstance(node, Mac):
        given |= {"weight": node.weight, "bias": node.bias, "m0": node.multiplier.m0, "shift": node.multiplier.shift}
    return given


def _entry(
    graph: IntegerGraph,
    node: Node,
    hardware: Hardware,
    arithmetic: Arithmetic,
    policy: Policy,
    images: int,
    number: int,
    covers: str,
) -> LayerEntry:
    how, form = graph.requantization, graph.activation
    sources = [graph.by_name[name].output for name in node.inputs]
    clip = list(node.clip if isinstance(node, Mac | Add | Clip) else graph.limits_of(node.name))
    numerics = Numerics(
        activation_bits=form.bits,
        activation_signed=form.signed,
        z_x=[source.zero_point for source in sources],
        z_y=node.output.zero_point,
        clip=clip,
        scheme=how.scheme.value,
        rounding=how.rounding.value,
        multiplier_bits=how.multiplier_bits,
        order=how.order,
        guard_bits=how.guard_bits,
        output_overflow=how.output_overflow,
    )
    sums = _sums(graph, node, hardware, arithmetic, policy, images) if isinstance(node, Mac) else None
    return LayerEntry(
        number=number,
        name=node.name,
        op=cast(Any, node.op),
        inputs=list(node.inputs),
        covers=covers,
        simple=_is_simple(node, numerics, sums),
        numerics=numerics,
        geometry=_geometry(node, sources[0].shape, images),
        sums=sums,
    )


def _geometry(node: Node, source: tuple[int, int, int], images: int) -> Geometry:
    window: dict[str, Any] = {}
    if isinstance(node, Conv2d | MaxPool2d | AvgPool2d):
        window = {"kernel": list(node.kernel), "stride": list(node.stride), "padding": list(node.padding)}
    if isinstance(node, Conv2d):
        window |= {"dilation": list(node.dilation), "groups": node.groups}
    if isinstance(node, AvgPool2d):
        window["count_include_pad"] = node.count_include_pad
    return Geometry(input=[images, *source], output=[images, *node.output.shape], **window)


def _sums(
    graph: IntegerGraph, node: Mac, hardware: Hardware, arithmetic: Arithmetic, policy: Policy, images: int
) -> Sums:
    rows, columns = hardware.array.rows, hardware.array.columns
    layer = arithmetic.at_width(node.accumulator_width_bits)
    diagonal = isinstance(node, Conv2d) and node.is_depthwise
    running = arithmetic.dataflow == "os" and not diagonal
    # Running sums are not cut; a tile holds as much of a run as the array takes at once.
    cut = mac_chunks(graph, node, replace(layer, dataflow="ws"))
    groups = node.groups if isinstance(node, Conv2d) else 1
    if diagonal:
        step = min(rows, columns)
        blocks = [
            [channel, min(step, groups - channel), number]
            for number, channel in enumerate(range(0, groups, step))
        ]  # fmt: skip
    else:
        per_group = node.out_channels // groups
        blocks = [
            [group * per_group + channel, min(columns, per_group - channel), group]
            for group in range(groups)
            for channel in range(0, per_group, columns)
        ]
    height, width, _ = node.output.shape
    return Sums(
        policy=policy,
        psum_bits=layer.psum_bits,
        width_bits=layer.width_bits,
        zero_points=graph.zero_points,
        weight_bits=node.weight_bits,
        z_w=node.weight_zero_point,
        bias_at=graph.bias_at,
        running=running,
        diagonal=diagonal,
        rows=rows,
        columns=columns,
        words=images * height * width,
        sets=len(blocks) if diagonal else groups,
        chunks=[[one.start, len(one)] for one in cut],
        blocks=blocks,
    )


def _is_simple(node: Node, numerics: Numerics, sums: Sums | None) -> bool:
    """No zero points, and one multiplier for the whole tensor."""
    if any(numerics.z_x) or numerics.z_y or (sums is not None and sums.z_w):
        return False
    if not isinstance(node, Mac):
        return True
    return len({*zip(node.multiplier.m0.tolist(), node.multiplier.shift.tolist(), strict=True)}) == 1
