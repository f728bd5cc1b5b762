"""Which activation tensors stay on chip, which live in DRAM, and how the layers that stream are cut.

Everything on chip is tried first. Where that does not fit, tensors are sent to DRAM one by one, those first whose
bytes relieve the fullest steps most for the traffic they cost; then each choice is turned round once more and kept
where the cost model's total falls. A layer that streams gets the largest gap that is free while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from accelsim.compiler.allocation import Lifetime, gap, place, smallest
from accelsim.compiler.cost import Cost, CostModel
from accelsim.compiler.cut_layer import CutLayer
from accelsim.compiler.streaming import Home, Shape, allowed, staging
from accelsim.config import Hardware
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, TensorType

Streamed = tuple[bool, ...]
"""Of a layer's operands and, last, its result: whether each lives in DRAM."""


@dataclass(frozen=True)
class Plan:
    """Where the tensors of one group of images live, and how each layer runs.

    Attributes:
        images: of the group.
        on_chip: address in the activation buffer of each tensor that stays there.
        scratch: offset in a scratch region of DRAM of each tensor that is neither there nor the network's own.
        scratch_bytes: size of that region.
        shapes, workspaces: of each layer; the workspace's address.
        cost: the model's, of the whole group.
    """

    images: int
    on_chip: dict[str, int]
    scratch: dict[str, int]
    scratch_bytes: int
    shapes: list[Shape]
    workspaces: list[int]
    cost: Cost


class Planner:
    """Plans one network for groups of `images` images on one machine."""

    def __init__(self, graph: IntegerGraph, layers: Sequence[CutLayer], hardware: Hardware, images: int):
        self.graph = graph
        self.layers = layers
        self.capacity = hardware.activation.memory_bytes
        self.images = images
        self.lifetimes = {t.name: t for t in lifetimes(graph, layers, images)}
        self._models = [CostModel(layer, hardware) for layer in layers]
        self.staged = lru_cache(maxsize=None)(self._staging)
        self._cost = lru_cache(maxsize=None)(self._price)
        self.best = lru_cache(maxsize=None)(self._best)
        self.least = lru_cache(maxsize=None)(self._least)

    def plan(self) -> Plan:
        """The plan.

        Raises:
            InputError: a layer's smallest band does not fit the activation buffer; it names layer, need and remedy.
        """
        spilled: frozenset[str] = frozenset()
        found = self._placed(spilled)
        while found is None:
            spilled |= {self._next_spill(spilled)}
            found = self._placed(spilled)
        for name in sorted(self.lifetimes, key=lambda name: -self.lifetimes[name].size) if spilled else ():
            other = self._placed(spilled ^ {name})
            if other is not None and other.cost < found.cost:
                spilled, found = spilled ^ {name}, other
        return found

    def streamed(self, step: int, spilled: frozenset[str]) -> Streamed:
        """Which of a layer's tensors live in DRAM."""
        operation = self.layers[step].operation
        return tuple(name in spilled for name in (*operation.head.inputs, operation.result.name))

    def _placed(self, spilled: frozenset[str]) -> Plan | None:
        """Addresses, gaps and the best shapes for them, or None where they do not fit."""
        steps = range(len(self.layers))
        kept = [tensor for name, tensor in self.lifetimes.items() if name not in spilled]
        least = [self.least(step, self.streamed(step, spilled)) for step in steps]
        work = [Lifetime(name=f"{step}", size=least[step], first=step, last=step) for step in steps if least[step]]
        # Names of tensors and of workspaces cannot meet: the latter are taken out again.
        both = [*(Lifetime(name=f"t{t.name}", size=t.size, first=t.first, last=t.last) for t in kept), *work]
        addresses = place(both, self.capacity) if both else {}
        if addresses is None:
            return None
        on_chip = {name[1:]: at for name, at in addresses.items() if name.startswith("t")}
        shapes, workspaces = [], []
        cycles = dram = 0
        for step in steps:
            streamed = self.streamed(step, spilled)
            alive = [(on_chip[t.name], t.size) for t in kept if t.first <= step <= t.last]
            base, room = gap(alive, self.capacity)
            if not spilled:  # nothing to compare with
                cost, shape = Cost(0, 0), self._whole(step)
            else:
                cost, shape = self.best(step, streamed, room if any(streamed) else 0)
            shapes.append(shape)
            workspaces.append(base)
            cycles, dram = cycles + cost.cycles, dram + cost.dram_bytes
        outside = [self.lifetimes[n] for n in sorted(spilled - {self.graph.input.name, self.graph.output})]
        scratch_bytes = smallest(outside) if outside else 0
        scratch = (place(outside, scratch_bytes) if outside else {}) or {}
        return Plan(self.images, on_chip, scratch, scratch_bytes, shapes, workspaces, Cost(cycles, dram))

    def _next_spill(self, spilled: frozenset[str]) -> str:
        """The tensor whose leaving relieves the steps that are too full most, for the bytes it then moves."""
        kept = {name: t for name, t in self.lifetimes.items() if name not in spilled}
        excess = {}
        for step in range(len(self.layers)):
            alive = sum(t.size for t in kept.values() if t.first <= step <= t.last)
            excess[step] = alive + self.least(step, self.streamed(step, spilled)) - self.capacity
        if max(excess.values()) <= 0:  # they fit by size and not by shape: relieve the fullest
            excess = {step: value - max(excess.values()) + 1 for step, value in excess.items()}

        def merit(name: str) -> tuple[float, str]:
            tensor = kept[name]
            relief = sum(
                min(tensor.size, excess[step]) for step in range(tensor.first, tensor.last + 1) if excess[step] > 0
            )
            moves = len(self.graph.users(name)) + (name != self.graph.input.name)
            return relief / (tensor.size * moves), name

        candidates = [name for name in kept if merit(name)[0] > 0]
        if not candidates:
            self._refuse(max(excess, key=lambda step: (excess[step], -step)), spilled)
        return max(candidates, key=merit)

    def _refuse(self, step: int, spilled: frozenset[str]) -> None:
        need = self.least(step, self.streamed(step, spilled))
        raise InputError(
            f"layer {self.layers[step].operation.head.name} does not fit: the smallest band of its operands and its "
            f"result needs {need} bytes of the activation buffer, {self.capacity} there; use activation.memory_bytes "
            f">= {need} or a smaller input"
        )

    def homes(self, step: int, streamed: Streamed) -> tuple[list[Home], Home]:
        """Homes of a layer's tensors as far as the cost model looks at them."""
        operation = self.layers[step].operation
        names = (*operation.head.inputs, operation.result.name)
        *sources, result = (
            Home(self.graph.by_name[name].output, None if away else 0)
            for name, away in zip(names, streamed, strict=True)
        )
        return sources, result

    def _staging(self, step: int, streamed: Streamed, shape: Shape) -> int:
        sources, result = self.homes(step, streamed)
        return staging(self.layers[step], sources, result, shape, self.images).total(shape.slots)

    def _price(self, step: int, streamed: Streamed, shape: Shape) -> Cost:
        sources, result = self.homes(step, streamed)
        return self._models[step].cost(sources, result, shape, self.images)

    def shapes(self, step: int, streamed: Streamed, room: int) -> Iterator[Shape]:
        """Shapes that fit `room` bytes: of each kind the largest, and some of about half of it and less.

        Kinds are: the blocks of a group, which loop is outer, one slot or two, and bands of whole images or whole rows,
        of halves of rows, of quarters, and so on.
        """
        layer, tensor = self.layers[step], self.layers[step].operation.result.output
        sources, result = self.homes(step, streamed)
        for blocks, outer in _orders(layer):
            for slots in (2, 1):

                def fitting(
                    family: list[tuple[int, int, int]],
                    blocks: int = blocks,
                    outer: Literal["groups", "bands"] = outer,
                    slots: int = slots,
                ) -> list[Shape]:
                    shapes = (Shape(*size, blocks, outer, slots) for size in family)
                    return [
                        shape
                        for shape in shapes
                        if allowed(layer, sources, result, shape) and self.staged(step, streamed, shape) <= room
                    ]

                yield from _halves(fitting(_whole_rows(tensor, self.images)))
                for columns in _halvings(tensor.width)[1:]:
                    yield from _halves(fitting([(1, rows, columns) for rows in _fractions(tensor.height)]))[:2]

    def _best(self, step: int, streamed: Streamed, room: int) -> tuple[Cost, Shape]:
        whole = self._whole(step)
        if not any(streamed):
            return self._cost(step, streamed, whole), whole
        priced = [(self._cost(step, streamed, shape), shape) for shape in self.shapes(step, streamed, room)]
        return min(priced, key=lambda pair: pair[0])

    def _least(self, step: int, streamed: Streamed) -> int:
        """Bytes of the smallest workspace, one slot of the smallest band there may be."""
        if not any(streamed):
            return 0
        sources, result = self.homes(step, streamed)
        layer, tensor = self.layers[step], self.layers[step].operation.result.output
        shapes = [
            Shape(1, 1, columns, blocks, outer, 1) for columns in (1, tensor.width) for blocks, outer in _orders(layer)
        ]
        return min(self.staged(step, streamed, shape) for shape in shapes if allowed(layer, sources, result, shape))

    def _whole(self, step: int) -> Shape:
        layer, tensor = self.layers[step], self.layers[step].operation.result.output
        return Shape(self.images, tensor.height, tensor.width, layer.blocks, "groups", 1)


def _orders(layer: CutLayer) -> list[tuple[int, Literal["groups", "bands"]]]:
    """The blocks of a group, and which loop is outer; with fewer blocks a band holds fewer channels."""
    sizes = sorted({-(-layer.blocks // parts) for parts in (1, 2, 4, layer.blocks)}, reverse=True)
    orders: list[tuple[int, Literal["groups", "bands"]]] = [(size, "groups") for size in sizes]
    if len(layer.groups(layer.blocks)) > 1:
        orders.append((layer.blocks, "bands"))
    return orders


def _whole_rows(tensor: TensorType, images: int) -> list[tuple[int, int, int]]:
    """(images, rows, columns) of bands of whole images, then of whole rows, from large to small."""
    height, width = tensor.height, tensor.width
    return [(count, height, width) for count in _fractions(images)] + [
        (1, count, width) for count in _fractions(height)[1:]
    ]


def _halves(shapes: list[Shape]) -> list[Shape]:
    """Of shapes from large to small the first, the first of at most half its size, and so on: at most four."""
    taken: list[Shape] = []
    for shape in shapes:
        size = shape.images * shape.rows * shape.columns
        if not taken or (2 * size <= taken[-1].images * taken[-1].rows * taken[-1].columns and len(taken) < 4):
            taken.append(shape)
    return taken


def _halvings(total: int) -> list[int]:
    """total, then half of it rounded up, and so on to 1."""
    sizes = [total]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _fractions(total: int) -> list[int]:
    """The sizes of the largest pieces when `total` is cut into 1, 2, 3, ... pieces, each once."""
    return sorted({-(-total // pieces) for pieces in range(1, total + 1)}, reverse=True)


def lifetimes(graph: IntegerGraph, layers: Sequence[CutLayer], images: int) -> list[Lifetime]:
    """Activation tensors of a group of images, with the layers they live through."""
    made = {graph.input.name: 0} | {layer.operation.result.name: layer.operation.label for layer in layers}
    last = dict(made)
    for layer in layers:
        for name in layer.operation.head.inputs:
            last[name] = layer.operation.label
    return [
        Lifetime(name=name, size=images * graph.by_name[name].output.size, first=made[name], last=last[name])
        for name in made
    ]
