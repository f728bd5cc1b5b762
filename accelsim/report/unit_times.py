"""When units are at work and when they wait: what figures and the run's page draw of a timeline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from accelsim.isa import Unit
from accelsim.machine import Issued


def busy_cycles(issued: Iterable[Issued]) -> int:
    """Cycles in which at least one of these instructions is at work, issue and done included; overlaps count once."""
    busy, last = 0, -1
    for one in sorted(issued, key=lambda one: one.issue):
        busy += max(one.done - max(one.issue - 1, last), 0)
        last = max(last, one.done)
    return busy


def stall_spans(issued: Iterable[Issued]) -> dict[Unit, list[tuple[int, int]]]:
    """(first cycle, cycles) of one unit's stalls by the unit waited for; they end where the instruction issues."""
    spans: dict[Unit, list[tuple[int, int]]] = defaultdict(list)
    for one in issued:
        first = one.issue - sum(cycles for _, cycles in one.stalls)
        for source, cycles in one.stalls:
            spans[source].append((first, cycles))
            first += cycles
    return {unit: spans[unit] for unit in Unit if unit in spans}
