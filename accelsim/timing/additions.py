"""In which cycle a COMPUTE makes one addition (docs/microarchitecture.md, sections 4.2 and 4.3)."""

from __future__ import annotations

from accelsim.isa import Compute
from accelsim.timing.cycles import D_ACC, ArrayShape, os_duration, os_period, tile_count, ws_period


def product_cycle(compute: Compute, shape: ArrayShape, done: int, *, word: int, lane: int, k: int) -> int:
    """The cycle at whose end a PE's register takes the sum with one product.

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
    added = shape.mac_latency - 1
    if compute.output_stationary:
        group, row_of_word = divmod(word, shape.rows)
        step = tile * shape.rows + row
        return _group_start(compute, shape, done, group) + step * shape.step + row_of_word + lane + added
    start = _tile_start(compute, shape, done, tile)
    return start + word * shape.mac_interval + row * shape.add_latency + lane + added


def memory_cycle(compute: Compute, shape: ArrayShape, done: int, *, word: int, tile: int) -> int:
    """The cycle in which the accumulator memory takes the sum of one tile's word (ws; the lanes arrive together)."""
    return _tile_start(compute, shape, done, tile) + word * shape.mac_interval + shape.wave + D_ACC


def _tile_start(compute: Compute, shape: ArrayShape, done: int, tile: int) -> int:
    """T of a weight-stationary tile."""
    last = done - D_ACC - shape.wave - (compute.words - 1) * shape.mac_interval
    return last - (tile_count(compute, shape.rows) - 1 - tile) * ws_period(compute, shape)


def _group_start(compute: Compute, shape: ArrayShape, done: int, group: int) -> int:
    """T of an output-stationary tile of R words."""
    rows, columns = shape.rows, shape.columns
    last = done - (D_ACC + rows - 1) - (rows + columns - 2) - (os_duration(compute, shape) - 1)
    return last - (-(-compute.words // rows) - 1 - group) * os_period(compute, shape)
