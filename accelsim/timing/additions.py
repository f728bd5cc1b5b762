"""In which cycle a COMPUTE makes one addition (docs/microarchitecture.md, sections 4.2 and 4.3)."""

from __future__ import annotations

from accelsim.isa import Compute
from accelsim.timing.cycles import D_ACC, ArrayShape, last_product, output_stationary_period, tile_count


def product_cycle(compute: Compute, shape: ArrayShape, done: int, *, word: int, lane: int, k: int) -> int:
    """The cycle in which a PE adds one product; its register takes the sum at the end of it.

    Args:
        compute: the instruction.
        shape: R and C.
        done: its last cycle, which places the others.
        word, lane: of the output, counted in the instruction.
        k: of the product in the instruction's K loop, in (r, s, c) order; of a diagonal tile, (r, s) alone.
    """
    run, position = (k, 0) if compute.diagonal else divmod(k, compute.run_bytes)
    tile = run * -(-compute.run_bytes // shape.rows) + position // shape.rows
    row = lane if compute.diagonal else position % shape.rows
    if compute.output_stationary:
        group, row_of_word = divmod(word, shape.rows)
        return _group_start(compute, shape, done, group) + tile * shape.rows + row + row_of_word + lane
    return _tile_start(compute, shape, done, tile) + word + row + lane


def memory_cycle(compute: Compute, shape: ArrayShape, done: int, *, word: int, tile: int) -> int:
    """The cycle in which the accumulator memory takes the sum of one tile's word (ws; the lanes arrive together)."""
    wave = shape.rows + shape.columns - 2
    return _tile_start(compute, shape, done, tile) + word + wave + D_ACC


def _tile_start(compute: Compute, shape: ArrayShape, done: int, tile: int) -> int:
    """T of a weight-stationary tile: the period is `cycles._weight_stationary`'s."""
    rows, columns = shape
    wave = rows + columns - 2
    period = compute.words + wave + rows if compute.serial else max(rows, compute.words)
    last = done - D_ACC - wave - (compute.words - 1)
    return last - (tile_count(compute, rows) - 1 - tile) * period


def _group_start(compute: Compute, shape: ArrayShape, done: int, group: int) -> int:
    """T of an output-stationary tile of R words: duration and period are `cycles._output_stationary`'s."""
    rows, columns = shape
    wave = rows + columns - 2
    duration = max(rows, last_product(compute, rows))
    period = output_stationary_period(compute, shape)
    last = done - (D_ACC + rows - 1) - wave - (duration - 1)
    return last - (-(-compute.words // rows) - 1 - group) * period
