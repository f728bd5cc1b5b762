"""One hook into the machine: what it did, when, and what it wrote."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelsim.isa import Compute, Instruction, Unit
from accelsim.machine.memories import Memories


@dataclass(frozen=True, slots=True)
class Issued:
    """One executed instruction.

    Attributes:
        index: its place in the program.
        unit, label: whose it is.
        issue, done: cycles, both inclusive.
        stalls: cycles it headed its queue for want of a token, by the unit waited for.
        span: of a COMPUTE, the cycle of its first load or read and that of its last wave's last product.
    """

    index: int
    unit: Unit
    label: int
    issue: int
    done: int
    stalls: tuple[tuple[Unit, int], ...]
    span: tuple[int, int] | None = None


class Observer:
    """Base class whose methods do nothing; override what you want to see.

    The machine calls them while it runs; an observer must not change what it is given.
    """

    def post_wrote(self, index: int, instruction: Instruction, codes: npt.NDArray[np.int64]) -> None:
        """A POST wrote `codes`, int64 (words, lanes), words in (image, y, x) order."""

    def computing(self, index: int, instruction: Compute, memories: Memories) -> None:
        """A COMPUTE is about to execute on these memories; what is kept of them must be copied."""

    def executed(self, issued: Issued) -> None:
        """An instruction's cycles are known (with a clock only)."""
