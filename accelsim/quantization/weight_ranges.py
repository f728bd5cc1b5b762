"""Weight ranges that clip: weights limited before their scale is chosen from what is left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from accelsim.config.quantization import WeightScheme
from accelsim.ir.float_graph import FloatArray
from accelsim.quantization.clipping import FRACTIONS, search
from accelsim.quantization.observers import percentile_rank
from accelsim.quantization.ranges import Range


def clip_rows(rows: FloatArray, scheme: WeightScheme, quantised: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Limit every row of weights to the range that `scheme.range` gives it.

    min_max: none. percentile: the nearest rank of |w| (symmetric), or (100 - percentile) % cut off either end (affine).
    mse: the candidate of `clipping.search` with the least sum of (w - quantised(w))**2; of equal ones the widest.

    Args:
        rows: (scales, weights of one scale), float64.
        scheme: range, percentile, symmetry.
        quantised: rows to the reals that their codes stand for, with a scale for each row that fits it exactly.
    Returns:
        Rows of the same shape; their extremes are the ranges.
    Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1; Wu et al. 2020 (arXiv 2004.09602), for percentiles.
    """
    if scheme.range == "percentile":
        if scheme.symmetric:
            limit = _ranked(np.abs(rows), scheme.percentile)
            return np.clip(rows, -limit, limit)
        return np.clip(rows, -_ranked(-rows, scheme.percentile), _ranked(rows, scheme.percentile))
    if scheme.range == "mse":
        return _least_squares(rows, scheme, quantised)
    return rows


def _ranked(rows: FloatArray, percentile: float) -> FloatArray:
    """The value of each row that `percentile` % of it do not exceed, (rows, 1)."""
    rank = percentile_rank(rows.shape[1], percentile)
    return np.partition(rows, rank - 1, axis=1)[:, rank - 1 : rank]


def _least_squares(rows: FloatArray, scheme: WeightScheme, quantised: Callable[[FloatArray], FloatArray]) -> FloatArray:
    if not scheme.symmetric:  # one scale, and two ends to search

        def cost(candidate: Range) -> float:
            limited = np.clip(rows, candidate.low, candidate.high)
            return float(np.square(rows - quantised(limited)).sum())

        best = search(Range(float(rows.min()), float(rows.max())), cost, two_ends=True)
        return np.clip(rows, best.low, best.high)
    whole = np.abs(rows).max(axis=1, keepdims=True)
    kept, least = whole.copy(), np.full_like(whole, np.inf)
    for fraction in FRACTIONS:
        limit = fraction * whole
        error = np.square(rows - quantised(np.clip(rows, -limit, limit))).sum(axis=1, keepdims=True)
        better = error < least
        kept, least = np.where(better, limit, kept), np.where(better, error, least)
    return np.clip(rows, -kept, kept)
