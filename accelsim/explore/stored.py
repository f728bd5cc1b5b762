"""A sweep read back from its store: rows, the whole configuration of each, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from accelsim.config.sweep import SweepFile
from accelsim.errors import InputError, did_you_mean
from accelsim.explore.pareto import front
from accelsim.explore.store import Store
from accelsim.explore.sweep import Row, judged, unmet

MOST_OBJECTIVES = 4


@dataclass(frozen=True)
class Objective:
    """What is to be made small or large.

    Attributes:
        direction: "min" or "max".
        name: a figure, or an axis whose values are numbers.
    """

    direction: str
    name: str

    def __str__(self) -> str:
        return f"{self.direction} {self.name}"

    def cost(self, value: float) -> float:
        """The same value, smaller being better."""
        return value if self.direction == "min" else -value


@dataclass(frozen=True)
class Stored:
    """One sweep of a store.

    Attributes:
        rows: every point, in the sweep's order.
        inputs: content hash -> what the point was made from; absent where it was not measured.
    """

    number: int
    file: SweepFile
    rows: list[Row]
    inputs: Mapping[str, Mapping[str, Any]]

    def value(self, row: Row, name: str) -> float | None:
        """A figure or an axis of a point as a number; None where it has none, or something else."""
        value: Any = row.figures.get(name, row.setting.get(name))
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if numeric and abs(value) < float("inf") else None

    def names(self) -> list[str]:
        """Figures and axes with a number at some point, figures first."""
        known = dict.fromkeys(name for row in self.rows for name in (*row.figures, *row.setting))
        numeric = [name for name in known if any(self.value(row, name) is not None for row in self.rows)]
        axes = {name for row in self.rows for name in row.setting}
        return sorted(numeric, key=lambda name: name in axes)

    def units(self) -> list[str]:
        """Units of the energy tables of measured points, in order of appearance."""
        found = (self.inputs.get(row.key, {}).get("energy", {}).get("unit") for row in self.rows)
        return list(dict.fromkeys(str(unit) for unit in found if unit is not None))

    def objectives(self, text: str | None) -> list[Objective]:
        """The objectives that are named, else those of the sweep's search, else two of what was measured.

        Args:
            text: such as ``"min cycles, max accuracy"``; None for the sweep's own.
        Raises:
            InputError: not one to four of ``min NAME`` and ``max NAME``, or a name without numbers here.
        """
        known = self.names()
        if text is None:
            if self.file.search is not None:
                text = ",".join(self.file.search.objectives)
            else:
                usual = ("max accuracy", "min energy", "min cycles", "min area", "min safe_width")
                there = [one for one in usual if one.split()[1] in known]
                text = ",".join(there[:2])
        found: list[Objective] = []
        for one in filter(None, (part.strip() for part in text.split(","))):
            direction, _, name = one.partition(" ")
            name = name.strip()
            if direction not in ("min", "max") or not name:
                raise InputError(f"--objectives: {one!r} is not 'min NAME' or 'max NAME'; use 'min energy'")
            if name not in known:
                hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                raise InputError(f"--objectives: {name!r} has no number at any point of this sweep{hint}")
            if any(name == other.name for other in found):
                raise InputError(f"--objectives: {name!r} is named twice; keep one of them")
            found.append(Objective(direction, name))
        if not 1 <= len(found) <= MOST_OBJECTIVES:
            raise InputError(f"--objectives: {len(found)} are named; name 1 to {MOST_OBJECTIVES}, such as 'min cycles'")
        return found

    def front(self, objectives: Sequence[Objective]) -> list[Row]:
        """The feasible points that no other beats in all objectives; points without one of them are left out."""
        rows, costs = [], []
        for row in self.rows:
            values = [self.value(row, one.name) for one in objectives]
            if row.status == "done" and all(value is not None for value in values):
                rows.append(row)
                costs.append([one.cost(v) for one, v in zip(objectives, values, strict=True) if v is not None])
        return [rows[index] for index in front(costs)] if rows else []


def read_sweep(store: Store, which: str | None) -> Stored:
    """Read one sweep of a store.

    Args:
        which: its name or number; None where the store holds one alone.
    Raises:
        InputError: there is no such sweep, or several; none of its points has figures.
    """
    number, file = _chosen(store, which)
    meets = partial(unmet, file.constraints, where=f"{store.path}: constraints")
    rows = [judged(member, answer, meets) for member, answer in store.rows(number)]
    if not any(row.status == "done" for row in rows):
        raise InputError(
            f"{store.path}: sweep {number}, {file.name!r}, has no feasible point yet; finish it with accelsim sweep"
        )
    return Stored(number, file, rows, store.inputs(number))


def _chosen(store: Store, which: str | None) -> tuple[int, SweepFile]:
    known = store.sweeps()
    told = ", ".join(f"{number} {file.name!r}" for number, file in known[:12]) + (", ..." if len(known) > 12 else "")
    if not known:
        raise InputError(f"{store.path}: holds no sweep; begin one with accelsim sweep")
    if which is None:
        if len(known) > 1:
            raise InputError(f"{store.path}: holds {len(known)} sweeps ({told}); choose one with --sweep NUMBER")
        return known[0]
    found = [one for one in known if which in (str(one[0]), one[1].name)]
    by_number = [one for one in found if which == str(one[0])]
    if len(found) > 1 and not by_number:
        numbers = ", ".join(str(number) for number, _ in found)
        raise InputError(f"--sweep {which}: {store.path} holds several of this name; use one of the numbers {numbers}")
    if not found:
        hint = did_you_mean(which, [file.name for _, file in known])
        raise InputError(f"--sweep {which}: {store.path} holds none of this name or number; it holds {told}{hint}")
    return (by_number or found)[0]
