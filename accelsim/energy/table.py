"""An energy table: what one operation of each type costs, in which unit, at which node, and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from accelsim.config import find_preset
from accelsim.config._model import Section, build, read_toml
from accelsim.energy.accelergy import with_energies
from accelsim.energy.entries import KINDS, Entry, Text, Zero
from accelsim.errors import InputError, did_you_mean
from accelsim.timing import FLOAT_OPS, OPS


class OpsPerMac(Section):
    """Operations counted for each MAC; honest hardware does one and one."""

    multiplications: int = Field(1, ge=1)
    additions: int = Field(1, ge=1)


class OpsPerMacSection(Section):
    """`OpsPerMac` for each kind of node that has MACs."""

    conv2d: OpsPerMac = OpsPerMac()
    linear: OpsPerMac = OpsPerMac()
    matmul: OpsPerMac = OpsPerMac()


class Header(Section):
    """What a table says beside its entries.

    Attributes:
        name: shown in reports; absent, the file's name.
        unit: of every energy in the file.
        node_nm: technology node, nanometres; voltage_v: supply, volts. Required where unit is 'pJ'.
        source: publication or measurement the figures come from.
        notes: what a reader of a report must know; reports print them.
        ops_per_mac: scales `mul` and `add.array` of a kind of node; for studies that count differently.
        extra_adds: layer name -> `add.array` operations, of the accumulator's width, for each output element.
    """

    name: Text
    unit: Literal["relative", "pJ"]
    node_nm: float | None = Field(None, gt=0, allow_inf_nan=False)
    voltage_v: float | None = Field(None, gt=0, allow_inf_nan=False)
    source: Text
    notes: tuple[Text, ...] = Field((), strict=False)
    ops_per_mac: OpsPerMacSection = OpsPerMacSection()
    extra_adds: dict[str, int] = Field({})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in ("node_nm", "voltage_v"):
            if self.unit == "pJ" and getattr(self, key) is None:
                raise ValueError(f"unit = 'pJ' needs {key}, without which a figure in pJ means nothing; add it")
        for layer, adds in self.extra_adds.items():
            if adds < 0:
                raise ValueError(f"extra_adds.{layer} = {adds} must be at least 0")
        return self


@dataclass(frozen=True)
class EnergyTable:
    """A validated table.

    Attributes:
        header: everything in the file but its entries.
        entries: in the file's order.
        by_op: operation type -> its entry.
        origin: the name or path it was loaded by, for errors.
    """

    header: Header
    entries: tuple[Entry, ...]
    by_op: Mapping[str, Entry]
    origin: str

    @property
    def name(self) -> str:
        """The table's name."""
        return self.header.name

    @property
    def unit(self) -> str:
        """The unit of its energies: 'relative' or 'pJ'."""
        return self.header.unit

    @property
    def title(self) -> str:
        """One line for a report's header: name, unit, node, voltage and source.

        >>> load_energy("lenet_coursework").title.split(";")[0]
        'energy table lenet_coursework: relative units'
        """
        unit = "relative units" if self.unit == "relative" else self.unit
        return f"energy table {self.name}: {unit}; {_provenance(self.header)}"

    def provenance(self, op: str) -> str:
        """One line on where the figure of `op` comes from, or why it is zero.

        >>> load_energy("horowitz_45nm").provenance("register.psum").split(":")[0]
        'Aladdin power models (Shao et al., ISCA 2014), common/power_func.h, REG_1ns..6ns_dynamic_energy'
        """
        entry = self.by_op[op]
        if isinstance(entry, Zero):
            return f"zero: {entry.reason}"
        if entry.source is not None:
            return _provenance(entry)
        given = {key: value for key in ("node_nm", "voltage_v") if (value := getattr(entry, key)) is not None}
        return _provenance(self.header.model_copy(update=given))


def _provenance(said: Header | Entry) -> str:
    parts = [said.source or ""]
    if said.node_nm is not None:
        parts.append(f"{said.node_nm:g} nm")
    if said.voltage_v is not None:
        parts.append(f"{said.voltage_v:g} V")
    return ", ".join(parts)


def load_energy(name_or_path: str | Path) -> EnergyTable:
    """Load a preset by name (`accelsim list`) or a TOML file.

    Raises:
        InputError: one line with file, key, value, rule and remedy.
    """
    return energy_from_dict(read_energy(name_or_path), str(name_or_path))


def read_energy(name_or_path: str | Path) -> dict[str, Any]:
    """The keys of a table's file, not yet validated; figures of an Accelergy ERT that it names are in them.

    Raises:
        InputError: as `load_energy`.
    """
    path = find_preset("energy", name_or_path)
    if path.suffix in (".yaml", ".yml"):
        raise InputError(
            f"{path}: is YAML; an ERT of Accelergy needs an energy table that says which action prices which "
            f"operation: a TOML file with ert = {path.name!r} (docs/energy.md)"
        )
    data = read_toml(path)
    data.setdefault("name", path.stem)
    return with_energies(data, path.parent, str(name_or_path))


def energy_from_dict(data: Mapping[str, Any], origin: str) -> EnergyTable:
    """Validate a table given as the keys of its file; `origin` names it in errors."""
    rest = {key: value for key, value in data.items() if key != "entry"}
    unknown = next((key for key in rest if key not in Header.model_fields), None)
    if unknown is not None:
        known = ["entry", "ert", *Header.model_fields]
        hint = did_you_mean(unknown, known) or f"; known here: {', '.join(known)}"
        raise InputError(f"{origin}: unknown key {unknown!r}{hint}")
    header = build(Header, rest, origin)
    listed = data.get("entry", [])
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise InputError(f"{origin}: entry must be an array of tables; write [[entry]] above each")
    by_op: dict[str, Entry] = {}
    entries = []
    for number, item in enumerate(listed, 1):
        entry = _entry(item, f"{origin} entry {number}")
        where = f"{origin} entry {number} ({entry.ops[0]})"
        for op in entry.ops:
            if op not in (*OPS, *FLOAT_OPS):
                hint = did_you_mean(op, (*OPS, *FLOAT_OPS)) or f"; known: {', '.join((*OPS, *FLOAT_OPS))}"
                raise InputError(f"{where}: ops: unknown operation {op!r}{hint}")
            if op in by_op:
                raise InputError(f"{where}: ops: {op!r} has an entry already; keep one of them")
            if reason := entry.refuses(op):
                raise InputError(f"{where}: kind = {entry.kind!r}: {reason}")
            by_op[op] = entry
        entries.append(entry)
    return EnergyTable(header, tuple(entries), by_op, origin)


def _entry(item: dict[str, Any], where: str) -> Entry:
    ops = item.get("ops")
    if ops == []:
        raise InputError(f"{where}: ops = [] must name an operation; add one, or remove the entry")
    if isinstance(ops, list) and isinstance(ops[0], str):
        where += f" ({ops[0]})"
    if "kind" not in item:
        raise InputError(f"{where}: key 'kind' is missing; add one of {', '.join(map(repr, KINDS))}")
    kind = item["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        remedy = did_you_mean(str(kind), KINDS) or "; use one of them"
        raise InputError(f"{where}: kind = {kind!r} is not one of {', '.join(map(repr, KINDS))}{remedy}")
    return build(KINDS[kind], item, where)
