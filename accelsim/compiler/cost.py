"""The compiler's cost model: cycles of one layer under a plan, without emitting it.

Each unit's busy cycles of each band are exact sums of the closed forms in `timing`. How bands overlap is a recurrence
over the four units and the slots, with the machine's own rules: units in order, a LOAD into a slot after the COMPUTE or
POST that read it last, a POST into a slot after the STORE that emptied it, constants of two groups, or two parts of
one's weights, on chip at once. What it leaves out: latency of single tokens, the halves of the accumulator memory, and
what the layers before and after overlap. docs/compiler.md compares it with the longest path of every plan there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from accelsim.compiler.cut_layer import CutLayer, Group
from accelsim.compiler.elementwise import ElementwiseLayer
from accelsim.compiler.macs import MacLayer
from accelsim.compiler.matmuls import MatMulLayer
from accelsim.compiler.streaming import Home, Shape, bands_of, slices, transfers
from accelsim.compiler.tiling import Part, Rectangle, source_extent
from accelsim.config import Hardware
from accelsim.ir import Add, Conv2d
from accelsim.timing import D_POST


class Cost(NamedTuple):
    """Cycles of a layer, and the bytes it moves between DRAM and chip; compared in that order."""

    cycles: int
    dram_bytes: int


class Moves(NamedTuple):
    """Cycles and bytes of some transfers."""

    cycles: int
    bytes: int


class Work(NamedTuple):
    """What a band of one group keeps busy.

    Attributes:
        compute, post: cycles of the units. last_post: of the last POST alone.
        parts: LOADs of parts of weights, 0 where whole blocks are constants. part_load: cycles of one, on average.
        part_bytes: of all.
    """

    compute: int
    post: int
    last_post: int
    parts: int = 0
    part_load: int = 0
    part_bytes: int = 0


class CostModel:
    """Costs of one layer on one machine; what plans have in common is computed once."""

    def __init__(self, layer: CutLayer, hardware: Hardware):
        self.layer = layer
        self.hardware = hardware
        self._work = lru_cache(maxsize=None)(self._busy)
        self._constants = lru_cache(maxsize=None)(self._constant_moves)

    def cost(self, homes: list[Home], result: Home, shape: Shape, images: int) -> Cost:
        """Cycles from the first LOAD to the last write, and bytes of DRAM traffic."""
        layer = self.layer
        bands = bands_of(shape, images, result.tensor)
        needs = [layer.needs(band) for band in bands]
        # Bands of one kind move and compute alike; most are.
        sizes = [(b.images, b.y_count, b.x_count) for b in bands]
        kinds = [
            (*size, *(count for part in parts for count in (part.y_count, part.x_count)))
            for size, parts in zip(sizes, needs, strict=True)
        ]
        examples = dict(zip(kinds, zip(bands, needs, strict=True), strict=True))

        def moves(group: Group) -> dict[tuple[int, ...], tuple[Moves, Moves]]:
            taken = slices(layer, group, shape, homes)
            kept = layer.channels(group) if shape.outer == "groups" else (0, result.tensor.channels)
            return {
                kind: (
                    self._moved((home, part, *some) for home, part, some in zip(homes, parts, taken, strict=True)),
                    self._moved([(result, band, *kept)]),
                )
                for kind, (band, parts) in examples.items()
            }

        groups = layer.groups(shape.blocks)
        pipeline = _Pipeline(shape.slots)
        if shape.outer == "groups":
            for group in groups:
                pipeline.constants(self._constants(group))
                moved = moves(group)
                for kind, size in zip(kinds, sizes, strict=True):
                    pipeline.load(moved[kind][0])
                    pipeline.run(self._work(group, *size))
                    pipeline.store(moved[kind][1])
            return pipeline.end()
        moved = moves(groups[0])
        for kind, size in zip(kinds, sizes, strict=True):
            pipeline.load(moved[kind][0])
            for group in groups:
                pipeline.constants(self._constants(group))
                pipeline.run(self._work(group, *size))
            pipeline.store(moved[kind][1])
        return pipeline.end()

    def _moved(self, parts: Iterable[tuple[Home, Rectangle, int, int]]) -> Moves:
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

    def _constant_moves(self, group: Group) -> Moves:
        sizes = self.layer.constant_bytes(group)
        return Moves(sum(map(self._transfer, sizes)), sum(sizes))

    def _busy(self, group: Group, images: int, rows: int, columns: int) -> Work:
        layer = self.layer
        band = Rectangle(0, images, 0, rows, 0, columns)
        if isinstance(layer, ElementwiseLayer):
            reads = 2 if isinstance(layer.operation.head, Add) else 1
            words = images * rows * columns * layer.window * reads
            post = layer.channels(group)[1] * reads + len(group) * (words + D_POST)
            return Work(0, post, 0)
        if isinstance(layer, MatMulLayer):
            return self._products(layer, group, band)
        assert isinstance(layer, MacLayer)
        array = self.hardware.array
        depthwise = isinstance(layer.mac, Conv2d) and layer.mac.is_depthwise
        stationary = array.dataflow == "os" and not depthwise
        tiles = sum(part.r_count * part.s_count * -(-part.length // array.rows) for part in layer.parts)
        wave = array.rows + array.columns - 2
        serial_group = sum(_serial_group(part, array.rows, wave) for part in layer.parts)
        pool = layer.operation.pool
        compute = post = last = parts = part_load = part_bytes = 0
        for rectangle in layer.rectangles(band):
            _, y_count, _, x_count = source_extent(rectangle, pool)
            words = rectangle.images * y_count * x_count
            window = pool.kernel[0] * pool.kernel[1] if pool else 1
            results = rectangle.images * rectangle.y_count * rectangle.x_count
            if stationary:
                busy = -(-words // array.rows) * (serial_group if array.serial_tiles else tiles * array.rows)
            else:
                busy = tiles * (array.rows + words + wave if array.serial_tiles else max(words, array.rows))
            for index in group:
                compute += busy
                last = layer.packed.blocks[index].lanes + results * window + D_POST
                post += last
                if len(layer.parts) > 1:
                    row = layer.packed.row_bytes[index]
                    parts += len(layer.parts)
                    part_load += sum(self._transfer(part.rows * row) for part in layer.parts)
                    part_bytes += sum(part.rows * row for part in layer.parts)
        return Work(compute, post, last, parts, part_load // max(parts, 1), part_bytes)

    def _products(self, layer: MatMulLayer, group: Group, band: Rectangle) -> Work:
        array = self.hardware.array
        tiles = sum(-(-part.length // array.rows) for part in layer.parts)
        cuts = list(layer.rectangles(band))
        words = [rectangle.y_count * rectangle.x_count for rectangle in cuts]
        streamed = sum(
            -(-m // array.rows) * array.rows if array.dataflow == "os" else max(m, array.rows) for m in words
        )
        times = len(cuts) if len(layer.parts) > 1 else band.images  # that a block's weights are loaded
        post = last = loads = bytes_ = 0
        for index in group:
            block = layer.columns[index]
            last = block.lanes + words[-1] + D_POST
            post += sum(block.lanes + m + D_POST for m in words)
            for part in layer.parts:
                for load in layer.transfers(block, part):
                    loads += times * self._transfer(load.row_bytes, load.rows)
                    bytes_ += times * load.row_bytes * load.rows
        parts = len(group) * times * len(layer.parts)
        return Work(len(group) * tiles * streamed, post, last, parts, loads // parts, bytes_)


def _serial_group(part: Part, rows: int, wave: int) -> int:
    """Cycles from one output-stationary tile of R words to the next, none overlapping."""
    chunks = -(-part.length // rows)
    slots = part.r_count * part.s_count * chunks * rows
    return max(slots, slots - chunks * rows + part.length + wave)


class _Pipeline:
    """The four units in time: when each is free, when each slot is, and when constants may be replaced."""

    def __init__(self, slots: int):
        self.slots = slots
        self.load_free = self.compute_free = self.post_free = self.store_free = 0
        self.before_last = 0  # end of the COMPUTE before the last, which held the other part of the weights
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
        slot = self.emptied[-self.slots] if len(self.emptied) >= self.slots else 0
        if not work.compute:
            self.post_free = max(self.ready, self.post_free, slot) + work.post
            self.readers[-1] = max(self.readers[-1], self.post_free)
            self.users[-1] = max(self.users[-1], self.post_free)
            return
        begin = max(self.ready, self.compute_free)
        if work.parts:
            self._parts(work, begin)
        else:
            self.compute_free = begin + work.compute
        self.post_free = max(max(self.post_free, begin, slot) + work.post, self.compute_free + work.last_post)
        self.compute_free = max(self.compute_free, self.post_free - 2 * work.last_post)
        self.readers[-1] = max(self.readers[-1], self.compute_free)
        self.users[-1] = max(self.users[-1], self.post_free)

    def _parts(self, work: Work, begin: int) -> None:
        """Weights in parts, two on chip: the LOAD of one waits for the COMPUTE of the one before last."""
        load, compute = work.part_load, work.compute // work.parts
        first = max(self.load_free, self.before_last) + load
        one = max(begin, first) + compute
        second = max(first, self.compute_free) + load
        two = max(one, second) + compute
        if work.parts == 1:
            self.load_free, self.before_last, self.compute_free = first, self.compute_free, one
        else:
            end = two + (work.parts - 2) * max(load, compute)
            self.before_last = end - compute
            self.load_free = second if work.parts == 2 else end - compute - max(0, compute - load)
            self.compute_free = end
        self.bytes += work.part_bytes

    def store(self, moves: Moves) -> None:
        if moves.cycles:
            self.store_free = max(self.store_free, self.post_free) + moves.cycles
            self.bytes += moves.bytes
        self.emptied.append(self.store_free)

    def end(self) -> Cost:
        return Cost(max(self.load_free, self.compute_free, self.post_free, self.store_free), self.bytes)
