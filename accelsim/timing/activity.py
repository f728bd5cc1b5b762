"""Which PE does how many products: closed forms of each COMPUTE, which `machine.pe_grid` must agree with PE by PE."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.isa import Compute
from accelsim.timing.cycles import ArrayShape

Int64 = npt.NDArray[np.int64]


def row_macs(compute: Compute, rows: int) -> Int64:
    """Products of one PE in each row of the array: of every PE(i, j) with j < lanes, of PE(i, i) alone if diagonal.

    Weight-stationary, row i has a weight in each chunk that is longer than i, and uses it for every word; a diagonal
    lane has one weight in each (r, s). Output-stationary, row i holds words i, i + R, ... and adds all of K to each.

    Returns:
        int64 (R,); 0 where a row has no product.
    """
    row = np.arange(rows, dtype=np.int64)
    runs = compute.r_count * compute.s_count
    if compute.output_stationary:
        return np.maximum(compute.words - row + rows - 1, 0) // rows * (runs * compute.run_bytes)
    if compute.diagonal:
        return np.where(row < compute.lanes, compute.words * runs, 0).astype(np.int64)
    full, rest = divmod(compute.run_bytes, rows)
    return compute.words * runs * (full + (row < rest))


def pe_macs(compute: Compute, shape: ArrayShape) -> Int64:
    """Products of every PE: int64 (R, C); they sum to the instruction's `mul`."""
    rows, columns = shape.rows, shape.columns
    row, column = np.indices((rows, columns))
    used = row == column if compute.diagonal else column < compute.lanes
    return np.where(used, row_macs(compute, rows)[:, None], 0)
