"""Which points no other point beats, and how much of the space of objectives they cover."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def front(values: npt.ArrayLike) -> list[int]:
    """Indices of the points that no other is at least as good as in every objective and better in one.

    Args:
        values: float (N, objectives), smaller being better.
    Returns:
        Ascending; of equal points, all.

    >>> front([[1, 5], [2, 2], [3, 3], [2, 2], [4, 1]])
    [0, 1, 3, 4]
    """
    points = np.asarray(values, dtype=np.float64)
    found = []
    for index, point in enumerate(points):
        no_worse = (points <= point).all(axis=1)
        better = (points < point).any(axis=1)
        if not (no_worse & better).any():
            found.append(index)
    return found


def hypervolume(values: npt.ArrayLike, reference: Sequence[float]) -> float:
    """The volume between a reference point and what the points dominate of it (Zitzler and Thiele, 1998).

    Args:
        values: float (N, objectives), smaller being better; points not below the reference in all add nothing.
        reference: a point worse than those that shall count.

    >>> hypervolume([[1, 3], [2, 1]], (4, 4))  # 3 * 1 + 2 * 2 overlap in 2 * 1
    7.0
    """
    points = np.asarray(values, dtype=np.float64).reshape(-1, len(reference))
    points = points[(points < np.asarray(reference)).all(axis=1)]
    return _volume(points, np.asarray(reference, dtype=np.float64))


def _volume(points: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    """Slices along the last objective, each the volume of what is below it in the others."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    order = np.argsort(points[:, -1], kind="stable")
    points = points[order]
    edges = np.append(points[1:, -1], reference[-1])
    return sum(
        float(edge - point[-1]) * _volume(points[: index + 1, :-1], reference[:-1])
        for index, (point, edge) in enumerate(zip(points, edges, strict=True))
        if edge > point[-1]
    )
