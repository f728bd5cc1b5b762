"""A sweep's points as flat records: what CSV, Parquet and data frames hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.explore.sweep import Row

TABLE_COLUMN = "energy_table"
"""The column of an axis ``energy``, whose own name is that of the figure."""


def column(key: str) -> str:
    """The column of an axis.

    >>> column("hardware.array.rows"), column("energy")
    ('hardware.array.rows', 'energy_table')
    """
    return TABLE_COLUMN if key == "energy" else key


def columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Axes and figures that occur, in the order in which they first do."""
    axes = dict.fromkeys(key for row in rows for key in row.setting)
    figures = dict.fromkeys(name for row in rows for name in row.figures)
    return list(axes), list(figures)


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One flat record a point: position, status, reason, axes, figures, hash; None where a point has no such figure."""
    axes, figures = columns(rows)
    return [
        {
            "point": row.position,
            "status": row.status,
            "reason": row.reason,
            **{column(key): row.setting.get(key) for key in axes},
            **{name: row.figures.get(name) for name in figures},
            "hash": row.key,
        }
        for row in rows
    ]
