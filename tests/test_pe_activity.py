"""Products of each PE: the closed form against a grid in which every PE is counted when it multiplies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_pe_grid import Case, cases, gemm, small

from accelsim.machine import pe_grid
from accelsim.timing import ArrayShape, compute_counts, pe_macs, row_macs


class Watched(pe_grid._Grid):
    """The register-level grid; whatever multiplies is counted for the instruction whose wave is there."""

    def __init__(self, case: Case):
        super().__init__(
            case.computes,
            case.config,
            activation=case.activation,
            weight=case.weight,
            accumulators=case.accumulators,
            bias=case.bias,
            ready=case.ready,
        )
        self.seen = np.zeros((len(case.computes), case.config.rows, case.config.columns), dtype=np.int64)

    def _multiply(self, activation, weight, on, wave, flags, **more):
        for row, column in np.argwhere(on):
            self.seen[self.tiles[wave[row, column]].instruction, row, column] += 1
        return super()._multiply(activation, weight, on, wave, flags, **more)


@pytest.mark.parametrize("modes", [["ws"], ["os"], ["ws", "diagonal"]], ids="+".join)
def test_every_pe_multiplies_as_often_as_the_closed_form_says(modes):
    diagonal = 0
    for name, case in cases(12, 11, modes=modes, largest=6):
        grid = Watched(case)
        grid.run(100_000)
        shape = ArrayShape(case.config.rows, case.config.columns)
        for compute, seen in zip(case.computes, grid.seen, strict=True):
            assert (pe_macs(compute, shape) == seen).all(), (name, compute)
            assert seen.sum() == compute_counts(compute, shape)["mul"]
            diagonal += compute.diagonal
    assert ("diagonal" in modes) == (diagonal > 0)


def test_rows_beyond_the_last_chunk_and_columns_beyond_the_lanes_rest():
    x, w = small(5, 7, 2)
    (compute,) = gemm(x, w, 4, columns=3).computes
    # K = 7 on 4 rows: chunks of 4 and 3. Rows 0 to 2 work on both, row 3 on one, for each of 5 words.
    assert row_macs(compute, 4).tolist() == [10, 10, 10, 5]
    assert pe_macs(compute, ArrayShape(4, 3)).tolist() == [[10, 10, 0]] * 3 + [[5, 5, 0]]
    # os: words 0 and 4 in row 0, one in each other row, 7 products each.
    stationary = replace(compute, output_stationary=1)
    assert pe_macs(stationary, ArrayShape(4, 3)).tolist() == [[14, 14, 0]] + [[7, 7, 0]] * 3
