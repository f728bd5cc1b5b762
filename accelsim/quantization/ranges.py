"""What a calibration run remembers of a tensor: the interval of real values its integers shall cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from accelsim.ir.float_graph import FloatArray


@dataclass(frozen=True)
class Range:
    """The reals low..high, low <= high."""

    low: float
    high: float

    def with_zero(self) -> Range:
        """The smallest range around this one that holds 0, which padding and ReLU need to be exact.

        >>> Range(2.0, 3.0).with_zero()
        Range(low=0.0, high=3.0)
        """
        return Range(min(self.low, 0.0), max(self.high, 0.0))

    def within(self, limits: Range) -> Range:
        """Both ends moved into `limits`."""
        return Range(
            min(max(self.low, limits.low), limits.high),
            min(max(self.high, limits.low), limits.high),
        )


class Observer(Protocol):
    """Sees a tensor batch by batch, then tells its range. One observer watches one tensor."""

    def see(self, values: FloatArray) -> None:
        """Take a batch (N, ...) of finite float64 values into account."""

    def range(self) -> Range:
        """The range of all values seen; at least one batch was."""


class MinMaxObserver:
    """The extremes of everything seen: nothing clips on the calibration data.

    Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1, "Min-max".
    """

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")

    def see(self, values: FloatArray) -> None:
        """Widen the range to the batch."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def range(self) -> Range:
        """From the smallest to the largest value."""
        return Range(self.low, self.high)
