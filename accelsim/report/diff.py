"""Two runs side by side, from their reports: what differs in configuration, and what that does to every figure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from accelsim.errors import InputError, did_you_mean
from accelsim.report.saved import SavedLayer, SavedReport
from accelsim.report.text import table

FORMAT, VERSION = "accelsim-run-difference", 1
Number = int | float
Pair = dict[str, Number | None]
"""`a`, `b`, `change` = b - a, and `percent` of a; null where there is no such number."""

LIMITED = (
    *("cycles", "cycles_per_image", "energy", "energy_per_image", "latency_seconds", "stall_cycles"),
    *("dram_bytes_read", "dram_bytes_written"),
)
"""Totals that a limit may be set on: less is better."""


def compare_runs(
    a: SavedReport, b: SavedReport, names: tuple[str, str], limits: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return what `accelsim diff --json` writes (docs/formats.md, section 14).

    Layers are matched by name and operation. Where fewer than half of either report's match, the networks are held to
    be different, and only totals are compared.

    Args:
        a, b: the reports.
        names: what they are called.
        limits: for some of `LIMITED`, by how many percent b may exceed a.
    Raises:
        InputError: a limit on energies in different units.
    """
    before, after = ({(layer.name, layer.op): layer for layer in report.layers} for report in (a, b))
    matched = [key for key in before if key in after]
    related = 2 * len(matched) >= max(len(before), len(after))
    in_one_unit = a.totals.energy_unit == b.totals.energy_unit
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "a": {"file": names[0], "workload": a.workload, "batch": a.batch, "bit_exact": a.bit_exact},
        "b": {"file": names[1], "workload": b.workload, "batch": b.batch, "bit_exact": b.bit_exact},
        "networks": "different" if not related else "equal" if _network(a) == _network(b) else "related",
        "notes": _notes(a, b, len(matched), related),
        "configuration": _configuration(a, b),
        "totals": {key: _pair(x, y) for key, x, y in _join(_totals(a), _totals(b))},
        "stall_cycles": _pairs(_stalls(a.layers), _stalls(b.layers)),
        "energy_by_op": {},
        "layers": [_layer(before[key], after[key]) for key in matched] if related else [],
        "only_in_a": [name for name, op in before if (name, op) not in after] if related else [],
        "only_in_b": [name for name, op in after if (name, op) not in before] if related else [],
        "outputs": _outputs(a, b) if related else None,
    }
    if in_one_unit:
        energies = ({op: figure.energy for op, figure in report.energy_by_op.items()} for report in (a, b))
        document["energy_by_op"] = _pairs(*energies)
    else:  # both stay, their difference would mean nothing
        for row in (document["totals"], *document["layers"]):
            for key in ("energy", "energy_per_image"):
                if key in row:
                    row[key] |= {"change": None, "percent": None}
    document["limits"] = [_judge(document["totals"], key, limit) for key, limit in (limits or {}).items()]
    return document


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """Read ``KEY=PERCENT`` of ``--fail-on``.

    Raises:
        InputError: an unknown key, one given twice, or no percentage of at least 0.
    """
    limits: dict[str, float] = {}
    for text in texts:
        key, equals, percent = text.partition("=")
        if key not in LIMITED:
            hint = did_you_mean(key, LIMITED) or f"; known: {', '.join(LIMITED)}"
            raise InputError(f"--fail-on {text}: unknown key {key!r}{hint}")
        if key in limits:
            raise InputError(f"--fail-on {text}: {key} has a limit already; give each key once")
        try:
            limits[key] = float(percent)
        except ValueError:
            limits[key] = math.nan
        if not equals or not 0 <= limits[key] < math.inf:
            raise InputError(f"--fail-on {text}: must be KEY=PERCENT with at least 0 percent, such as cycles=2")
    return limits


# Figures ------------------------------------------------------------------------------------------------------


def _pair(a: Number | None, b: Number | None) -> Pair:
    if a is None or b is None:
        return {"a": a, "b": b, "change": None, "percent": None}
    percent = 0.0 if a == b else 100 * (b - a) / a if a else math.inf
    return {"a": a, "b": b, "change": b - a, "percent": percent if math.isfinite(percent) else None}


def _join(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    """(key, a's value, b's value) in a's order, then what b alone has; None where there is none."""
    return ((key, a.get(key), b.get(key)) for key in dict.fromkeys((*a, *b)))


def _pairs(a: Mapping[str, Number], b: Mapping[str, Number]) -> dict[str, Pair]:
    """Sums by cause or kind: what a report does not name is 0 there."""
    return {key: _pair(x or 0, y or 0) for key, x, y in _join(a, b)}


def _totals(report: SavedReport) -> dict[str, Number | None]:
    totals = report.totals
    overflows = [layer.overflows for layer in report.layers]
    return {
        "cycles": totals.cycles,
        "cycles_per_image": totals.cycles / report.batch,
        "latency_seconds": totals.latency_seconds,
        "images_per_second": totals.images_per_second,
        "energy": totals.energy,
        "energy_per_image": totals.energy / report.batch,
        "utilization": totals.utilization,
        "tops": totals.tops,
        "macs": totals.macs,
        "instructions": totals.instructions,
        "dram_bytes_read": sum(layer.dram_bytes_read for layer in report.layers),
        "dram_bytes_written": sum(layer.dram_bytes_written for layer in report.layers),
        "stall_cycles": sum(_stalls(report.layers).values()),
        **{f"busy_cycles.{unit}": cycles for unit, cycles in (totals.busy_cycles or {}).items()},
        "overflows": None if None in overflows else sum(n for n in overflows if n is not None),
        "accuracy": report.accuracy,
    }


def _stalls(layers: Iterable[SavedLayer]) -> Counter[str]:
    total: Counter[str] = Counter()
    for layer in layers:
        total.update(layer.stall_cycles)
    return total


def _layer(a: SavedLayer, b: SavedLayer) -> dict[str, Any]:
    figures = ("cycles", "macs", "energy", "utilization", "dram_bytes_read", "dram_bytes_written", "overflows")
    return {
        "name": a.name,
        "op": a.op,
        **{key: _pair(getattr(a, key), getattr(b, key)) for key in figures},
        "stall_cycles": _pair(sum(a.stall_cycles.values()), sum(b.stall_cycles.values())),
        "stalls": _pairs(a.stall_cycles, b.stall_cycles),
    }


def _configuration(a: SavedReport, b: SavedReport) -> list[dict[str, Any]]:
    """Keys whose values differ; a key that one report has not is null there.

    Bits of a layer count where both reports have the layer. A width that follows the hardware's on both sides is said
    with the hardware.
    """
    own, others = a.configuration(), b.configuration()
    widths = tuple(one.get("hardware.accumulator.width_bits") for one in (own, others))
    found = []
    for key, x, y in _join(own, others):
        of_a_layer = key.startswith("layers.")
        follows = key.endswith(".accumulator_width_bits") and (x, y) == widths
        if x != y and not (of_a_layer and (x is None or y is None or follows)):
            found.append({"key": key, "a": x, "b": y})
    return found


def _network(report: SavedReport) -> list[tuple[str, str, tuple[str, ...], float]]:
    """What makes two reports ones of the same network: layers, their nodes, MACs of an image."""
    return [(layer.name, layer.op, tuple(layer.nodes), layer.macs / report.batch) for layer in report.layers]


def _notes(a: SavedReport, b: SavedReport, matched: int, related: bool) -> list[str]:
    notes = []
    if not related:
        notes.append(
            f"the networks are different: {matched} layers of {len(a.layers)} and {len(b.layers)} have the same name "
            "and operation; only totals are compared"
        )
    elif _network(a) != _network(b):
        notes.append("the networks are not the same: layers, their nodes or their MACs differ")
    if a.batch != b.batch:
        notes.append(f"batches of {a.batch} and {b.batch}: figures are of one batch, but for those per image")
    if a.totals.energy_unit != b.totals.energy_unit:
        notes.append(
            f"energies are in {a.totals.energy_unit} and {b.totals.energy_unit}: their differences are left out"
        )
    elif a.totals.energy_table != b.totals.energy_table:
        notes.append(
            f"energies by two tables, {a.totals.energy_table} and {b.totals.energy_table}: part of their difference is "
            "the tables'"
        )
    for side, report in (("A", a), ("B", b)):
        if report.bit_exact is False:
            notes.append(f"{side} is not bit-exact: {report.mismatch}")
        elif report.bit_exact is None:
            notes.append(f"{side} was compared with no reference")
    return notes


def _outputs(a: SavedReport, b: SavedReport) -> str | None:
    """Whether the same images gave the same codes, as far as reports can tell."""
    if a.outputs is None or b.outputs is None or len(a.outputs) != len(b.outputs):
        return None
    return "equal" if a.outputs == b.outputs else "different"


def _judge(totals: Mapping[str, Pair], key: str, limit: float) -> dict[str, Any]:
    pair = totals[key]
    a, change = pair["a"], pair["change"]
    if a is None or change is None:
        raise InputError(f"--fail-on {key}={limit:g}: {key} is in different units in the two reports; leave it out")
    return {"key": key, "limit_percent": limit, "exceeded": 100 * change > limit * a}


# Text ---------------------------------------------------------------------------------------------------------

NAMES = {  # of totals in a terminal
    "cycles_per_image": "cycles per image",
    "latency_seconds": "latency (us)",
    "images_per_second": "images/s",
    "energy_per_image": "energy per image",
    "utilization": "utilization (%)",
    "tops": "TOPS",
    "macs": "MACs",
    "dram_bytes_read": "DRAM bytes read",
    "dram_bytes_written": "DRAM bytes written",
    "stall_cycles": "stall cycles",
    "accuracy": "accuracy (%)",
}
SCALES = {"latency_seconds": 1e6, "utilization": 100, "accuracy": 100}


def show_run_difference(document: dict[str, Any]) -> str:
    """What `accelsim diff` prints."""
    lines = []
    for side in ("a", "b"):
        one = document[side]
        lines.append(f"{side.upper()}  {_plain(one['file'])}: {_plain(one['workload'])}, batch {one['batch']}")
    lines += [f"- {_plain(note)}" for note in document["notes"]]
    lines += ["", *_show_configuration(document["configuration"])]
    same_batch = document["a"]["batch"] == document["b"]["batch"]
    totals = {
        key: _scaled(pair, SCALES.get(key, 1))
        for key, pair in document["totals"].items()
        if not (same_batch and key.endswith("_per_image")) and (pair["a"], pair["b"]) != (None, None)
    }
    lines += ["", *_show_pairs("totals", {NAMES.get(key, key.replace("_", " ")): p for key, p in totals.items()})]
    for title, key in (("stall cycles", "stall_cycles"), ("energy by operation", "energy_by_op")):
        changed = {_plain(name).replace("_waits_for_", " waits for "): p for name, p in _changed(document[key]).items()}
        if changed:
            lines += ["", *_show_pairs(title, changed)]
    lines += _show_layers(document)
    if document["outputs"] is not None:
        lines += ["", f"outputs: {document['outputs']}"]
    for one in document["limits"]:
        verdict = "EXCEEDED" if one["exceeded"] else "kept"
        change = _percent(document["totals"][one["key"]]) or "from 0"
        lines.append(f"limit {one['key']} +{one['limit_percent']:g} %: {verdict} ({change})")
    return "\n".join(lines)


def _show_configuration(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["configuration: equal"]
    cells = [[_plain(row["key"]), _value(row["a"]), _value(row["b"])] for row in rows]
    return table(["configuration", "A", "B"], cells)


def _show_pairs(title: str, pairs: Mapping[str, Pair]) -> list[str]:
    rows = [[name, _figure(p["a"]), _figure(p["b"]), _signed(p["change"]), _percent(p)] for name, p in pairs.items()]
    return table([title, "A", "B", "change", "%"], rows)


def _show_layers(document: dict[str, Any]) -> list[str]:
    rows, equal = [], 0
    shown = ("cycles", "energy", "stall_cycles", "utilization")
    for layer in document["layers"]:
        if all(pair["a"] == pair["b"] for pair in layer.values() if isinstance(pair, dict) and "change" in pair):
            equal += 1
            continue
        cells = [_plain(layer["name"]), _plain(layer["op"])]
        for key in shown:
            pair = _scaled(layer[key], SCALES.get(key, 1))
            cells += [_figure(pair["a"]), _figure(pair["b"])]
            if key in ("cycles", "energy"):
                cells.append(_percent(pair))
        rows.append(cells)
    lines: list[str] = []
    if rows:
        header = ["layer", "op", "cycles A", "B", "%", "energy A", "B", "%", "stalls A", "B", "util % A", "B"]
        lines += ["", *table(header, rows, left=2)]
    if equal:
        lines += ["", f"{equal} layers without a difference"]
    for side in ("a", "b"):
        if names := document[f"only_in_{side}"]:
            lines += ["", f"only in {side.upper()}: {', '.join(map(_plain, names))}"]
    return lines


def _changed(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    return {name: pair for name, pair in pairs.items() if pair["a"] != pair["b"]}


def _scaled(pair: Pair, by: float) -> Pair:
    if by == 1:
        return pair
    return {key: v if v is None or key == "percent" else v * by for key, v in pair.items()}


def _figure(value: Number | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _signed(value: Number | None) -> str:
    return "-" if value is None else "0" if not value else ("+" if value > 0 else "") + _figure(value)


def _percent(pair: Pair) -> str:
    return "" if pair["percent"] is None else f"{pair['percent']:+.2f}" if pair["percent"] else "0"


def _value(value: Any) -> str:
    """A configured value as JSON writes it, and a dash where there is none."""
    text = "-" if value is None else json.dumps(value, ensure_ascii=False)
    return _plain(text if len(text) <= 60 else text[:57] + "...")


def _plain(text: str) -> str:
    """Names of a stranger's report, without what would steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
