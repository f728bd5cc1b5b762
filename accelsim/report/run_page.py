"""One run as one HTML page that needs no network: what `accelsim run --html` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from accelsim.energy import PLACES
from accelsim.ir import IntegerGraph, Mac, MatMul, bits_for, width_bounds
from accelsim.isa import Compute, Unit, to_text
from accelsim.machine import Issued
from accelsim.pipeline import Outcome
from accelsim.report.document import describe_hardware
from accelsim.report.drawing import PLACE_COLOURS, colour
from accelsim.report.html import html_file
from accelsim.report.unit_times import busy_cycles
from accelsim.timing import row_macs

Report = Mapping[str, Any]

MOST_TEXTS = 200_000
"""Instructions whose fields the page holds; of more it shows cycles, units and layers alone."""


def html_report(
    outcome: Outcome, graph: IntegerGraph, report: Report, command: str, versions: Mapping[str, str]
) -> str:
    """The page, all of it in one string of HTML (`report.html`); the same run gives the same bytes.

    Args:
        outcome: of `run_checked`, whose first batch ran with the clock.
        graph: the one that ran.
        report: of `build_report`.
        command: what the user typed, for the page to show.
        versions: of what made the numbers, by name.
    """
    return html_file(
        "run",
        title=f"{report['workload']} on {report['hardware']['name']}: run",
        data=run_data(outcome, graph, report, command, versions),
        packed=timeline_data(outcome),
    )


def run_data(
    outcome: Outcome, graph: IntegerGraph, report: Report, command: str, versions: Mapping[str, str]
) -> dict[str, Any]:
    """What the page shows, but for single instructions.

    Returns:
        report: as `--json` writes it, without the outputs.
        machine: it in one line.
        command, versions: as given.
        places: for each place of `PLACES` its `colour` and `ops`.
        peak_tops: of the machine.
        units: for each unit the number of its instructions.
        layers: for each label its `colour`, `active_cycles`, in which any unit works on it, `first` and `last` cycle of
            them (null without instructions), `activity` (of `pe_activity`), and `sums` (of `_limits`; null without
            products).
    """
    program, timeline = outcome.program, outcome.timed.timeline
    by_label: dict[int, list[Issued]] = {}
    units = Counter(issued.unit for issued in timeline)
    for issued in timeline:
        by_label.setdefault(issued.label, []).append(issued)
    activity = pe_activity(outcome)
    layers = []
    for label, layer in enumerate(report["layers"]):
        mine = by_label.get(label, [])
        layers.append(
            {
                "colour": colour(label),
                "active_cycles": busy_cycles(mine),
                "first": min((issued.issue for issued in mine), default=None),
                "last": max((issued.done for issued in mine), default=None),
                "activity": activity.get(label, []),
                "sums": _limits(outcome, graph, layer),
            }
        )
    return {
        "report": {key: value for key, value in report.items() if key != "outputs"},
        "machine": describe_hardware(program.hardware),
        "command": command,
        "versions": dict(versions),
        "places": {place: {"colour": PLACE_COLOURS[place], "ops": list(ops)} for place, ops in PLACES.items()},
        "peak_tops": program.hardware.peak_tops,
        "units": {unit.name: units[unit] for unit in Unit},
        "layers": layers,
    }


def pe_activity(outcome: Outcome) -> dict[int, list[dict[str, Any]]]:
    """Products of every PE by layer label, as few numbers: what makes a program of any length a page of any array.

    Returns:
        For each label with products, groups that add up. Of a group, every PE(i, j) with j < `lanes`, or PE(i, i) alone
        where `diagonal`, does as many products as `rows` says of row i: [rows, products] each, equal neighbours
        taken together, from row 0 on.
    """
    rows = outcome.program.hardware.array.rows
    computes = Counter(
        (instruction.label, _shape_of(instruction))
        for instruction in outcome.program.instructions
        if isinstance(instruction, Compute)
    )
    examples = {_shape_of(one): one for one in outcome.program.instructions if isinstance(one, Compute)}
    sums: dict[tuple[int, int, int], Any] = {}
    for (label, shape), times in computes.items():
        one = examples[shape]
        key = (label, one.lanes, one.diagonal)
        sums[key] = sums.get(key, 0) + times * row_macs(one, rows)
    found: dict[int, list[dict[str, Any]]] = {}
    for (label, lanes, diagonal), products in sorted(sums.items()):
        runs = [[len(list(run)), value] for value, run in groupby(products.tolist())]
        found.setdefault(label, []).append({"lanes": lanes, "diagonal": bool(diagonal), "rows": runs})
    return found


def _shape_of(compute: Compute) -> tuple[int, ...]:
    """What `row_macs` and the columns in use depend on."""
    c = compute
    return (c.lanes, c.diagonal, c.output_stationary, c.words, c.r_count * c.s_count, c.run_bytes)


def _limits(outcome: Outcome, graph: IntegerGraph, layer: Report) -> dict[str, int | None] | None:
    """Bits of a layer's sums: in the memory, in the array, as seen, and those that suffice whatever its input."""
    node = graph.by_name[layer["name"]]
    if not isinstance(node, Mac | MatMul):
        return None
    arithmetic = outcome.program.hardware.arithmetic().at_width(node.accumulator_width_bits)
    bounds = width_bounds(graph, node)
    seen = None if layer["psum_min"] is None else bits_for(layer["psum_min"], layer["psum_max"])
    return {
        "width_bits": arithmetic.width_bits,
        "psum_bits": arithmetic.psum_bits,
        "seen_bits": seen,
        "l1_bits": bounds.l1,
        "type_bits": bounds.type,
    }


def timeline_data(outcome: Outcome) -> dict[str, Any]:
    """Every instruction of the timed batch, unit by unit in the order of issue, in columns that deflate well.

    Returns:
        For each unit: `index` (place in the program) and `issue`, each as differences from the one before; `cycles`
        from issue to done, both included; `label`; `stalls`, [position in these columns, unit waited for, cycles] one
        after the other; `text`, the instructions as assembler text, one a line, null where the program has more than
        `MOST_TEXTS`.
    """
    program = outcome.program
    texts = len(program.instructions) <= MOST_TEXTS
    found: dict[str, Any] = {}
    for unit in Unit:
        mine = [issued for issued in outcome.timed.timeline if issued.unit is unit]
        found[unit.name] = {
            "index": _differences([issued.index for issued in mine]),
            "issue": _differences([issued.issue for issued in mine]),
            "cycles": [issued.done - issued.issue + 1 for issued in mine],
            "label": [issued.label for issued in mine],
            "stalls": [
                number
                for position, issued in enumerate(mine)
                for source, cycles in issued.stalls
                for number in (position, int(source), cycles)
            ],
            "text": "\n".join(to_text(program.instructions[issued.index]) for issued in mine) if texts else None,
        }
    return found


def _differences(values: list[int]) -> list[int]:
    return [value - before for before, value in zip([0, *values], values, strict=False)]
