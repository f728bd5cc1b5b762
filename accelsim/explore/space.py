"""The points of a sweep: what every axis says at each of them, and the inputs that follow."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

from accelsim.config import Hardware, QuantizationScheme, build, find_preset, read_toml
from accelsim.config._model import set_key
from accelsim.config.hardware import hardware_from_dict
from accelsim.config.sweep import CHOICES, MOST_POINTS, Span, Steps, SweepFile, Value, keys_of
from accelsim.energy.table import EnergyTable, Header, energy_from_dict, read_energy
from accelsim.errors import InputError, did_you_mean, optional
from accelsim.explore.expressions import evaluate, names_in
from accelsim.timing import OPS

Setting = dict[str, Value]
"""What the axes, and the keys derived from them, say at one point: key -> value."""


class Space:
    """The axes of one sweep.

    Attributes:
        keys: every key that an axis or a derivation sets, in the file's order.
    """

    def __init__(self, sweep: SweepFile, origin: str):
        """Check the axes' keys, the presets and files they name, and the names that derived keys read.

        Raises:
            InputError: one of them is not there.
        """
        self.sweep = sweep
        self.origin = origin
        self.keys = [key for said in (*sweep.axes, *sweep.derived) for key in keys_of(said)]
        self._rows = {
            said: None if isinstance(axis, Span) else _rows(axis.values() if isinstance(axis, Steps) else axis)
            for said, axis in sweep.axes.items()
        }
        for key in self.keys:
            _check_key(key, origin)
        _read.cache_clear()
        for kind in ("hardware", "quantization", "energy"):
            for name in self._named(kind):
                _read(kind, name)
        self._derived = {key: self._checked(key, text) for key, text in sweep.derived.items()}

    def _named(self, kind: str) -> Iterator[str]:
        """The presets and files of a kind that the sweep's file names: what is not there is no point's fault."""
        if kind not in self.keys:
            yield getattr(self.sweep, kind)
        for said, rows in self._rows.items():
            keys = keys_of(said)
            if kind in keys and rows is not None:
                yield from (str(row[keys.index(kind)]) for row in rows)

    def _checked(self, key: str, expression: str) -> str:
        known = [*self.keys[: self.keys.index(key)], *(name for name in (*CHOICES, "batch"))]
        for name in names_in(expression, f"{self.origin} [derived]: {key}"):
            if name not in known:
                raise InputError(
                    f"{self.origin} [derived]: {key} = {expression!r} reads {name!r}, which is no axis; "
                    f"axes: {', '.join(known)}"
                )
        return expression

    @property
    def count(self) -> int:
        """Points of the plan; of a search, its evaluations."""
        sweep = self.sweep
        if sweep.search is not None:
            return sweep.search.evaluations
        if sweep.sampling.samples is not None:
            return sweep.sampling.samples
        lengths = [len(rows) for rows in self._rows.values() if rows is not None]
        return math.prod(lengths) if sweep.sampling.method == "grid" else min(lengths)

    def points(self) -> Iterator[Setting]:
        """Every point of the plan, in an order that nothing but the file decides.

        Raises:
            InputError: "zip" with axes of different lengths; more than a million points; a derived key without a value.
        """
        sweep = self.sweep
        if self.count > MOST_POINTS:
            raise InputError(f"{self.origin}: {self.count:,} points are more than {MOST_POINTS:,}; sample them")
        match sweep.sampling.method:
            case "grid":
                for combination in product(*map(self._all, sweep.axes)):
                    yield self._setting(dict(zip(sweep.axes, combination, strict=True)))
            case "zip":
                lengths = {said: len(self._all(said)) for said in sweep.axes}
                if len(set(lengths.values())) > 1:
                    told = ", ".join(f"{said}: {length}" for said, length in lengths.items())
                    raise InputError(f"{self.origin} [axes]: zip needs axes of one length; there are {told}")
                for combination in zip(*map(self._all, sweep.axes), strict=True):
                    yield self._setting(dict(zip(sweep.axes, combination, strict=True)))
            case _:
                for place in _places(sweep, len(sweep.axes)):
                    chosen = {said: self.at(said, float(where)) for said, where in zip(sweep.axes, place, strict=True)}
                    yield self._setting(chosen)

    def rows(self, said: str) -> int | None:
        """How many rows of values an axis has; None where it is a span."""
        rows = self._rows[said]
        return None if rows is None else len(rows)

    def at(self, said: str, place: float) -> list[Value]:
        """The row of an axis at a place 0 <= place < 1."""
        axis, rows = self.sweep.axes[said], self._rows[said]
        if rows is not None:
            return rows[min(int(place * len(rows)), len(rows) - 1)]
        assert isinstance(axis, Span)
        low, high = float(axis.low), float(axis.high) + (1 if axis.whole else 0)
        value = math.exp(math.log(low) + place * math.log(high / low)) if axis.log else low + place * (high - low)
        return [min(int(value), int(axis.high)) if axis.whole else min(value, float(axis.high))]

    def setting(self, chosen: Mapping[str, int | float]) -> Setting:
        """A point by the number of each axis's row, or by the value of a span: what a search proposes."""
        rows: dict[str, list[Value]] = {}
        for said, one in chosen.items():
            listed = self._rows[said]
            rows[said] = [one] if listed is None else listed[int(one)]
        return self._setting(rows)

    def _all(self, said: str) -> list[list[Value]]:
        rows = self._rows[said]
        assert rows is not None
        return rows

    def _setting(self, chosen: Mapping[str, list[Value]]) -> Setting:
        setting: Setting = {}
        for said, row in chosen.items():
            setting.update(zip(keys_of(said), row, strict=True))
        for key, expression in self._derived.items():
            value = evaluate(expression, {**self._choices(), **setting}, f"{self.origin} [derived]: {key}")
            setting[key] = int(value) if isinstance(value, float) and value.is_integer() else value
        return setting

    def _choices(self) -> dict[str, Value]:
        return {**{key: getattr(self.sweep, key) for key in CHOICES}, "batch": self.sweep.batch}


def _rows(values: list[Any]) -> list[list[Value]]:
    return [value if isinstance(value, list) else [value] for value in values]


def _places(sweep: SweepFile, dimensions: int) -> Any:
    """Places in the unit cube, float64 (samples, dimensions)."""
    import numpy as np

    samples, seed = sweep.sampling.samples, sweep.sampling.seed
    assert samples is not None
    if sweep.sampling.method == "random":
        return np.random.default_rng(seed).random((samples, dimensions))
    qmc = optional("scipy.stats", "low-discrepancy points", "sweep").qmc
    if sweep.sampling.method == "halton":
        return qmc.Halton(dimensions, rng=seed).random(samples)
    engine = qmc.Sobol(dimensions, rng=seed)
    return engine.random_base2(max(samples - 1, 0).bit_length())[:samples]


class Inputs:
    """Everything a point is made from, read and validated: what its content hash covers, but for the workload's own.

    Attributes:
        hardware: the machine.
        quantization: the scheme.
        energy: the table.
    """

    def __init__(self, sweep: SweepFile, setting: Setting):
        chosen = {key: str(setting.get(key, getattr(sweep, key))) for key in CHOICES}
        self.workload = chosen["workload"]
        batch = setting.get("batch", sweep.batch)
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 4096:
            raise InputError(f"batch = {batch!r} must be an integer of 1..4096")
        self.batch = batch
        parts = {kind: copy.deepcopy(_read(kind, chosen[kind])) for kind in ("hardware", "quantization", "energy")}
        for key, value in setting.items():
            kind, dot, rest = key.partition(".")
            if dot:
                _put(parts[kind], kind, rest, value)
        self.hardware: Hardware = hardware_from_dict(parts["hardware"], chosen["hardware"])
        self.quantization: QuantizationScheme = build(QuantizationScheme, parts["quantization"], chosen["quantization"])
        self.energy: EnergyTable = energy_from_dict(parts["energy"], chosen["energy"])
        self._energy_data = parts["energy"]

    def content(self) -> dict[str, Any]:
        """The same as JSON, for the hash and for a reader of the store."""
        return {
            "hardware": self.hardware.model_dump(mode="json"),
            "quantization": self.quantization.model_dump(mode="json"),
            "energy": self._energy_data,
            "batch": self.batch,
        }


def _check_key(key: str, origin: str) -> None:
    """Refuse a key that no file can hold, which would make every point infeasible."""
    kind, dot, rest = key.partition(".")
    if not dot:
        return
    where = f"{origin} [axes]: {kind}."
    if kind != "energy":
        set_key({}, f"{rest}=0", Hardware if kind == "hardware" else QuantizationScheme, where)
        return
    first, *others = rest.split(".")
    if first == "entry":
        op = ".".join(others[:-1])
        if op not in OPS:
            hint = did_you_mean(op, OPS) or f"; known: {', '.join(OPS)}"
            raise InputError(f"{where}{rest}: {op!r} is no operation{hint}; write energy.entry.OP.FIELD")
    elif first not in Header.model_fields:
        known = ("entry", *Header.model_fields)
        hint = did_you_mean(first, known) or f"; known here: {', '.join(known)}"
        raise InputError(f"{where}{rest}: unknown key {first!r}{hint}")


@lru_cache(maxsize=256)
def _read(kind: str, name: str) -> dict[str, Any]:
    """What a preset or file says, for one sweep: `Space` forgets it, since files change while a notebook goes on."""
    if kind == "energy":
        return read_energy(name)
    path = find_preset(kind, name)
    data = read_toml(path)
    if kind == "hardware":
        data.setdefault("name", path.stem)
    return data


def _put(data: dict[str, Any], kind: str, key: str, value: Value) -> None:
    """Set one key in what a file says."""
    if kind == "energy":
        _put_energy(data, key, value)
    else:
        model = Hardware if kind == "hardware" else QuantizationScheme
        set_key(data, f"{key}={_as_toml(value)}", model, f"axis {kind}.")


def _put_energy(data: dict[str, Any], key: str, value: Value) -> None:
    """``entry.OP.FIELD`` of the entry that prices OP, or a key of the table's header."""
    if key.startswith("entry."):
        op, _, field = key.removeprefix("entry.").rpartition(".")
        for entry in data.get("entry", []):
            if op in entry.get("ops", []):
                entry[field] = value
                return
        raise InputError(f"axis energy.{key}: no entry of the table prices {op!r}; write energy.entry.OP.FIELD")
    here = data
    *folders, last = key.split(".")
    for folder in folders:
        here = here.setdefault(folder, {})
        if not isinstance(here, dict):
            raise InputError(f"axis energy.{key}: {folder!r} holds a value, not keys")
    here[last] = value


def _as_toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(f"\\u{ord(one):04x}" if ord(one) < 32 or one in '"\\\x7f' else one for one in value)
        return f'"{escaped}"'
    return repr(value)
