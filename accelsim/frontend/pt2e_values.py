"""What a PT2E model itself computes, in PyTorch's float32: ranges, and the codes of every node of the integer graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from accelsim.errors import InputError
from accelsim.ir import IntegerGraph
from accelsim.quantization.ranges import Range

Images = npt.NDArray[np.floating[Any]]

AT_ONCE = 64
"""Images of one run, where the program does not fix its batch."""


@dataclass(frozen=True)
class Observer:
    """Where the program computes an integer node's tensor: an operator, and what to take off its codes (uint8: 128)."""

    node: Node
    offset: int = 0


def is_quantized(node: Node) -> bool:
    """Whether an operator's result is codes."""
    return node.op == "call_function" and ".quantize_per_" in f".{node.target}"


class _Recorder(Interpreter):
    def __init__(self, module: GraphModule, see: Callable[[Node, Tensor], None]):
        super().__init__(module)
        self.see = see

    def run_node(self, n: Node) -> Any:
        # The guards compare the batch with the example's; shapes that do not fit fail where they are used.
        if n.op == "call_module" and n.target == "_guards_fn":
            return None
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.see(n, result)
        return result


def run(module: GraphModule, images: Tensor, keep: Callable[[Node, Tensor], bool]) -> dict[Node, Tensor]:
    """Run once and return the tensors to keep, by operator."""
    kept: dict[Node, Tensor] = {}

    def see(node: Node, value: Tensor) -> None:
        if keep(node, value):
            kept[node] = value.detach().clone()

    with torch.no_grad():
        _Recorder(module, see).run(images)
    return kept


def batches(images: Images, fixed: int | None) -> Iterator[tuple[Tensor, int]]:
    """Images float32 in batches as the program takes them, with how many of each count: the rest repeat the last."""
    size = fixed or AT_ONCE
    for start in range(0, len(images), size):
        part = np.asarray(images[start : start + size], dtype=np.float32)
        count = len(part)
        if fixed and count < fixed:
            part = np.concatenate([part, np.repeat(part[-1:], fixed - count, axis=0)])
        yield torch.from_numpy(part), count


@dataclass
class Values:
    """A PT2E model with the integer graph made of it.

    Attributes:
        module: the model.
        graph: its integer graph.
        observers: by integer node.
        batch: the batch the program is fixed to, or None.
    """

    module: GraphModule
    graph: IntegerGraph
    observers: dict[str, Observer]
    batch: int | None

    def codes(self, images: Images) -> dict[str, npt.NDArray[np.int64]]:
        """Codes int64 (N, H, W, C) of every integer node, from the program's own operators.

        Where the program quantises a tensor, its codes; elsewhere, those its float32 values have in the node's scale.
        """
        wanted = {observer.node for observer in self.observers.values()}
        parts: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in self.observers}
        for batch, count in batches(images, self.batch):
            found = run(self.module, batch, lambda node, _: node in wanted)
            for name, observer in self.observers.items():
                parts[name].append(self._codes(name, observer, found[observer.node][:count]))
        return {name: np.concatenate(codes) for name, codes in parts.items()}

    def _codes(self, name: str, observer: Observer, found: Tensor) -> npt.NDArray[np.int64]:
        tensor = self.graph.by_name[name].output
        array = found.reshape(len(found), tensor.channels, tensor.height, tensor.width).numpy()
        if is_quantized(observer.node):
            codes = array.astype(np.int64) - observer.offset
        else:
            form = self.graph.activation
            steps = np.rint(array.astype(np.float64) / tensor.scale) + tensor.zero_point
            codes = np.clip(steps, form.minimum, form.maximum).astype(np.int64)
        return np.ascontiguousarray(np.moveaxis(codes, 1, 3))

    @staticmethod
    def ranges(module: GraphModule, images: Images, fixed: int | None, name: str) -> dict[Node, Range]:
        """Smallest and largest value of every float tensor on examples."""
        found: dict[Node, Range] = {}

        def see(node: Node, value: Tensor) -> bool:
            if value.is_floating_point() and value.numel():
                low, high = float(value.min()), float(value.max())
                before = found.get(node)
                found[node] = Range(min(low, before.low), max(high, before.high)) if before else Range(low, high)
            return False

        try:
            for batch, _ in batches(images, fixed):
                run(module, batch, see)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(f"{name}: cannot run the model on the calibration images: {first}") from None
        return found
