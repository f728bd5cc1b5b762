"""Figures of a run: energy, utilization, the four units over time, and partial sums against the accumulator.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody else: pyplot is never imported, and the
settings below hold only while a figure is drawn. `write_figures` writes them all, byte for byte the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelsim.config import Hardware
from accelsim.config.hardware import hardware_from_dict
from accelsim.energy import PLACES, EnergyReport
from accelsim.errors import InputError, did_you_mean
from accelsim.files import write_whole
from accelsim.ir import IntegerGraph, Mac, MatMul, WidthBounds, bits_for, width_bounds
from accelsim.isa import Unit
from accelsim.machine import Issued
from accelsim.numerics import Arithmetic, IntFormat
from accelsim.pipeline import Outcome
from accelsim.report.document import build_report, describe_hardware
from accelsim.report.drawing import (
    ALARM,
    FORMATS,
    INK,
    PLACE_COLOURS,
    SOFT,
    colour,
    digits,
    linear_axis,
    multiple,
    note,
    patch,
    power,
    quantity,
    render,
    share,
    sheet,
    short,
    style,
    styled,
    unit_name,
)
from accelsim.report.unit_times import busy_cycles, stall_spans

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = dict[str, Any]

# Stalls are grey, so that only work has a colour: told apart by lightness where narrow, by hatch where wide.
STALLS = {  # face, hatch, its colour
    Unit.LOAD: ("#EDEDED", "/////", "#8C8C8C"),
    Unit.COMPUTE: ("#C8C8C8", "\\\\\\\\\\", "white"),
    Unit.POST: ("#999999", "-----", "white"),
    Unit.STORE: ("#666666", "xxxxx", "white"),
}


# Writing ------------------------------------------------------------------------------------------------------


def write_figures(
    outcome: Outcome,
    graph: IntegerGraph,
    energy: EnergyReport,
    folder: Path,
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Draw every figure and write it to `folder`, which is made where it is missing.

    Args:
        outcome: of `run_checked`, whose first batch ran with the clock.
        graph: the one that ran.
        energy: of `price`.
        folder: gets energy, utilization, timeline and partial_sums, each in every format.
        formats: of `FORMATS`.
    Returns:
        The files, figure by figure.
    Raises:
        InputError: matplotlib is not installed, a format is unknown, or a file cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            hint = did_you_mean(name, FORMATS) or f"; use {', '.join(FORMATS)}"
            raise InputError(f"{name!r} is not a format of figures{hint}")
    with style():  # matplotlib is there
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make this folder: {error.strerror}; name another") from error
    report = build_report(outcome, graph, energy)
    figures = {
        "energy": energy_figure(report),
        "utilization": utilization_figure(report),
        "timeline": timeline_figure(outcome),
        "partial_sums": partial_sum_figure(report, graph),
    }
    files = {folder / f"{name}.{kind}": render(figure, kind) for name, figure in figures.items() for kind in formats}
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


# Energy -------------------------------------------------------------------------------------------------------


@styled
def energy_figure(report: Report) -> Figure:
    """Energy of each layer by place, with DRAM and without, and of each operation type on a logarithmic axis.

    Args:
        report: of `build_report`, or read back from its JSON.
    """
    layers, unit = report["layers"], report["totals"]["energy_unit"]
    spent = {
        place: [
            sum(layer["energy_by_op"][op]["energy"] for op in ops if op in layer["energy_by_op"]) for layer in layers
        ]
        for place, ops in PLACES.items()
    }
    places = [place for place in PLACES if any(spent[place])]
    inside = [place for place in places if place != "DRAM"]
    panels = [("all places", places), ("without DRAM", inside)] if 0 < len(inside) < len(places) else [("", places)]
    ops = [(op, place) for place in places for op in PLACES[place] if _energy_of(report, op)]
    rows = max(len(panels) * (len(layers) + 2.5), 0.75 * len(ops) + 3)
    total = quantity(report["totals"]["energy"], unit)
    title = f"Energy by layer and operation: {total} a batch"
    figure = sheet(9.6, 1.6 + 0.24 * rows, title, _what_ran(report), _priced_by(report))
    grid = figure.add_gridspec(len(panels), 2, width_ratios=(1.45, 1))
    for row, (title, shown) in enumerate(panels):
        axes = figure.add_subplot(grid[row, 0])
        axes.set_title(title)
        _energy_bars(axes, layers, {place: spent[place] for place in shown}, unit)
    _energy_dots(figure.add_subplot(grid[:, 1]), report, ops)
    handles = [patch(PLACE_COLOURS[place], place) for place in places]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return figure


def _priced_by(report: Report) -> str:
    """The table, and what it leaves out: whole places where it can."""
    free = {op for op, entry in report["energy_by_op"].items() if not entry["energy"]}
    names: list[str] = []
    for place, ops in PLACES.items():
        here = [op for op in ops if op in report["energy_by_op"]]
        names += [place] if here and free.issuperset(here) else [op for op in here if op in free]
    source = f"energy table {report['totals']['energy_table']}"
    return f"{source}; counted as zero: {', '.join(names)}" if names else source


def _energy_bars(axes: Axes, layers: list[Report], spent: dict[str, list[float]], unit: str) -> None:
    """Stacked bars in the table's unit; the axis shows a multiple that is easy to read."""
    left = np.zeros(len(layers))
    for place, values in spent.items():
        axes.barh(range(len(layers)), values, left=left, height=0.72, color=PLACE_COLOURS[place], label=place)
        left += values
    factor, name = multiple(left.max(initial=0), unit)
    for row, value in enumerate(left):
        note(axes, value, row, f"{digits(value / factor)}  ({share(value, left.sum())})")
    _layer_axis(axes, layers)
    linear_axis(axes, left.max(initial=0), 1.25)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / factor:g}")
    axes.set_xlabel(f"energy ({name})")


def _energy_dots(axes: Axes, report: Report, ops: list[tuple[str, str]]) -> None:
    values = [_energy_of(report, op) for op, _ in ops]
    total = report["totals"]["energy"]
    axes.set_title("by operation")
    axes.set_yticks(range(len(ops)), [op for op, _ in ops])
    axes.set_ylim(len(ops) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="y")
    axes.set_xlabel(f"energy ({unit_name(report['totals']['energy_unit'])}), logarithmic")
    if not values:
        return
    axes.set_xscale("log")
    decade = np.floor(np.log10(min(values)))
    axes.set_xlim(10 ** (decade - 0.15), max(10 ** (decade + 1.15), 2.5 * max(values)))
    axes.xaxis.set_major_formatter(lambda value, _: power(10, round(np.log10(value))))
    axes.minorticks_off()
    axes.scatter(values, range(len(ops)), s=34, c=[PLACE_COLOURS[place] for _, place in ops], zorder=3, label="ops")
    for row, value in enumerate(values):
        axes.text(1.02, row, share(value, total), transform=axes.get_yaxis_transform(), va="center", color=SOFT)


def _energy_of(report: Report, op: str) -> float:
    entry = report["energy_by_op"].get(op)
    return entry["energy"] if entry else 0


# Utilization --------------------------------------------------------------------------------------------------


@styled
def utilization_figure(report: Report) -> Figure:
    """Cycles of each layer, and its share of products among PE-cycles.

    Bars count the cycles in which the array works on the layer, from its first weight or word to its last product.
    Diamonds count those from the layer before being done to this one being done; they are left out where layers
    overlap in time (the array works on one for longer than that), since such cycles belong to several layers.

    Args:
        report: of `build_report`, or read back from its JSON.
    """
    layers, totals = report["layers"], report["totals"]
    array = report["hardware"]["array"]
    pes = array["rows"] * array["columns"]
    spans = [layer["array_span_cycles"] for layer in layers]
    until_done = [layer["cycles"] for layer in layers]
    overlap = any(span > took for span, took in zip(spans, until_done, strict=True))
    title = (
        f"Cycles and utilization by layer: {totals['cycles']:,} cycles a batch, "
        f"{100 * totals['utilization']:.1f} % of {pes} PEs used"
    )
    note = "bars: while the array works on the layer; "
    note += (
        "layers overlap in time, so the cycles in between belong to none"
        if overlap
        else "diamonds and (...): from the layer before being done to this one being done, which adds up to the total"
    )
    figure = sheet(9.6, 1.8 + 0.3 * max(len(layers), 3), title, _what_ran(report), note)
    left, right = figure.subplots(1, 2, sharey=True)
    colours = [colour(label) for label in range(len(layers))]
    used = [100 * layer["macs"] / (span * pes) if span else 0.0 for layer, span in zip(layers, spans, strict=True)]
    used_until_done = [100 * layer["utilization"] for layer in layers]
    left.barh(range(len(layers)), spans, height=0.72, color=colours, label="cycles")
    right.barh(range(len(layers)), used, height=0.72, color=colours, label="utilization")
    if not overlap:
        left.plot(until_done, range(len(layers)), "D", mfc="white", mec=INK, ms=5, label="until done")
        right.plot(used_until_done, range(len(layers)), "D", mfc="white", mec=INK, ms=5, label="until done")
    for row in range(len(layers)):
        texts = [f"{spans[row]:,}", f"{used[row]:.1f} %"]
        if not overlap:
            texts = [f"{texts[0]}  ({until_done[row]:,})", f"{texts[1]}  ({used_until_done[row]:.1f} %)"]
        for axes, text in zip((left, right), texts, strict=True):
            axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", size=7.5)
    mean = right.axvline(100 * totals["utilization"], color=INK, lw=0.8, ls=(0, (4, 3)), label="whole run")
    _layer_axis(left, layers)
    linear_axis(left, max(*spans, *([] if overlap else until_done), 1), 1.04)
    left.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    left.set_xlabel("cycles")
    right.tick_params(axis="y", length=0, labelleft=False)
    linear_axis(right, 100, 1)
    right.set_xticks(range(0, 101, 20))
    right.set_xlabel("utilization: products / (cycles · PEs) (%)")
    handles = [patch(SOFT, "while the array works on it"), *(line for line in left.lines), mean]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


# Timeline -----------------------------------------------------------------------------------------------------


@styled
def timeline_figure(outcome: Outcome) -> Figure:
    """What each unit did in every cycle of the first batch: its instructions by layer, and what it waited for.

    An instruction's bar runs from its issue to its done, both inclusive; a COMPUTE is covered by the next from its
    issue on, while its last products still drain. The strip below a unit holds the stalls.
    """
    timeline, layers = outcome.timed.timeline, [layer.name for layer in outcome.program.layers]
    if not timeline or outcome.timed.cycles is None:
        raise ValueError("this run had no clock, so there is no timeline to draw")
    total = outcome.timed.cycles
    program = outcome.program
    ran = f"{program.name} on {describe_hardware(program.hardware)}, batch {program.batch}"
    title = f"The four units over time: {len(timeline):,} instructions in {total:,} cycles"
    note = "bars: instructions from issue to done; strips below: stalls, which in COMPUTE may overlap its own draining"
    figure = sheet(11, 4.4, title, ran, note)
    axes = figure.subplots()
    _layer_ribbon(axes, timeline, layers, total)
    many = len(timeline) > 5000  # a picture inside the SVG then, instead of tens of thousands of shapes
    edge = {"edgecolor": "white", "linewidth": 0.5} if len(timeline) <= 150 else {"linewidth": 0}
    for unit in Unit:
        mine = [issued for issued in timeline if issued.unit is unit]
        for label in sorted({issued.label for issued in mine}):
            spans = [(issued.issue, issued.done + 1 - issued.issue) for issued in mine if issued.label == label]
            busy = axes.broken_barh(spans, (unit - 0.36, 0.5), facecolor=colour(label), rasterized=many, **edge)
            busy.set_gid(f"busy {unit.name} {layers[label]}")
        for source, spans in stall_spans(mine).items():
            face, hatch, ink = STALLS[source]
            look: dict[str, Any] = {"facecolor": face, "edgecolor": ink, "hatch": hatch, "linewidth": 0}
            waits = axes.broken_barh(spans, (unit + 0.17, 0.2), rasterized=many, **look)
            waits.set_gid(f"stall {unit.name} {source.name}")
        works, stalled = busy_cycles(mine), sum(n for issued in mine for _, n in issued.stalls)
        text = f"busy {share(works, total)}\nstalled {share(stalled, total)}"
        axes.text(1.008, unit, text, transform=axes.get_yaxis_transform(), va="center", color=INK, linespacing=1.35)
    axes.set_yticks([-1, *Unit], ["array at", *(unit.name for unit in Unit)])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(Unit) - 0.5, -1.5)
    axes.set_xlim(0, total)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("cycle")
    causes = [unit for unit in Unit if any(source is unit for issued in timeline for source, _ in issued.stalls)]
    handles = [patch(colour(label), name) for label, name in enumerate(layers[:12])]
    if len(layers) > 12:
        handles = []  # the ribbon names them in order
    handles += [patch(STALLS[unit][0], f"waits for {unit.name}", *STALLS[unit][1:]) for unit in causes]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 9) or 1)
    return figure


def _layer_ribbon(axes: Axes, timeline: list[Issued], layers: list[str], total: int) -> None:
    """The layer whose COMPUTEs the array is at, until the next layer's first issues; named where there is room."""
    computes = [issued for issued in timeline if issued.unit is Unit.COMPUTE]
    runs = [next(run) for _, run in groupby(computes, key=lambda issued: issued.label)]
    edges = [0, *(run.issue for run in runs[1:]), total]
    for run, first, end in zip(runs, edges, edges[1:], strict=False):
        name, took = layers[run.label], end - first
        strip = axes.broken_barh(
            [(first, took)], (-1.25, 0.5), facecolor=colour(run.label), edgecolor="white", linewidth=0.5
        )
        strip.set_gid(f"layer {name}")
        if took > 0.0065 * (len(short(name)) + 1) * total:
            axes.text(first + took / 2, -1, short(name), ha="center", va="center", color="white", weight="bold")


# Partial sums -------------------------------------------------------------------------------------------------


@styled
def partial_sum_figure(report: Report, graph: IntegerGraph) -> Figure:
    """Extremes of each layer's partial sums against the accumulator, and how many bits they and their bounds need.

    Args:
        report: of `build_report`, or read back from its JSON.
        graph: the one that ran, for the bounds.
    """
    hardware = hardware_from_dict(report["hardware"], "report")
    found = [(label, layer, graph.by_name[layer["name"]]) for label, layer in enumerate(report["layers"])]
    rows = [(label, layer, node) for label, layer, node in found if isinstance(node, Mac | MatMul)]
    when = "at every add" if hardware.accumulator.saturate_at == "every_add" else "at the end of the sum"
    verb = "saturating" if hardware.accumulator.overflow == "saturate" else "wrapping"
    zero, bias = report["zero_points"], "PPU" if report["bias_at"] == "ppu" else "accumulator"
    title = f"Partial sums by layer: zero points {zero}, {verb} {when}, bias in the {bias}"
    notes = ["sums are exact results at the adder, before fitting"]
    if any(layer["overflows"] for _, layer, _ in rows):
        notes.append("where one overflowed, a wider accumulator would see another range")
    if any(layer["psum_min"] is None for _, layer, _ in rows):
        notes.append("a range that is missing was not watched (--telemetry)")
    figure = sheet(9.6, 2.1 + 0.36 * max(len(rows), 3), title, _what_ran(report), "; ".join(notes))
    if not rows:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no layer of this network adds products", ha="center", va="center")
        return figure
    values, widths = figure.subplots(1, 2, sharey=True)
    top = 0
    for row, (label, layer, node) in enumerate(rows):
        arithmetic = hardware.arithmetic().at_width(node.accumulator_width_bits)
        bounds = width_bounds(graph, node)
        top = max(top, arithmetic.width_bits, bounds.type)
        _range_row(values, row, layer, arithmetic, colour(label))
        _width_row(widths, row, layer, arithmetic, bounds, colour(label))
    _layer_axis(values, [layer for _, layer, _ in rows])
    widths.tick_params(axis="y", length=0, labelleft=False)
    _signed_log_axis(values, max(hardware.accumulator.width_bits, 10))
    values.set_xlabel("partial sum (linear within ±2⁷, logarithmic beyond)")
    values.axvline(0, color=SOFT, lw=0.6, zorder=0)
    widths.set_xlim(6, top + 1.5)
    widths.set_xticks(range(8, top + 2, 4))
    widths.grid(True, axis="x")
    widths.set_xlabel("width (bits of two's complement)")
    widths.text(1.02, 1.02, "overflows", transform=widths.transAxes, va="bottom", color=SOFT)
    handles = _partial_sum_legend(any(_narrow(hardware, node) for *_, node in rows))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _range_row(axes: Axes, row: int, layer: Report, arithmetic: Arithmetic, colour: str) -> None:
    low, high = layer["psum_min"], layer["psum_max"]
    if low is not None:
        axes.barh(row, high - low, left=low, height=0.5, color=colour, label=f"range {layer['name']}")
    for bits, look in ((arithmetic.width_bits, "-"), (arithmetic.psum_bits, ":")):
        if look == "-" or bits < arithmetic.width_bits:
            for limit in IntFormat(bits).limits:
                axes.plot(
                    [limit, limit], [row - 0.42, row + 0.42], look, color=INK, lw=1.6, gid=f"limit {layer['name']}"
                )


def _width_row(axes: Axes, row: int, layer: Report, arithmetic: Arithmetic, bounds: WidthBounds, colour: str) -> None:
    known = [bounds.l1, bounds.type]
    if layer["psum_min"] is not None:
        known.append(bits_for(layer["psum_min"], layer["psum_max"]))
        axes.plot(known[-1], row, "o", color=colour, ms=8, gid=f"observed {layer['name']}")
    axes.plot([min(known), max(known)], [row, row], color=colour, lw=1, zorder=1)
    axes.plot(bounds.l1, row, "D", mfc="white", mec=INK, ms=5, gid=f"l1 {layer['name']}")
    axes.plot(bounds.type, row, "s", mfc="white", mec=INK, ms=5, gid=f"type {layer['name']}")
    for bits, look in ((arithmetic.width_bits, "-"), (arithmetic.psum_bits, ":")):
        if look == "-" or bits < arithmetic.width_bits:
            axes.plot([bits, bits], [row - 0.42, row + 0.42], look, color=INK, lw=1.6, gid=f"width {layer['name']}")
    count = layer["overflows"]
    text = "not watched" if count is None else f"{count:,}"
    weight, ink = ("bold", ALARM) if count else ("normal", SOFT)
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", color=ink, weight=weight)


def _narrow(hardware: Hardware, node: Mac | MatMul) -> bool:
    arithmetic = hardware.arithmetic().at_width(node.accumulator_width_bits)
    return arithmetic.psum_bits < arithmetic.width_bits


def _partial_sum_legend(narrow: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", ls="", color=SOFT, ms=8, label="observed"),
        Line2D([], [], marker="D", ls="", mfc="white", mec=INK, ms=5, label="bound by the weights' l1 norm"),
        Line2D([], [], marker="s", ls="", mfc="white", mec=INK, ms=5, label="bound by types and K"),
        Line2D([], [], color=INK, lw=1.6, label="accumulator"),
    ]
    if narrow:
        handles.append(Line2D([], [], color=INK, lw=1.6, ls=":", label="partial sum in the array"))
    return handles


def _signed_log_axis(axes: Axes, bits: int) -> None:
    """Ticks are the limits of so many bits: ±2⁷, ±2¹⁵, ..."""
    powers = range(7, bits, 4 if bits <= 20 else 8)
    axes.set_xscale("symlog", base=2, linthresh=2.0**7, linscale=1.5)
    axes.set_xticks([*(-(2.0**p) for p in reversed(powers)), 0, *(2.0**p for p in powers)])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(
        lambda value, _: "0" if not value else ("−" if value < 0 else "") + power(2, round(np.log2(abs(value))))
    )
    axes.set_xlim(-(2.0 ** (bits + 0.3)), 2.0 ** (bits + 0.3))


# Common -------------------------------------------------------------------------------------------------------


def _what_ran(report: Report) -> str:
    hardware = hardware_from_dict(report["hardware"], "report")
    return f"{report['workload']} on {describe_hardware(hardware)}, batch {report['batch']}"


def _layer_axis(axes: Axes, layers: list[Report]) -> None:
    axes.set_yticks(range(len(layers)), [short(layer["name"]) for layer in layers])
    room = max(3 - len(layers), 0) / 2  # a single bar is not blown up to the panel's height
    axes.set_ylim(len(layers) - 0.4 + room, -0.6 - room)
    axes.tick_params(axis="y", length=0)
