"""Names of float nodes: the module path where one module is one operation, else the operation with a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from accelsim.ir.float_graph import (
    FloatActivation,
    FloatAdd,
    FloatAvgPool2d,
    FloatBatchNorm2d,
    FloatConv2d,
    FloatFlatten,
    FloatLinear,
    FloatMatMul,
    FloatMaxPool2d,
    FloatNode,
)

WORDS: dict[type[FloatNode], str] = {
    FloatConv2d: "conv2d",
    FloatLinear: "linear",
    FloatMatMul: "matmul",
    FloatBatchNorm2d: "batch_norm",
    FloatMaxPool2d: "max_pool2d",
    FloatAvgPool2d: "avg_pool2d",
    FloatAdd: "add",
    FloatFlatten: "flatten",
}


@dataclass(frozen=True)
class Place:
    """Where the model computes a node.

    Attributes:
        path: the module whose forward calls the operator; "" is the model itself.
        call: which of that module's calls it is.
    """

    path: str
    call: str


def choose_names(module: nn.Module, nodes: Sequence[FloatNode], places: Sequence[Place]) -> list[str]:
    """Return one unique name for each node, in order.

    A module without children that computes one node in a call gives it its path: "c1", "layer1.0.conv1". Called
    again, it gives "relu_2". Any other node is called after its operation and numbered from 1 inside the
    module that computes it: "relu_1", "layer1.0.add_1". A name made here never equals the path of another module, so
    a name depends only on the model's source.

    Args:
        module: the model, for the paths of its modules.
        nodes: float nodes in program order, without the input.
        places: one for each node.
    """
    paths = {path for path, _ in module.named_modules()}
    in_call = Counter(places)
    chosen: list[str] = []
    taken: set[str] = set()
    for node, place in zip(nodes, places, strict=True):
        alone = place.path and in_call[place] == 1 and _is_leaf(module, place.path)
        if alone and place.path not in taken:
            name = place.path
        else:
            stem = place.path if alone else ".".join(filter(None, [place.path, word_of(node)]))
            number = 2 if alone else 1
            while (name := f"{stem}_{number}") in taken | paths:
                number += 1
        taken.add(name)
        chosen.append(name)
    return chosen


def input_name(module: nn.Module) -> str:
    """Return "input", or "input_1" and so on where modules have those names."""
    paths = {path for path, _ in module.named_modules()}
    name, number = "input", 0
    while name in paths:
        number += 1
        name = f"input_{number}"
    return name


def word_of(node: FloatNode) -> str:
    """The operation's word in names: "conv2d", "relu6"."""
    return node.kind if isinstance(node, FloatActivation) else WORDS[type(node)]


def _is_leaf(module: nn.Module, path: str) -> bool:
    try:
        return not any(module.get_submodule(path).children())
    except AttributeError:  # a module made during the forward pass
        return True
