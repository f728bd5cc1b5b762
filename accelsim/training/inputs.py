"""What modules that train an integer graph take, and where they keep their layers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from accelsim.config import Hardware
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, Mac, Node
from accelsim.numerics import Arithmetic

DTYPES = (torch.float32, torch.float64)


def arithmetic_of(graph: IntegerGraph, hardware: Hardware | Arithmetic) -> Arithmetic:
    """What the hardware contributes to a graph's bits.

    Raises:
        InputError: a layer's accumulator is wider than the hardware's.
    """
    arithmetic = hardware.arithmetic() if isinstance(hardware, Hardware) else hardware
    for node in graph.nodes:
        if isinstance(node, Mac):
            try:
                arithmetic.at_width(node.accumulator_width_bits)
            except ValueError as error:
                raise InputError(f"{graph.name}: {node.name}: {error}; use a wider accumulator") from None
    return arithmetic


def calibration_examples(
    module: nn.Module, calibration: Tensor | npt.ArrayLike, dtype: torch.dtype
) -> tuple[npt.NDArray[np.number], Tensor]:
    """Examples as an array, and one of their shape to trace a module with, in the module's own dtype or `dtype`."""
    examples = calibration.detach().cpu().numpy() if isinstance(calibration, Tensor) else np.asarray(calibration)
    if examples.dtype.kind not in "fiub" or examples.ndim not in (2, 4) or not examples.size:
        raise InputError(
            f"calibration: {examples.dtype} {examples.shape} must hold real numbers (N, C, H, W) or (N, K), N >= 1"
        )
    own = next((parameter.dtype for parameter in module.parameters()), dtype)
    return examples, torch.zeros(1, *examples.shape[1:], dtype=own)


def put(graph: IntegerGraph, root: nn.Module, node: Node, module: nn.Module) -> None:
    """Register a module under the path that a node's name spells."""
    *folders, last = node.name.split(".")
    try:
        for folder in folders:
            if folder not in root._modules:
                root.add_module(folder, nn.Module())
            root = root.get_submodule(folder)
        if last in root._modules:
            raise KeyError(last)
        root.add_module(last, module)
    except (KeyError, AttributeError):
        raise InputError(
            f"graph {graph.name}: node name {node.name!r} cannot be a path of modules in PyTorch; rename the node"
        ) from None
