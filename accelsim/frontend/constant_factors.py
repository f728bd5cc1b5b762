"""Products with a constant, as in `q @ k.transpose(-2, -1) / d**0.5`, become part of what computes the other factor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from accelsim.errors import InputError
from accelsim.ir.float_graph import (
    FloatActivation,
    FloatBatchNorm2d,
    FloatConv2d,
    FloatLinear,
    FloatMatMul,
    FloatNode,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConstantFactor(FloatNode):
    """The input times a positive constant; in no graph, for `absorb` takes it out.

    Attributes:
        factor: the constant.
        where: the beginning of an error message.
    """

    factor: float
    where: str


def absorb(nodes: Sequence[FloatNode], output: str) -> tuple[dict[str, FloatNode], dict[str, str]]:
    """Multiply constants into the products that alone they scale, through ReLUs, which commute with them.

    Args:
        nodes: in program order.
        output: the node whose tensor is the result.
    Returns:
        The nodes that are left, by name, with the names they read; and for each factor the node whose tensor it now is.
    Raises:
        InputError: a factor of what no product, convolution, linear layer or batch norm alone computes.
    """
    kept: dict[str, FloatNode] = {}
    now: dict[str, str] = {}
    users: dict[str, int] = {output: 1}
    for node in nodes:
        for name in node.inputs:
            users[name] = users.get(name, 0) + 1
    for node in nodes:
        inputs = tuple(now.get(name, name) for name in node.inputs)
        if not isinstance(node, ConstantFactor):
            kept[node.name] = dataclasses.replace(node, inputs=inputs)
            continue
        # Names as the nodes were: a factor in between has one reader of its own.
        target, alone = inputs[0], users[node.inputs[0]] == 1
        while alone and target in kept and _commutes(kept[target]):
            alone = users[kept[target].inputs[0]] == 1
            target = kept[target].inputs[0]
        made = _scaled(kept[target], node.factor) if alone and target in kept else None
        if made is None:
            raise InputError(
                f"{node.where}: a constant factor is supported only of what a matrix product, convolution, linear "
                "layer or batch norm computes, where nothing else reads it; put it there, or train without it"
            )
        kept[target] = made
        now[node.name] = inputs[0]
    return kept, now


def _commutes(node: FloatNode) -> bool:
    return isinstance(node, FloatActivation) and node.kind == "relu"


def _scaled(node: FloatNode, factor: float) -> FloatNode | None:
    match node:
        case FloatMatMul():
            return dataclasses.replace(node, scale=node.scale * factor)
        case FloatConv2d() | FloatLinear():
            bias = None if node.bias is None else node.bias * factor
            return dataclasses.replace(node, weight=node.weight * factor, bias=bias)
        case FloatBatchNorm2d():
            return dataclasses.replace(node, gamma=node.gamma * factor, beta=node.beta * factor)
    return None
