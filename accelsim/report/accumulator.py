"""The accumulator study for a terminal, as CSV, and as its one figure."""

from __future__ import annotations

import csv
import io
import textwrap
from typing import TYPE_CHECKING, Any

from accelsim.config.hardware import hardware_from_dict
from accelsim.report.drawing import (
    ALARM,
    INK,
    PLACE_COLOURS,
    SOFT,
    colour,
    multiple,
    sheet,
    short,
    styled,
)
from accelsim.report.text import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = dict[str, Any]

PARTS = ("adders", "partial-sum registers", "accumulator memory", "buffers")
"""Places of energy a study shows apart: the first three are what a narrower accumulator acts on."""
CRITERIA = {"no_change": "no output changes", "tolerance": "accuracy is kept"}


def show_study(study: Report) -> str:
    """What `accelsim accumulator` prints; the same for the same study, whatever was computed when."""
    lines = [*_head(study), "", *_widths(study), "", *_layers(study), "", *_overflows(study), "", *_smallest(study)]
    if study["per_layer"] is not None:
        lines += ["", *_per_layer(study)]
    return "\n".join(lines)


def study_csv(study: Report) -> str:
    """One row a width: accuracy, cycles, energy by place, overflows by layer."""
    places = list(PLACE_COLOURS)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    kept = (
        *("width_bits", "accuracy", "correct", "predictions_changed", "outputs_changed"),
        *("cycles", "energy", "area_transistors"),
    )
    layers = study["layers"]
    writer.writerow(
        [
            *kept,
            *(f"energy.{place}" for place in places),
            *(f"{key}.{name}" for name in layers for key in ("overflows", "psum_min", "psum_max", "alone.accuracy")),
        ]
    )
    for row in study["widths"]:
        by_place = row["energy_by_place"] or {}
        figures: list[Any] = []
        for name in layers:
            layer = row["layers"][name]
            figures += [layer["overflows"], layer["psum_min"], layer["psum_max"], layer["alone"]["accuracy"]]
        writer.writerow([*(row[key] for key in kept), *(by_place.get(place, "") for place in places), *figures])
    return stream.getvalue()


# Text ---------------------------------------------------------------------------------------------------------


def _head(study: Report) -> list[str]:
    hardware = hardware_from_dict(study["hardware"], "the study's hardware")
    array, accumulator = hardware.array, hardware.accumulator
    when = "at every add" if accumulator.saturate_at == "every_add" else "at the end"
    verb = "saturating" if accumulator.overflow == "saturate" else "wrapping"
    psum = "" if array.psum_bits is None else f", partial sums of at most {array.psum_bits} bits"
    judged = "" if study["labelled"] else "; without labels, right is what exact sums predict"
    return [
        f"{study['workload']} on {hardware.name}: {array.rows}x{array.columns} {array.dataflow}, accumulators {verb} "
        f"{when}{psum}",
        f"{study['images']:,} images; zero points {study['zero_points']}, bias in the {study['bias_at']}{judged}",
        f"exact sums: accuracy {_percent(study['exact']['accuracy'])} ({study['exact']['correct']:,} of "
        f"{study['images']:,})",
        *textwrap.wrap(study["energy_title"], 118),
        study["area_title"],
    ]


def _widths(study: Report) -> list[str]:
    rows = []
    for row in study["widths"]:
        overflows = sum(layer["overflows"] for layer in row["layers"].values())
        by_place = row["energy_by_place"]
        rows.append(
            [
                str(row["width_bits"]),
                _percent(row["accuracy"]),
                f"{row['predictions_changed']:,}",
                f"{row['outputs_changed']:,}",
                f"{overflows:,}",
                "-" if row["cycles"] is None else f"{row['cycles']:,}",
                "-" if row["energy"] is None else f"{row['energy']:,.0f}",
                "-" if row["area_transistors"] is None else f"{row['area_transistors'] / 1000:,.0f}",
                *("-" if by_place is None else f"{by_place[place]:,.0f}" for place in PARTS),
            ]
        )
    unit = study["energy_unit"]
    header = ["bits", "accuracy", "predictions", "outputs", "overflows", "cycles", f"energy {unit}", "area", *PARTS]
    notes = [
        f"{row['width_bits']} bits: {row['infeasible']}" for row in study["widths"] if row["infeasible"] is not None
    ]
    return [
        "predictions, outputs: images that differ from exact sums; energy and cycles: one image; area: thousand",
        "transistors of PEs and PPU lanes, a proxy",
        *table(header, rows),
        *notes,
    ]


def _layers(study: Report) -> list[str]:
    rows = []
    for name in study["layers"]:
        layer = study["exact"]["layers"][name]
        first = max((row["width_bits"] for row in study["widths"] if row["layers"][name]["overflows"]), default=None)
        bounds = layer["bounds"]
        rows.append(
            [
                name,
                f"{layer['psum_min']:,}..{layer['psum_max']:,}",
                f"{layer['mean']:,.1f}",
                f"{layer['deviation']:,.1f}",
                *(str(bounds[key]) for key in ("type", "l1", "observed")),
                *(_bits(study["smallest"][criterion]["alone"][name]["width_bits"]) for criterion in CRITERIA),
                "-" if first is None else str(first),
            ]
        )
    header = [
        *("layer", "exact partial sums", "mean", "deviation", "by type", "by l1", "observed"),
        *("no change", "accuracy", "overflows at"),
    ]
    return [
        "bits at which no sum overflows, by data type, by the weights' l1 norm and as observed; at which, in this",
        "layer alone, no output changes or accuracy is kept; the widest width above at which an addition overflows",
        *table(header, rows),
    ]


def _overflows(study: Report) -> list[str]:
    """The first overflow of the first layer that has one, at each width."""
    lines = []
    for row in study["widths"]:
        found = next(
            (layer["first_overflow"] for layer in row["layers"].values() if layer["first_overflow"] is not None), None
        )
        if found is not None:
            lines.append(f"{row['width_bits']} bits: {describe_overflow(found)}")
    if not lines:
        return ["no addition overflows at any of these widths"]
    return ["first overflow of the first layer that has one:", *lines]


def describe_overflow(found: Report) -> str:
    """One overflow in a line.

    >>> describe_overflow({
    ...     "layer": "c1", "image": 0, "y": 5, "x": 5, "channel": 2, "chunk": 4, "k": 24, "where": "array",
    ...     "before": -2352, "added": -6440, "operands": (92, -70), "value": -8792, "limit": -8192, "cycle": 1561})
    'c1, image 0, (y, x, channel) = (5, 5, 2), chunk 4, k = 24: -2,352 + 92 * -70 = -8,792, beyond -8,192, cycle 1,561'
    """
    place = (
        f"{found['layer']}, image {found['image']}, (y, x, channel) = ({found['y']}, {found['x']}, {found['channel']})"
    )
    added = f"{found['added']:,}" if found["operands"] is None else "{:,} * {:,}".format(*found["operands"])
    where = {
        "array": f"chunk {found['chunk']}, k = {found['k']}",
        "memory": f"memory after chunk {found['chunk']}",
        "end": "at the end",
    }[found["where"]]
    when = "" if found["cycle"] is None else f", cycle {found['cycle']:,}"
    return f"{place}, {where}: {found['before']:,} + {added} = {found['value']:,}, beyond {found['limit']:,}{when}"


def _smallest(study: Report) -> list[str]:
    lines = []
    for criterion, meaning in _meanings(study).items():
        uniform = study["smallest"][criterion]["uniform"]
        also = uniform["also_holds_at"]
        note = f" (and, below a width where it fails, at {', '.join(map(str, also))})" if also else ""
        bits = uniform["width_bits"]
        found = f"none, for partial sums are limited to {_psum_limit(study)} bits" if bits is None else f"{bits} bits"
        lines.append(f"smallest width in all layers at which {meaning}: {found}{note}")
    return lines


def _meanings(study: Report) -> dict[str, str]:
    return {**CRITERIA, "tolerance": f"accuracy loses at most {study['tolerance']:g} points"}


def _per_layer(study: Report) -> list[str]:
    lines = ["widths of each layer (no single one can be a bit narrower), verified by a second evaluation:"]
    rows = []
    known = {
        meaning: found
        for criterion, meaning in _meanings(study).items()
        if (found := study["per_layer"][criterion]) is not None
    }
    if not known:
        return [f"widths of each layer: none, for partial sums are limited to {_psum_limit(study)} bits"]
    for meaning, found in known.items():
        rows.append(
            [
                meaning,
                *(str(found["widths"][name]) for name in study["layers"]),
                _percent(found["accuracy"]),
                f"{found['outputs_changed']:,}",
                str(found["combinations"]),
            ]
        )
    lines += table(["so that", *study["layers"], "accuracy", "outputs", "tried"], rows)
    for meaning, found in known.items():
        lines += ["", *_saved(study, found, meaning)]
    return lines


def _saved(study: Report, found: Report, meaning: str) -> list[str]:
    """Energy at the machine's own width, at the smallest uniform one and by layer, place by place."""
    costs = [found["own"], found["uniform"], {"cost": found["cost"]}]
    if reasons := [one["cost"]["infeasible"] for one in costs if one["cost"]["energy"] is None]:
        return [f"energy where {meaning}: {reasons[0]}"]
    places = [place for place in PLACE_COLOURS if found["own"]["cost"]["energy_by_place"][place]]
    rows = []
    for place in [*places, "all"]:
        own, uniform, layered = (
            one["cost"]["energy"] if place == "all" else one["cost"]["energy_by_place"][place] for one in costs
        )
        saved = [f"{100 * (1 - layered / other):.2f} %" if other else "-" for other in (own, uniform)]
        rows.append([place, *(f"{value:,.0f}" for value in (own, uniform, layered)), *saved])
    own_bits, uniform_bits = found["own"]["width_bits"], found["uniform"]["width_bits"]
    header = [
        *(f"energy ({study['energy_unit']}) where {meaning}", f"{own_bits} bits", f"{uniform_bits} bits", "by layer"),
        *(f"saved of {own_bits}", f"of {uniform_bits}"),
    ]
    return table(header, rows)


def _bits(width: int | None) -> str:
    return "-" if width is None else str(width)


def _psum_limit(study: Report) -> int:
    """Bits of the partial sum in the array, whatever the accumulator: None only where it is not limited."""
    return int(study["hardware"]["array"]["psum_bits"])


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


# The figure ---------------------------------------------------------------------------------------------------


@styled
def study_figure(study: Report) -> Figure:
    """Accuracy, the layers' bounds, energy by part and cycles, all against the accumulator's width.

    Args:
        study: of `explore.Study.run`, or read back from its JSON.
    """
    layers = study["layers"]
    hardware = hardware_from_dict(study["hardware"], "the study's hardware")
    accumulator = hardware.accumulator
    verb = "saturating" if accumulator.overflow == "saturate" else "wrapping"
    when = "at every add" if accumulator.saturate_at == "every_add" else "at the end"
    figure = sheet(
        9.6,
        8.3 + 0.26 * len(layers),
        f"{study['workload']}: what a narrower accumulator does",
        f"{hardware.name}: {hardware.array.rows}x{hardware.array.columns} {hardware.array.dataflow}, {verb} {when}; "
        f"zero points {study['zero_points']}, bias in the {study['bias_at']}; {study['images']:,} images",
        f"energy and cycles of one image; {study['energy_title'].split(';')[0]}",
    )
    heights = (3.2, 0.5 + 0.32 * len(layers), 3.0, 1.4, 1.4)
    grid = figure.add_gridspec(5, 1, height_ratios=heights)
    top = figure.add_subplot(grid[0])
    panels = [top, *(figure.add_subplot(grid[row], sharex=top) for row in (1, 2, 3, 4))]
    bits = [row["width_bits"] for row in study["widths"]]
    _accuracy(panels[0], study, bits)
    _bounds(panels[1], study)
    _energy(panels[2], study)
    _one_line(panels[3], study, "cycles", 1, "cycles")
    _one_line(panels[4], study, "area_transistors", 1000, "area proxy: thousand transistors of PEs and PPU lanes")
    known = [layer["bounds"] for layer in study["exact"]["layers"].values()]
    low = min(bits[0], *(min(bound.values()) for bound in known))
    high = max(bits[-1], *(max(bound.values()) for bound in known))
    top.set_xlim(low - 0.7, high + 0.7)
    top.set_xticks(range(low + low % 2, high + 1, 2))
    for panel in panels:
        panel.grid(True, axis="x")
        panel.tick_params(labelbottom=panel is panels[-1])
    panels[-1].set_xlabel("accumulator width, bits")
    return figure


def _accuracy(axes: Axes, study: Report, bits: list[int]) -> None:
    axes.set_title("accuracy, all layers at this width, and each layer alone")
    for label, name in enumerate(study["layers"]):
        alone = [100 * row["layers"][name]["alone"]["accuracy"] for row in study["widths"]]
        axes.plot(
            bits, alone, color=colour(label), linewidth=1.1, marker=".", markersize=4, label=f"{short(name)} alone"
        )
    together = [100 * row["accuracy"] for row in study["widths"]]
    axes.plot(bits, together, color=INK, linewidth=2, marker="o", markersize=4, label="all layers")
    axes.axhline(100 * study["exact"]["accuracy"], color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate("exact sums", (bits[-1], 100 * study["exact"]["accuracy"]), xytext=(0, -10),
                  textcoords="offset points", ha="right", size=7.5, color=SOFT)  # fmt: skip
    axes.set_ylim(0, 104)
    axes.set_ylabel("accuracy, %")
    axes.grid(True, axis="y")
    _legend(axes)


def _bounds(axes: Axes, study: Report) -> None:
    """One row a layer: widths that suffice, by three arguments, and widths that do."""
    axes.set_title("widths at which a layer cannot overflow, did not overflow, and keeps the accuracy")
    marks = (
        ("type", "by data type", "s", "white"),
        ("l1", "by l1 norm of the weights", "D", "white"),
        ("observed", "observed", "o", None),
    )
    for row, name in enumerate(study["layers"]):
        bounds = study["exact"]["layers"][name]["bounds"]
        axes.plot([bounds["observed"], bounds["type"]], [row, row], color=colour(row), linewidth=0.8, alpha=0.6)
        for key, _, marker, face in marks:
            axes.plot(bounds[key], row, marker, markersize=5.5, markeredgecolor=colour(row),
                      markerfacecolor=face or colour(row), linestyle="none")  # fmt: skip
        if (kept := study["smallest"]["tolerance"]["alone"][name]["width_bits"]) is not None:
            axes.plot(kept, row, "|", markersize=11, markeredgewidth=2, color=ALARM)
    axes.set_yticks(range(len(study["layers"])), [short(name) for name in study["layers"]])
    axes.set_ylim(len(study["layers"]) - 0.4, -0.6)
    handles = [_mark(marker, label, face if face is not None else SOFT, SOFT) for _, label, marker, face in marks]
    handles.append(_mark("|", "accuracy kept, this layer alone", ALARM, ALARM))
    _legend(axes, handles)


def _legend(axes: Axes, handles: list[Any] | None = None) -> None:
    """Beside the panel, where it hides nothing."""
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1.0), borderaxespad=0)


def _mark(marker: str, label: str, face: str, edge: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker=marker, linestyle="none", markerfacecolor=face, markeredgecolor=edge, markersize=6,
                  markeredgewidth=2 if marker == "|" else 1, label=label)  # fmt: skip


def _energy(axes: Axes, study: Report) -> None:
    """Lines, not a stack: each part is read against the axis."""
    rows = [row for row in study["widths"] if row["energy"] is not None]
    axes.set_title("energy on the chip by part; DRAM apart")
    if not rows:
        axes.text(0.5, 0.5, "no width runs on this machine", transform=axes.transAxes, ha="center", color=SOFT)
        return
    places = [
        place for place in PLACE_COLOURS if place != "DRAM" and any(row["energy_by_place"][place] for row in rows)
    ]
    most = max(row["energy_by_place"][place] for row in rows for place in places)
    factor, name = multiple(most, study["energy_unit"])
    for place in places:
        values = [row["energy_by_place"][place] / factor for row in rows]
        shown = place in PARTS
        axes.plot(
            [row["width_bits"] for row in rows],
            values,
            color=PLACE_COLOURS[place],
            linewidth=2 if shown else 1,
            marker="o" if shown else None,
            markersize=3,
            label=place,
        )
    if dram := rows[-1]["energy_by_place"]["DRAM"] / factor:
        text = f"DRAM: {dram:,.0f} {name} at {rows[-1]['width_bits']} bits"
        axes.annotate(text, (0.01, 0.94), xycoords="axes fraction", va="top", size=7.5, color=SOFT)
    axes.set_ylim(0, None)
    axes.set_ylabel(name)
    axes.grid(True, axis="y")
    _legend(axes)


def _one_line(axes: Axes, study: Report, key: str, unit: int, title: str) -> None:
    """One figure of every width that has it, from zero."""
    axes.set_title(title)
    rows = [row for row in study["widths"] if row[key] is not None]
    values = [row[key] / unit for row in rows]
    axes.plot([row["width_bits"] for row in rows], values, color=INK, marker="o", markersize=3)
    axes.set_ylim(0, 1.15 * max(values, default=1))
    axes.grid(True, axis="y")
    axes.yaxis.set_major_formatter("{x:,.0f}")
