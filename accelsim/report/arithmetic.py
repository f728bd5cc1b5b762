"""A product in three arithmetics as text for a terminal."""

from __future__ import annotations

import textwrap

from accelsim.config import Hardware
from accelsim.energy import EnergyTable, by_place
from accelsim.explore.arithmetic import Comparison
from accelsim.report.text import table as columns


def show_comparison(comparison: Comparison, table: EnergyTable) -> str:
    """What `accelsim arithmetic` prints: cycles, traffic, energy and error of each, then energy by place."""
    m, k, n = comparison.shape
    base = comparison.trials["int8xint8"]
    header = ["arithmetic", "cycles", "ratio", "util %", "DRAM B", f"energy {table.unit}", "ratio", "error", "SQNR dB"]
    rows = []
    for arithmetic, trial in comparison.trials.items():
        error = comparison.error(trial.result)
        ratio = float(trial.energy.energy / base.energy.energy) if base.energy.energy else float("nan")
        rows.append(
            [
                *(
                    arithmetic,
                    f"{trial.cycles:,}",
                    f"{trial.cycles / base.cycles:.2f}",
                    f"{100 * trial.utilization:.1f}",
                ),
                *(f"{trial.dram_bytes:,}", f"{float(trial.energy.energy):,.1f}", f"{ratio:.2f}"),
                *(f"{error['relative_rms']:.3g}", f"{error['sqnr_db']:.1f}"),
            ]
        )
        if trial.sums is not None:
            error = comparison.error(trial.sums)
            blank = [""] * 6
            rows.append(["  before requantisation", *blank, f"{error['relative_rms']:.3g}", f"{error['sqnr_db']:.1f}"])
    places = {name: by_place(trial.energy.by_op) for name, trial in comparison.trials.items()}
    shown = [place for place in next(iter(places.values())) if any(figures[place] for figures in places.values())]
    lines = [
        f"({m:,} x {k:,}) times ({k:,} x {n:,}), {m * k * n:,} MACs",
        *(f"{name}: {_machine(trial.hardware)}" for name, trial in comparison.trials.items()),
        "",
        *columns(header, rows),
        "",
        "error: root mean square against float64, relative to the product's",
    ]
    if base.overflows:
        lines.append(
            f"int8xint8: {base.overflows:,} additions left the accumulator's range; nothing is said of its sums"
        )
    lines += [
        "",
        *columns(
            [f"energy, {table.unit}", *places],
            [[place, *(f"{float(figures[place]):,.1f}" for figures in places.values())] for place in shown],
        ),
        "",
        *textwrap.wrap(table.title, 118),
    ]
    return "\n".join(lines)


def _machine(hardware: Hardware) -> str:
    array = hardware.array
    return (
        f"{array.rows}x{array.columns} {array.dataflow}, multiply-add of {array.mac_latency_cycles} cycles "
        f"(adding in {hardware.add_latency_cycles}) every {array.mac_interval_cycles}, {hardware.clock_mhz:g} MHz"
    )
