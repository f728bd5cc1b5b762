"""The search for a range that clips: a grid of narrower ranges, each judged by what quantising within it costs."""

from __future__ import annotations

from collections.abc import Callable

from accelsim.quantization.ranges import Range

STEPS = 100
"""Candidates along one axis: the whole range, and 99 hundredths of it down to 1."""

FRACTIONS = tuple(step / STEPS for step in range(STEPS, 0, -1))
"""From the whole range down, so that of equal costs the widest range is kept."""


def search(whole: Range, cost: Callable[[Range], float], *, two_ends: bool) -> Range:
    """Return the candidate of least cost.

    First both ends shrink together: f * low .. f * high for f = 1.00, 0.99, .. 0.01. Where `two_ends` (affine formats)
    and 0 lies inside, the lower end then shrinks alone below the upper end found, and the upper end alone above the
    lower: one round of coordinate descent. Grid search is what Nagel et al. 2021 (arXiv 2106.08295), section 3.1,
    minimise with; the grid is ours.

    >>> search(Range(-1.0, 4.0), lambda one: abs(one.high - 2.0) + abs(one.low + 1.0), two_ends=True)
    Range(low=-1.0, high=2.0)
    """
    whole = whole.with_zero()
    best = _least([Range(f * whole.low, f * whole.high) for f in FRACTIONS], cost)
    if two_ends and whole.low < 0.0 < whole.high:
        best = _least([Range(f * whole.low, best.high) for f in FRACTIONS], cost)
        best = _least([Range(best.low, f * whole.high) for f in FRACTIONS], cost)
    return best


def _least(candidates: list[Range], cost: Callable[[Range], float]) -> Range:
    """The first of those with the least cost."""
    return min(candidates, key=cost)
