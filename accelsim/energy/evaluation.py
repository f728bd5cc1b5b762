"""Counts times table: the energy of each layer and of the whole run, by operation type and by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from accelsim.config import Hardware
from accelsim.energy.entries import OutsideError, Points, Side, Zero, is_memory
from accelsim.energy.table import EnergyTable
from accelsim.errors import InputError, did_you_mean
from accelsim.timing import FLOAT_OPS, OPS, Counts, OpKey

ALL_OPS = (*OPS, *FLOAT_OPS)

PLACES: Mapping[str, tuple[str, ...]] = {
    "multipliers": ("mul", "mul.float32"),
    "adders": ("add.array", "add.accumulator", "add.array.float32", "add.accumulator.float32"),
    "partial-sum registers": ("register.psum",),
    "operand registers": ("register.activation", "register.weight", "register.skew"),
    "accumulator memory": ("read.accumulator", "write.accumulator"),
    "buffers": (
        *("read.activation", "write.activation", "read.weight", "write.weight"),
        *("read.parameter", "write.parameter", "read.table", "write.table"),
    ),
    "post-processing": ("add.ppu", "requant_mul", "requant_shift", "compare", "table_lookup"),
    "DRAM": ("dram.read", "dram.write"),
    "idle": ("idle",),
}
"""The places reports and plots show apart; every operation type is in one.

A narrower accumulator acts on adders, partial-sum registers and accumulator memory; a figure that adds them
to the rest hides how small a part of a MAC the adder is.
"""

_MEMORIES = ("activation", "weight", "parameter", "table", "accumulator")


@dataclass(frozen=True, slots=True)
class OpEnergy:
    """The energy of all operations of one type.

    count * bits * energy_per_bit == energy holds exactly, in fractions; `as_numbers` rounds each figure once.

    Attributes:
        count: N, operations.
        operand_bits: sum of the operations' widths, bits; a product counts its first operand.
        energy: in the table's unit.
    """

    count: int
    operand_bits: int
    energy: Fraction

    @property
    def bits(self) -> Fraction:
        """B: mean width of an operand, bits."""
        return Fraction(self.operand_bits, self.count)

    @property
    def energy_per_bit(self) -> Fraction:
        """S: mean energy per operand bit, in the table's unit; s * 8 for 8x8-bit products."""
        return self.energy / self.operand_bits

    def __add__(self, other: OpEnergy) -> OpEnergy:
        return OpEnergy(self.count + other.count, self.operand_bits + other.operand_bits, self.energy + other.energy)

    def as_numbers(self) -> dict[str, int | float]:
        """Return the four figures of a report; whole numbers as int, others rounded to the nearest float."""
        return {
            "count": self.count,
            "bits": as_number(self.bits),
            "energy_per_bit": as_number(self.energy_per_bit),
            "energy": as_number(self.energy),
        }


Energies = dict[str, OpEnergy]
"""Operation type -> its energy, in the order of `ALL_OPS`; only operations that occur."""


def as_number(value: Fraction) -> int | float:
    """Return a whole number as int and any other rounded to the nearest float.

    >>> as_number(Fraction(402692880)), as_number(Fraction(1, 10))
    (402692880, 0.1)
    """
    return value.numerator if value.denominator == 1 else float(value)


def add_energies(parts: Iterable[Mapping[str, OpEnergy]]) -> Energies:
    """Add energies operation by operation."""
    total: Energies = {}
    for part in parts:
        for op, energy in part.items():
            total[op] = total[op] + energy if op in total else energy
    return {op: total[op] for op in ALL_OPS if op in total}


def by_place(energies: Mapping[str, OpEnergy]) -> dict[str, Fraction]:
    """Add up the energies of each place of `PLACES`, in its order and in the table's unit."""
    return {
        place: sum((energies[op].energy for op in ops if op in energies), Fraction(0)) for place, ops in PLACES.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCounts:
    """What one layer did.

    Attributes:
        name: the node's name, as reports show it.
        op: the node's operation: 'conv2d', 'linear', ...
        counts: operations of all its instructions, for the whole batch.
        outputs: output elements in the whole batch.
        accumulator_bits: width of this layer's accumulator, for a table's `extra_adds`.
    """

    name: str
    op: str
    counts: Counts
    outputs: int
    accumulator_bits: int


@dataclass(frozen=True, slots=True)
class LayerEnergy:
    """One layer's energy by operation type."""

    name: str
    op: str
    by_op: Energies

    @property
    def energy(self) -> Fraction:
        """The layer's energy, in the table's unit."""
        return _sum(self.by_op)


@dataclass(frozen=True, slots=True)
class EnergyReport:
    """Energies of a run.

    Attributes:
        table: the table they were computed with; its `title` and `unit` belong in a report's header.
        layers: in the order given.
        by_op: the layers' sum.
        notes: what a reader must know: assumptions, zeros and their reasons, rules used outside points.
    """

    table: EnergyTable
    layers: tuple[LayerEnergy, ...]
    by_op: Energies
    notes: tuple[str, ...]

    @property
    def energy(self) -> Fraction:
        """The run's energy, in the table's unit."""
        return _sum(self.by_op)


def memory_capacities(hardware: Hardware) -> dict[str, int]:
    """Return each on-chip memory's capacity in bytes, by the name in its operations (`read.<name>`)."""
    return {name: getattr(hardware, name).memory_bytes for name in _MEMORIES}


def evaluate(table: EnergyTable, layers: Sequence[LayerCounts], capacities: Mapping[str, int]) -> EnergyReport:
    """Price every operation of every layer.

    Args:
        table: from `load_energy`.
        layers: one for each label of the program.
        capacities: bytes of each on-chip memory, from `memory_capacities`.

    Raises:
        InputError: an operation that occurs has no entry, or lies outside its entry's points with no rule for
            it; or the table's `extra_adds` names no layer.
        ValueError: a negative count, or a capacity that is missing.
    """
    _check_extra_adds(table, layers)
    outside: set[_Outside] = set()
    priced = tuple(LayerEnergy(layer.name, layer.op, _price(table, layer, capacities, outside)) for layer in layers)
    total = add_energies(layer.by_op for layer in priced)
    return EnergyReport(table, priced, total, tuple(_notes(table, layers, total, outside)))


_Outside = tuple[str, Side, int]
"""An operation type, and the side and size at which it was priced outside its entry's points."""


def _price(table: EnergyTable, layer: LayerCounts, capacities: Mapping[str, int], outside: set[_Outside]) -> Energies:
    parts = []
    for key, count in _as_the_table_counts(table, layer).items():
        if count < 0:
            raise ValueError(f"layer {layer.name!r}: {count} operations {key}; counts must not be negative")
        if count == 0:
            continue
        entry = table.by_op.get(key.op)
        if entry is None:
            raise InputError(
                f"{table.origin}: no entry for {key.op!r}, which occurs {count} times in layer {layer.name!r}; "
                "add it to an [[entry]], with kind = 'zero' and a reason if it is to cost nothing"
            )
        capacity = capacities.get(key.op.partition(".")[2]) if is_memory(key.op) else None
        try:
            energy = entry.energy(key, capacity)
        except OutsideError as error:
            raise InputError(f"{table.origin}: {key.op!r} in layer {layer.name!r}: {error}") from None
        parts.append({key.op: OpEnergy(count, count * key.bits, count * energy)})
        if isinstance(entry, Points) and (used := entry.rule_used(key, capacity)):
            outside.add((key.op, *used))
    return add_energies(parts)


def _as_the_table_counts(table: EnergyTable, layer: LayerCounts) -> Counts:
    """Apply `ops_per_mac` and `extra_adds`; most tables have neither."""
    factor = getattr(table.header.ops_per_mac, layer.op, None)
    extra = table.header.extra_adds.get(layer.name, 0) * layer.outputs
    counts: Counts = Counter(layer.counts)
    if factor is not None:
        for key in counts:
            if key.op == "mul":
                counts[key] *= factor.multiplications
            elif key.op == "add.array":
                counts[key] *= factor.additions
    if extra:
        counts[OpKey("add.array", layer.accumulator_bits)] += extra
    return counts


def _check_extra_adds(table: EnergyTable, layers: Sequence[LayerCounts]) -> None:
    names = [layer.name for layer in layers]
    for name in table.header.extra_adds:
        if name not in names:
            hint = did_you_mean(name, names) or f"; its layers: {', '.join(names) or 'none'}"
            raise InputError(
                f"{table.origin} [extra_adds]: {name!r} is no layer of this workload; remove the key, or use "
                f"another table{hint}"
            )


def _notes(table: EnergyTable, layers: Sequence[LayerCounts], total: Energies, outside: set[_Outside]) -> list[str]:
    notes = list(table.header.notes)
    for kind in dict.fromkeys(layer.op for layer in layers):
        factor = getattr(table.header.ops_per_mac, kind, None)
        if factor is not None and (factor.multiplications, factor.additions) != (1, 1):
            notes.append(
                f"{kind}: {factor.multiplications} multiplications and {factor.additions} additions are "
                "counted for each MAC, as the table asks; the machine does one and one"
            )
    for name, adds in table.header.extra_adds.items():
        notes.append(f"{name}: {adds} additions are counted beside each output's MACs, as the table asks")
    for entry in table.entries:
        ops = [op for op in entry.ops if op in total]
        if ops and isinstance(entry, Zero):
            notes.append(f"counted as zero: {', '.join(ops)}: {entry.reason}")
        if ops and entry.note:
            notes.append(f"{', '.join(ops)}: {entry.note}")
        if isinstance(entry, Points):
            notes += _outside_notes(entry, outside)
    return notes


def _outside_notes(entry: Points, outside: set[_Outside]) -> list[str]:
    sides: tuple[Side, ...] = ("below", "above")
    notes = []
    for side in sides:
        used = [(op, size) for op, where, size in outside if op in entry.ops and where == side]
        found = sorted((size, ALL_OPS.index(op), op) for op, size in used)
        if found:
            sizes = ", ".join(f"{op} at {size}" for size, _, op in found)
            notes.append(f"{sizes}: {entry.rule_text(side)}")
    return notes


def _sum(energies: Mapping[str, OpEnergy]) -> Fraction:
    return sum((energy.energy for energy in energies.values()), Fraction(0))
