"""A sweep's points as a table for a terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accelsim.errors import optional
from accelsim.explore.records import column, columns, records
from accelsim.report.text import table

if TYPE_CHECKING:
    from accelsim.config.sweep import SweepFile
    from accelsim.explore.sweep import Row

FORMAT, VERSION = "accelsim-sweep", 1
MOST_SHOWN = 40
"""Rows a terminal is shown; files hold all."""


def show_sweep(file: SweepFile, rows: Sequence[Row]) -> str:
    """What `accelsim sweep` prints: the same for the same sweep, whatever was measured when and by whom."""
    counts = Counter(row.status for row in rows)
    said = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
    axes, figures = columns(rows)
    shown = [name for name in figures if not name.startswith(("energy.", "cycles."))]
    lines = [f"{file.name}: {file.title}" if file.title else file.name, f"{len(rows):,} points: {said}", ""]
    good = [row for row in rows if row.status == "done"]
    if not good:
        return "\n".join(lines + _reasons(rows))
    body = [
        [str(row.position), *(_cell(row.setting.get(key)) for key in axes), *(_cell(row.figures.get(n)) for n in shown)]
        for row in good[:MOST_SHOWN]
    ]
    lines += table(["point", *(_short(column(key)) for key in axes), *shown], body)
    if len(good) > MOST_SHOWN:
        lines.append(f"... and {len(good) - MOST_SHOWN:,} more; --csv FILE writes all")
    return "\n".join([*lines, *_reasons(rows)])


def _reasons(rows: Sequence[Row]) -> list[str]:
    """The commonest reasons for points without figures, each with one point that has it."""
    reasons = Counter(f"{row.status}: {row.reason}" for row in rows if row.reason is not None)
    first = {f"{row.status}: {row.reason}": row.position for row in reversed(rows) if row.reason is not None}
    return ["", *(f"{count:,} {reason} (point {first[reason]})" for reason, count in reasons.most_common(5))] * bool(
        reasons
    )


def _short(key: str) -> str:
    """The end of a key, which tells enough in a narrow column."""
    return ".".join(key.split(".")[-2:])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def sweep_csv(rows: Sequence[Row]) -> str:
    """`records` with a header; empty cells where there is nothing."""
    stream = io.StringIO()
    flat = records(rows)
    writer = csv.DictWriter(stream, list(flat[0]) if flat else ["point"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def sweep_parquet(rows: Sequence[Row]) -> bytes:
    """`records` as an Apache Parquet file; a column of mixed types becomes text."""
    pyarrow = optional("pyarrow", "Parquet files", "sweep")
    parquet = optional("pyarrow.parquet", "Parquet files", "sweep")
    flat = records(rows)
    arrays = {}
    for name in flat[0] if flat else ["point"]:
        values = [one[name] for one in flat]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        elif len(kinds) > 1:
            values = [None if value is None else str(value) for value in values]
        arrays[name] = pyarrow.array(values)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(arrays), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def sweep_json(file: SweepFile, rows: Sequence[Row]) -> dict[str, Any]:
    """The sweep as one object (docs/formats.md)."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": file.name,
        "title": file.title,
        "sweep": file.model_dump(mode="json", by_alias=True),
        "points": [
            {
                "point": row.position,
                "status": row.status,
                "reason": row.reason,
                "setting": row.setting,
                "figures": row.figures,
                "hash": row.key,
            }
            for row in rows
        ],
    }
