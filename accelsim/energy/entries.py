"""The kinds of entries of an energy table: from an operation's widths, or a memory's size, to its energy.

Figures are computed as exact fractions of the decimal numbers in the file, so that 0.1 is one tenth and a sum
of whole numbers is a whole number. Only `power` interpolation goes through 64-bit floats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, StringConstraints, model_validator

from accelsim.config._model import Section
from accelsim.timing import OpKey

PRODUCT_OPS = ("mul", "requant_mul", "mul.float32")
"""Operations whose cost grows with both operands."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
LARGEST = 1e15
"""No energy of one operation is larger, in any unit: a kilojoule in picojoules."""
Energy = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
"""In the table's unit."""
Outside = Literal["error", "hold", "extrapolate"]
Side = Literal["below", "above"]


def exact(number: float) -> Fraction:
    """Return the decimal number that was written in the file.

    >>> exact(0.1)
    Fraction(1, 10)
    """
    return Fraction(repr(number))


def is_memory(op: str) -> bool:
    """Whether `op` is an access to an on-chip memory.

    >>> is_memory("read.weight"), is_memory("dram.read")
    (True, False)
    """
    return op.startswith(("read.", "write."))


class EntryBase(Section, ABC):
    """What every entry may say.

    Attributes:
        ops: the operation types this entry is for.
        source: who measured or published the figure; absent, the table's.
        node_nm, voltage_v: as the table's; an entry with a source of its own inherits neither.
        note: what a reader of a report must know about the figure; reports print it.
    """

    kind: str
    ops: tuple[str, ...] = Field(strict=False)
    source: Text | None = None
    node_nm: float | None = Field(None, gt=0, allow_inf_nan=False)
    voltage_v: float | None = Field(None, gt=0, allow_inf_nan=False)
    note: Text | None = None

    def refuses(self, op: str) -> str | None:
        """Return why this kind does not fit `op`, with the remedy, or None."""
        if op in PRODUCT_OPS:
            return (
                f"{op!r} is a product, whose energy grows with both operands' widths; "
                "use kind = 'product' or 'by_product'"
            )
        return None

    @abstractmethod
    def energy(self, key: OpKey, capacity_bytes: int | None) -> Fraction:
        """Return the energy of one operation, in the table's unit; raises `OutsideError` beyond points."""


class Zero(EntryBase):
    """Counted as nothing, on purpose."""

    kind: Literal["zero"]
    reason: Text

    def refuses(self, op: str) -> str | None:
        return None

    def energy(self, key: OpKey, capacity_bytes: int | None) -> Fraction:
        return Fraction(0)


class Constant(EntryBase):
    """S is one figure: energy = bits * energy_per_bit."""

    kind: Literal["constant"]
    energy_per_bit: Energy

    def energy(self, key: OpKey, capacity_bytes: int | None) -> Fraction:
        return key.bits * exact(self.energy_per_bit)


class Product(EntryBase):
    """S = s * (second operand's bits): energy = bits * by_bits * energy_per_product_bit, 64 * s at 8x8."""

    kind: Literal["product"]
    energy_per_product_bit: Energy

    def refuses(self, op: str) -> str | None:
        return _only_products(self.kind, op)

    def energy(self, key: OpKey, capacity_bytes: int | None) -> Fraction:
        return key.bits * key.by_bits * exact(self.energy_per_product_bit)


class Action(EntryBase):
    """One figure at one size, shared evenly among its bits: `energy_per_action` for `bits`, or for `bits` x `by_bits`.

    What a data sheet or another tool states for an action: so much for a 16x16-bit MAC, so much for a 64-bit read.

    Attributes:
        energy_per_action: in the table's unit.
        bits: that the action works on; for products the first operand's.
        by_bits: of a product's second operand.
        share: of the action's energy that is this operation's; a MAC's may be divided between `mul` and `add.array`.
    """

    kind: Literal["action"]
    energy_per_action: Energy
    bits: int = Field(ge=1)
    by_bits: int | None = Field(None, ge=1)
    share: float = Field(1.0, gt=0, le=1)

    def refuses(self, op: str) -> str | None:
        if op in PRODUCT_OPS and self.by_bits is None:
            return f"{op!r} is a product, whose energy grows with both operands' widths; add by_bits"
        if op not in PRODUCT_OPS and self.by_bits is not None:
            return f"{op!r} is no product; leave by_bits out"
        return None

    def energy(self, key: OpKey, capacity_bytes: int | None) -> Fraction:
        of = self.bits * (self.by_bits or 1)
        return exact(self.energy_per_action) * exact(self.share) * key.bits * key.by_bits / of


class Curve(NamedTuple):
    """Energy over a size, through points in ascending order of size.

    `linear`: straight lines. `power`: straight lines on two logarithmic axes, y0 * (x / x0) ** e with the
    exponent e = log(y1 / y0) / log(x1 / x0). Beyond the ends, `hold` keeps the end point's energy and
    `extrapolate` continues the end segment's line or power.

    >>> points = ((8, Fraction(10)), (32, Fraction(20)))
    >>> [float(Curve(points, rule).at(16)) for rule in ("linear", "power")]
    [13.333333333333334, 14.142135623730951]
    """

    points: Sequence[tuple[int, Fraction]]
    interpolation: Literal["linear", "power"]
    below: Outside = "error"
    above: Outside = "error"

    def side(self, size: int) -> Side | None:
        """Return on which side of the points `size` lies, or None."""
        if size < self.points[0][0]:
            return "below"
        return "above" if size > self.points[-1][0] else None

    def at(self, size: int) -> Fraction:
        """Return the energy at `size`, by the rule for its side where it lies outside the points."""
        side = self.side(size)
        end = self.points[-1] if side == "above" else self.points[0]
        if side is not None and (self.below if side == "below" else self.above) == "hold":
            return end[1]
        (x0, y0), (x1, y1) = next((pair for pair in pairwise(self.points) if size <= pair[1][0]), self.points[-2:])
        if self.interpolation == "linear":
            return y0 + (y1 - y0) * Fraction(size - x0, x1 - x0)
        return _power(size, x0, y0, x1, y1)


def _power(size: int, x0: int, y0: Fraction, x1: int, y1: Fraction) -> Fraction:
    if size in (x0, x1):
        return y0 if size == x0 else y1
    place = math.log(size / x0) / math.log(x1 / x0)
    return y0 * Fraction(float(y1 / y0) ** place)


class OutsideError(Exception):
    """A size beyond an entry's points without a rule for it; `evaluate` adds table and layer."""


class Points(EntryBase):
    """Energies at some sizes, in a key `points`, and the rule between and outside them."""

    unit: ClassVar[str]
    interpolation: Literal["linear", "power"]
    below: Outside = "error"
    above: Outside = "error"

    @abstractmethod
    def pairs(self) -> list[tuple[int, Fraction]]:
        """The points as (size, energy)."""

    @abstractmethod
    def size(self, key: OpKey, capacity_bytes: int | None) -> int:
        """What the points run over: a width, a product of widths or a capacity."""

    @cached_property
    def curve(self) -> Curve:
        """The points with their rules."""
        return Curve(self.pairs(), self.interpolation, self.below, self.above)

    @model_validator(mode="after")
    def _points_make_a_curve(self) -> Self:
        pairs = self.pairs()
        if len(pairs) < 2:
            raise ValueError("one point gives no line; add another, or use kind = 'constant'")
        for (x0, _), (x1, _) in pairwise(pairs):
            if x1 <= x0:
                raise ValueError(f"points must ascend, but {x1} {self.unit} follow {x0}; sort them")
        if self.interpolation == "power" and any(y == 0 for _, y in pairs):
            raise ValueError("interpolation = 'power' needs energies above 0 for their logarithms; use 'linear'")
        return self

    def energy(self, key: OpKey, capacity_bytes: int | None) -> Fraction:
        """Return the energy at the operation's size; raises `OutsideError` where no rule covers it."""
        size, curve = self.size(key, capacity_bytes), self.curve
        side = curve.side(size)
        reach = f"its points ({curve.points[0][0]} to {curve.points[-1][0]} {self.unit})"
        if side is not None and getattr(self, side) == "error":
            raise OutsideError(
                f"{size} {self.unit} lies {side} {reach}; add a point there, "
                f"or state {side} = 'extrapolate' or 'hold' in the entry"
            )
        try:
            energy = curve.at(size)
        except OverflowError:
            energy = Fraction(2 * LARGEST)
        if energy > LARGEST:
            raise OutsideError(
                f"at {size} {self.unit} the curve through {reach} rises above {LARGEST:g}; correct the points"
            )
        if energy < 0:
            raise OutsideError(
                f"at {size} {self.unit} the line through {reach} falls below 0; add a point there, or state "
                f"{side} = 'hold' in the entry"
            )
        return energy

    def rule_used(self, key: OpKey, capacity_bytes: int | None) -> tuple[Side, int] | None:
        """Return the side and size of an operation outside the points, or None inside them."""
        size = self.size(key, capacity_bytes)
        side = self.curve.side(size)
        return None if side is None else (side, size)

    def rule_text(self, side: Side) -> str:
        """Say what is done on one side of the points, for a report's notes."""
        first, *_, last = self.pairs()
        end = first if side == "below" else last
        where = f"{side} the table's points ({first[0]} to {last[0]} {self.unit})"
        if getattr(self, side) == "hold":
            return f"{where}: the figure at {end[0]} {self.unit} is held, as the table asks"
        return f"{where}: extrapolated ({self.interpolation}), as the table asks"


class WidthPoint(Section):
    """The energy of one operation on operands of `bits` bits."""

    bits: int = Field(ge=1)
    energy: Energy


class ByWidth(Points):
    """Points over the operand width: an adder."""

    kind: Literal["by_width"]
    points: tuple[WidthPoint, ...] = Field(strict=False)
    unit: ClassVar[str] = "bits"

    def pairs(self) -> list[tuple[int, Fraction]]:
        return [(point.bits, exact(point.energy)) for point in self.points]

    def size(self, key: OpKey, capacity_bytes: int | None) -> int:
        return key.bits


class ProductPoint(Section):
    """The energy of one product of a `bits`-bit and a `by_bits`-bit operand."""

    bits: int = Field(ge=1)
    by_bits: int = Field(ge=1)
    energy: Energy


class ByProduct(Points):
    """Points over the product of the operands' widths: a multiplier."""

    kind: Literal["by_product"]
    points: tuple[ProductPoint, ...] = Field(strict=False)
    unit: ClassVar[str] = "product bits"

    def refuses(self, op: str) -> str | None:
        return _only_products(self.kind, op)

    def pairs(self) -> list[tuple[int, Fraction]]:
        return [(point.bits * point.by_bits, exact(point.energy)) for point in self.points]

    def size(self, key: OpKey, capacity_bytes: int | None) -> int:
        return key.bits * key.by_bits


class CapacityPoint(Section):
    """The energy of one access of the entry's `access_bits` to a memory of `bytes` bytes."""

    bytes: int = Field(ge=1)
    energy: Energy


class ByCapacity(Points):
    """Points over a memory's capacity; the energy of an access is shared evenly among its bits."""

    kind: Literal["by_capacity"]
    access_bits: int = Field(ge=1)
    points: tuple[CapacityPoint, ...] = Field(strict=False)
    unit: ClassVar[str] = "bytes"

    def refuses(self, op: str) -> str | None:
        if not is_memory(op):
            return (
                f"{op!r} is no access to an on-chip memory, so it has no capacity; "
                "kind = 'by_capacity' is for read.* and write.*"
            )
        return None

    def pairs(self) -> list[tuple[int, Fraction]]:
        return [(point.bytes, exact(point.energy)) for point in self.points]

    def size(self, key: OpKey, capacity_bytes: int | None) -> int:
        if capacity_bytes is None:
            raise ValueError(f"capacities must hold {key.op.partition('.')[2]!r}, in bytes; use memory_capacities")
        return capacity_bytes

    def energy(self, key: OpKey, capacity_bytes: int | None) -> Fraction:
        return super().energy(key, capacity_bytes) * key.bits / self.access_bits


def _only_products(kind: str, op: str) -> str | None:
    if op not in PRODUCT_OPS:
        return f"{op!r} is no product; kind = {kind!r} is for {', '.join(PRODUCT_OPS)}"
    return None


Entry = Zero | Constant | Product | Action | ByWidth | ByProduct | ByCapacity

KINDS: dict[str, type[Entry]] = {
    "zero": Zero,
    "constant": Constant,
    "product": Product,
    "action": Action,
    "by_width": ByWidth,
    "by_product": ByProduct,
    "by_capacity": ByCapacity,
}
