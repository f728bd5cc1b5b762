"""A sweep as one HTML page that needs no network: scatter, front, table and the whole configuration of a point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelsim.explore.records import columns
from accelsim.report.html import html_file

if TYPE_CHECKING:
    from accelsim.explore.stored import Objective, Stored

MOST_POINTS = 20_000
"""More would take a browser seconds to draw."""


def sweep_page(stored: Stored, objectives: Sequence[Objective]) -> str:
    """The page, all of it in one string of HTML (`report.html`)."""
    return html_file("page", title=f"{stored.file.name}: sweep", data=page_data(stored, objectives))


def page_data(stored: Stored, objectives: Sequence[Objective]) -> dict[str, Any]:
    """What the page shows, column by column.

    Returns:
        name, title: of the sweep.
        units: of the energy tables.
        objectives: ``[direction, name]`` each, those that the page begins with.
        axes, figures: ``{name: one value a point}``; null where a point has none.
        points, statuses, reasons: one a point.
        common: configuration on which all measured points agree, key -> value.
        configuration: what they differ in, key -> one value a point.
    """
    axes, figures = columns(stored.rows)
    flat = [_flat(stored.inputs.get(row.key)) for row in stored.rows]
    measured = [one for one in flat if one]
    keys = list(dict.fromkeys(key for one in measured for key in one))
    common = {
        key: measured[0][key]
        for key in keys
        if key not in axes and all(key in one and one[key] == measured[0].get(key) for one in measured)
    }
    return {
        "name": stored.file.name,
        "title": stored.file.title,
        "units": stored.units(),
        "objectives": [[one.direction, one.name] for one in objectives],
        "points": [row.position for row in stored.rows],
        "statuses": [row.status for row in stored.rows],
        "reasons": [row.reason for row in stored.rows],
        "axes": {name: [_plain(row.setting.get(name)) for row in stored.rows] for name in axes},
        "figures": {name: [_plain(row.figures.get(name)) for row in stored.rows] for name in figures},
        "common": common,
        "configuration": {key: [one.get(key) for one in flat] for key in keys if key not in common and key not in axes},
    }


def _flat(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Dotted keys -> values; of the tables for energy and area, what names them and not their entries."""
    if inputs is None:
        return {}
    found: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inside in value.items():
                visit(f"{prefix}.{key}" if prefix else str(key), inside)
        else:
            found[prefix] = _plain(value)

    for key, value in inputs.items():
        if key in ("energy", "area"):
            value = {name: value[name] for name in ("name", "unit") if value and name in value}
        visit(key, value)
    return found


def _plain(value: Any) -> Any:
    """What JSON can say: no NaN, no infinity, and lists as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | dict):
        return ", ".join(map(str, value)) if value else None
    return value
