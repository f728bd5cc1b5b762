"""The compiler's cost model: cycles of one layer under a plan, without emitting it.

Each unit's busy cycles of each band are exact sums of the closed forms in `timing`. How bands overlap is a recurrence
over the four units and the slots, with the machine's own rules: units in order, a LOAD into a slot after the COMPUTE or
POST that read it last, a POST into a slot after the STORE that emptied it, two groups' constants on chip at once. What
it leaves out: latency of single tokens, the halves of the accumulator memory, what the layers before and after overlap.
docs/compiler.md compares it with the longest path of every plan there is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from accelsim.compiler.elementwise import ElementwiseLayer
from accelsim.compiler.macs import MacLayer
from accelsim.compiler.streaming import Group, Home, Layer, Shape, bands_of, slices, transfers
from accelsim.compiler.tiling import Rectangle, source_extent
from accelsim.config import RECORD_BYTES, Hardware
from accelsim.ir import Add, Conv2d
from accelsim.timing import D_POST


class Cost(NamedTuple):
    """Cycles of a layer, and the bytes it moves between DRAM and chip; compared in that order."""

    cycles: int
    dram_bytes: int


class Work(NamedTuple):
    """Busy cycles of one band of one group: COMPUTE, POST, its last POST alone, LOAD of parts of weights, their bytes."""

    compute: int
    post: int
    last_post: int
    weights: int
    weight_bytes: int


class Moves(NamedTuple):
    """Cycles and bytes of some transfers."""

    cycles: int
    bytes: int


class CostModel:
    """Costs of one layer on one machine; what plans have in common is computed once."""

    def __init__(self, layer: Layer, hardware: Hardware):
        self.layer = layer
        self.hardware = hardware
        self.work = lru_cache(maxsize=None)(self._work)
        self.constants = lru_cache(maxsize=None)(self._constants)

    def cost(self, homes: list[Home], result: Home, shape: Shape, images: int) -> Cost:
        """Cycles from the first LOAD to the last write, and bytes of DRAM traffic."""
        layer = self.layer
        bands = bands_of(shape, images, result.tensor)
        groups = layer.groups(shape.blocks)
        pipeline = _Pipeline(shape.slots)
        if shape.outer == "groups":
            seen: dict[tuple[int, ...], tuple[Moves, Moves]] = {}
            for group in groups:
                pipeline.constants(self.constants(group))
                channels = layer.channels(group)
                taken = slices(layer, group, shape, homes)
                for band in bands:
                    key = (band.images, band.y_count, band.x_count)
                    needs = layer.needs(band)
                    kind = (*key, channels[1], *(size for need in needs for size in (need.y_count, need.x_count)))
                    if kind not in seen:
                        load = [(home, need, *part) for home, need, part in zip(homes, needs, taken, strict=True)]
                        seen[kind] = self._moved(load), self._moved([(result, band, *channels)])
                    pipeline.load(seen[kind][0])
                    pipeline.run(self.work(group, *key))
                    pipeline.store(seen[kind][1])
            return pipeline.end()
        for band in bands:
            needs = layer.needs(band)
            whole = [(home, need, 0, home.tensor.channels) for home, need in zip(homes, needs, strict=True)]
            pipeline.load(self._moved(whole))
            for group in groups:
                pipeline.constants(self.constants(group))
                pipeline.run(self.work(group, band.images, band.y_count, band.x_count))
            pipeline.store(self._moved([(result, band, 0, result.tensor.channels)]))
        return pipeline.end()

    def _moved(self, parts: list[tuple[Home, Rectangle, int, int]]) -> Moves:
        cycles = total = 0
        for home, part, channel, channels in parts:
            if home.streamed:
                for move in transfers(home.tensor, part, channel, channels):
                    cycles += self._transfer(move.row_bytes, move.rows)
                    total += move.row_bytes * move.rows
        return Moves(cycles, total)

    def _transfer(self, row_bytes: int, rows: int = 1) -> int:
        dram = self.hardware.dram
        return dram.latency_cycles + rows * -(-row_bytes // dram.bandwidth_bytes_per_cycle)

    def _constants(self, group: Group) -> Moves:
        """What a group's LOADs of weights and records take."""
        layer = self.layer
        if not isinstance(layer, MacLayer):
            return Moves(0, 0)
        _, count = layer.channels(group)
        sizes = [count * RECORD_BYTES] * (1 if layer.packed.biases is None else 2)
        if len(layer.parts) == 1:
            sizes.append(sum(layer.packed.sizes[index] for index in group))
        return Moves(sum(map(self._transfer, sizes)), sum(sizes))

    def _work(self, group: Group, images: int, rows: int, columns: int) -> Work:
        layer = self.layer
        band = Rectangle(0, images, 0, rows, 0, columns)
        if isinstance(layer, ElementwiseLayer):
            return self._posts(layer, group, band)
        assert isinstance(layer, MacLayer)
        array = self.hardware.array
        depthwise = isinstance(layer.mac, Conv2d) and layer.mac.is_depthwise
        stationary = array.dataflow == "os" and not depthwise
        tiles = sum(part.r_count * part.s_count * -(-part.length // array.rows) for part in layer.parts)
        weights = bytes_ = compute = post = last = 0
        for rectangle in layer.rectangles(band):
            _, y_count, _, x_count = source_extent(rectangle, layer.operation.pool)
            words = rectangle.images * y_count * x_count
            results = rectangle.images * rectangle.y_count * rectangle.x_count
            window = words // results if layer.operation.pool else 1
            streamed = -(-words // array.rows) * array.rows if stationary else max(words, array.rows)
            for index in group:
                compute += tiles * streamed
                last = layer.packed.blocks[index].lanes + results * window + D_POST
                post += last
                if len(layer.parts) > 1:
                    row = layer.packed.row_bytes[index]
                    weights += sum(self._transfer(part.rows * row) for part in layer.parts)
                    bytes_ += sum(part.rows * row for part in layer.parts)
        return Work(compute, post, last, weights, bytes_)

    def _posts(self, layer: ElementwiseLayer, group: Group, band: Rectangle) -> Work:
        channels = layer.channels(group)[1]
        reads = 2 if isinstance(layer.operation.head, Add) else 1
        words = band.images * band.y_count * band.x_count * layer.window * reads
        post = channels * reads + len(group) * (words + D_POST)
        return Work(0, post, 0, 0, 0)


class _Pipeline:
    """The four units in time: when each is free, when each slot is, and when constants may be replaced."""

    def __init__(self, slots: int):
        self.slots = slots
        self.load_free = self.compute_free = self.post_free = self.store_free = 0
        self.ready = 0  # operands and constants of what runs next
        self.readers: list[int] = []  # end of the last reading of each band, in order
        self.emptied: list[int] = []  # end of the store of each band
        self.users: list[int] = []  # end of the last use of each group's constants
        self.bytes = 0

    def _load(self, moves: Moves, after: int) -> None:
        if moves.cycles:
            self.load_free = max(self.load_free, after) + moves.cycles
            self.ready = max(self.ready, self.load_free)
            self.bytes += moves.bytes

    def constants(self, moves: Moves) -> None:
        self._load(moves, self.users[-2] if len(self.users) > 1 else 0)
        self.users.append(0)

    def load(self, moves: Moves) -> None:
        self._load(moves, self.readers[-self.slots] if len(self.readers) >= self.slots else 0)
        self.readers.append(0)

    def run(self, work: Work) -> None:
        begin = max(self.ready, self.compute_free if work.compute else self.post_free)
        slot = self.emptied[-self.slots] if len(self.emptied) >= self.slots else 0
        if work.compute:
            self.compute_free = begin + work.compute
            if work.weights:
                self.load_free = max(self.load_free, begin) + work.weights
                self.compute_free = max(self.compute_free, self.load_free)
                self.bytes += work.weight_bytes
            self.post_free = max(max(self.post_free, begin, slot) + work.post, self.compute_free + work.last_post)
            self.compute_free = max(self.compute_free, self.post_free - 2 * work.last_post)
            read = self.compute_free
        else:
            self.post_free = max(begin, slot) + work.post
            read = self.post_free
        self.readers[-1] = max(self.readers[-1], read)
        if self.users:
            self.users[-1] = max(self.users[-1], self.post_free)

    def store(self, moves: Moves) -> None:
        if moves.cycles:
            self.store_free = max(self.store_free, self.post_free) + moves.cycles
            self.bytes += moves.bytes
        self.emptied.append(self.store_free)

    def end(self) -> Cost:
        return Cost(max(self.load_free, self.compute_free, self.post_free, self.store_free), self.bytes)
