"""A histogram of any number of values in bounded memory, the same whatever batches they come in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accelsim.ir.float_graph import FloatArray

MANTISSA_BITS = 11
"""Bits kept behind the leading one: bins are 2**-11 of a value wide, a 16th of a step of 8 bits near the largest."""

_CUT = 23 - MANTISSA_BITS


class Histogram:
    """Counts of values rounded to float32 with 11 bits of mantissa.

    Bins are as fine for small values as for large ones, need no range known beforehand, and hide most differences in
    the last bits of a float64 sum, which vary with libraries and processors. At most 2**20 bins.
    """

    def __init__(self) -> None:
        self._keys: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._counts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.low = float("inf")
        self.high = float("-inf")

    def add(self, values: FloatArray) -> None:
        """Count float64 values of any shape; at least one. `low` and `high` are the exact extremes so far."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        with np.errstate(over="ignore"):
            bits = (values.astype(np.float32) + np.float32(0.0)).view(np.uint32).ravel()  # -0.0 counts as 0.0
        keys = (bits + np.uint32(1 << (_CUT - 1))) >> np.uint32(_CUT)
        found = np.bincount(keys.astype(np.int64), minlength=0)
        new = np.flatnonzero(found)
        merged = np.union1d(self._keys, new)
        counts = np.zeros(merged.size, dtype=np.int64)
        counts[np.searchsorted(merged, self._keys)] += self._counts
        counts[np.searchsorted(merged, new)] += found[new]
        self._keys, self._counts = merged, counts

    def bins(self) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """(values, counts), values ascending."""
        values = (self._keys.astype(np.uint32) << np.uint32(_CUT)).view(np.float32).astype(np.float64)
        order = np.argsort(values)
        return values[order], self._counts[order]
