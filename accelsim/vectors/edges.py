"""What crosses the edges of the array in each cycle, from the timing rules.

Closed forms of docs/microarchitecture.md, sections 4.2 and 4.3; tests compare every cycle with the register-level grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.vectors.evaluation import Arrays
from accelsim.vectors.manifest import Cycles, Sums

Int64 = npt.NDArray[np.int64]


def cycles_of(sums: Sums) -> Cycles:
    """When the tiles of one block run, on an idle array from cycle 0 on; the same for every block."""
    R, C, M = sums.rows, sums.columns, sums.words
    if not sums.running:
        load, stream = [0], [R]
        for _ in sums.chunks[1:]:
            load.append(max(load[-1] + R, stream[-1]))
            stream.append(max(load[-1] + R, stream[-1] + M))
        return Cycles(total=stream[-1] + M + R + C - 1, load=load, stream=stream)
    tiles, pieces = -(-M // R), len(sums.chunks)
    first = R if sums.bias_at == "accumulator" else 0
    stream = [first + tile * pieces * R for tile in range(tiles)]
    return Cycles(total=stream[-1] + _duration(sums) - 1 + 2 * R + C - 1, load=[], stream=stream)


def leaves(sums: Sums, cycles: Cycles, chunk: int, word: int, column: int) -> int | None:
    """The cycle in which a chunk's partial sum of a word, or a finished running sum, is below its column."""
    R = sums.rows
    if not sums.running:
        return cycles.stream[chunk] + word + R + column
    if chunk != len(sums.chunks) - 1:
        return None  # it stays in its PE
    tile, row = divmod(word, R)
    return cycles.stream[tile] + _duration(sums) - 1 + R + column + R - 1 - row


def word_at(sums: Sums, cycles: Cycles, cycle: int, column: int) -> tuple[int, int] | None:
    """The (chunk, word) whose sum is below a column in a cycle: `leaves` inverted."""
    for chunk in range(len(sums.chunks)) if not sums.running else [len(sums.chunks) - 1]:
        first = leaves(sums, cycles, chunk, 0, column)
        assert first is not None
        if not sums.running:
            if 0 <= cycle - first < sums.words:
                return chunk, cycle - first
            continue
        for word in range(sums.words):
            if leaves(sums, cycles, chunk, word, column) == cycle:
                return chunk, word
    return None


def shapes(sums: Sums) -> dict[str, tuple[int, int, int]]:
    """Shapes (blocks, cycles, R or C) of what `edges` gives, by name."""
    sides = {"activation": sums.rows, "weight": sums.columns, "psum": sums.columns}
    if sums.running and sums.bias_at == "accumulator":
        sides["start"] = sums.columns
    widths = {f"cycle.{name}{suffix}": width for name, width in sides.items() for suffix in ("", "_valid")}
    widths["cycle.switch"] = sums.rows
    return {name: (len(sums.blocks), cycles_of(sums).total, width) for name, width in widths.items()}


def edges(sums: Sums, tiles: Arrays) -> Arrays:
    """Values on the edges in each cycle, and flags that say where there are any; elsewhere 0.

    Args:
        sums: of the layer.
        tiles: tile.activation, tile.weight, tile.start, and tile.psum (tile.accumulator for running sums).
    Returns:
        int64 arrays (blocks, cycles, R or C): cycle.activation at column 0, cycle.switch with each tile's first word,
        cycle.weight at the top (ws: into row i's shadow i + j cycles after the load began), cycle.psum below the
        array, cycle.start at the top where running sums start from biases; and a ``_valid`` array of each but switch.
    """
    cycles = cycles_of(sums)
    found: Arrays = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes(sums).items()}
    for block in range(len(sums.blocks)):
        own = {name: array[block] for name, array in found.items()}
        (_running if sums.running else _stationary)(sums, cycles, tiles, block, own)
    return found


def _put(own: Arrays, name: str, cycle: Int64, lane: Int64, value: Int64) -> None:
    own[f"cycle.{name}"][cycle, lane] = value
    own[f"cycle.{name}_valid"][cycle, lane] = 1


def _stationary(sums: Sums, cycles: Cycles, tiles: Arrays, block: int, own: Arrays) -> None:
    R, M = sums.rows, sums.words
    _, lanes, chosen = sums.blocks[block]
    for chunk, ((_, length), load, stream) in enumerate(zip(sums.chunks, cycles.load, cycles.stream, strict=True)):
        used = lanes if sums.diagonal else length
        word, row = np.indices((M, used))
        _put(own, "activation", stream + word + row, row, tiles["tile.activation"][chosen, chunk, :, :used])
        every = np.arange(R)
        own["cycle.switch"][stream + every, every] = 1
        weight = tiles["tile.weight"][block, chunk]
        if sums.diagonal:
            lane = np.arange(lanes)
            _put(own, "weight", load + 2 * lane, lane, weight[lane, lane])
        else:
            row, column = np.indices((used, lanes))
            _put(own, "weight", load + row + column, column, weight[:used, :lanes])
        word, column = np.indices((M, lanes))
        _put(own, "psum", stream + word + R + column, column, tiles["tile.psum"][block, chunk, :, :lanes])


def _running(sums: Sums, cycles: Cycles, tiles: Arrays, block: int, own: Arrays) -> None:
    R = sums.rows
    _, lanes, chosen = sums.blocks[block]
    result = tiles["tile.accumulator"][block, -1]
    for tile, stream in enumerate(cycles.stream):
        words = min(R, sums.words - tile * R)
        here = slice(tile * R, tile * R + words)
        every = np.arange(R)
        own["cycle.switch"][stream + every, every] = 1
        for piece, (_, length) in enumerate(sums.chunks):
            begin = stream + piece * R
            row, byte = np.indices((words, length))
            _put(own, "activation", begin + byte + row, row, tiles["tile.activation"][chosen, piece, here, :length])
            byte, column = np.indices((length, lanes))
            _put(own, "weight", begin + byte + column, column, tiles["tile.weight"][block, piece, :length, :lanes])
        row, column = np.indices((words, lanes))
        end = stream + _duration(sums) - 1
        _put(own, "psum", end + R + column + R - 1 - row, column, result[here, :lanes])
        if sums.bias_at == "accumulator":
            start = np.broadcast_to(tiles["tile.start"][block, :lanes], (words, lanes))
            _put(own, "start", stream - 1 - row + column, column, start)


def _duration(sums: Sums) -> int:
    """D: cycles of one output-stationary tile."""
    return max(sums.rows, (len(sums.chunks) - 1) * sums.rows + sums.chunks[-1][1])
