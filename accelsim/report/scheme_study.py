"""A study of quantisation schemes for a terminal, as CSV, and as its one figure."""

from __future__ import annotations

import csv
import io
import textwrap
from typing import TYPE_CHECKING, Any

from accelsim.config.hardware import hardware_from_dict
from accelsim.report.document import describe_hardware
from accelsim.report.drawing import INK, SOFT, colour, sheet, styled
from accelsim.report.text import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = dict[str, Any]


def show_scheme_study(study: Report) -> str:
    """What `accelsim study` prints; the same for the same study, whatever was computed when."""
    seeds = study["seeds"] if len(study["seeds"]) > 1 else []
    rows = []
    for row in study["rows"]:
        by_seed = {one["seed"]: one for one in row["seeds"]}
        rows.append(
            [
                _named(row),
                _percent(row["accuracy"]),
                *(_percent(by_seed[seed].get("accuracy")) if seed in by_seed else "" for seed in seeds),
                "-" if row["minus_float"] is None else _points(row["minus_float"]),
                "-" if row["predictions_changed"] is None else f"{row['predictions_changed']:,.{1 if seeds else 0}f}",
            ]
        )
    averaged = f"mean of {len(seeds)} seeds" if seeds else ""
    header = ["row", "accuracy", *(f"seed {seed}" for seed in seeds), "minus float", "predictions"]
    refused = [
        f"{_named(row)}: {one['refused']}" for row in study["rows"] for one in row["seeds"][:1] if "refused" in one
    ]
    return "\n".join(
        [
            study["title"],
            f"on {describe_hardware(hardware_from_dict(study['hardware'], study['name']))}",
            *(
                f"{workload}: float accuracy {_percent(found['accuracy'])} ({found['correct']:,} of "
                f"{found['images']:,} images of {found['data']})"
                for workload, found in study["workloads"].items()
            ),
            "",
            *textwrap.wrap(
                f"accuracy: {averaged + ', ' if averaged else ''}calibrated on {study['calibration_images']:,} "
                "training images; minus float: points of the row's own float network; predictions: images whose class "
                "is not the float network's",
                118,
            ),
            *table(header, rows),
            *refused,
        ]
    )


def scheme_study_csv(study: Report) -> str:
    """One line a row: figures, the axes' values, and the accuracy of each seed."""
    axes = list(dict.fromkeys(name for row in study["rows"] for name in row["axes"]))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    kept = ("label", "workload", "kind")
    figures = ("accuracy", "minus_float", "predictions_changed")
    writer.writerow(
        [
            *kept,
            *(f"axis.{name}" for name in axes),
            *("best.axis", "best.value", *figures),
            *(f"accuracy.seed_{seed}" for seed in study["seeds"]),
        ]
    )
    for row in study["rows"]:
        best = row["best"] or {"axis": "", "value": ""}
        by_seed = {one["seed"]: one.get("accuracy") for one in row["seeds"]}
        writer.writerow(
            [
                *(row[key] for key in kept),
                *(row["axes"].get(name, "") for name in axes),
                *(best["axis"], best["value"], *(row[key] for key in figures)),
                *(by_seed.get(seed, by_seed.get(None)) for seed in study["seeds"]),
            ]
        )
    return stream.getvalue()


@styled
def scheme_study_figure(study: Report) -> Figure:
    """Accuracy of every row, or of every series of rows against the study's axis.

    Args:
        study: of `explore.SchemeStudy.run`, or read back from its JSON.
    """
    against = study["against"]
    height = 4.4 if against else 1.5 + 0.27 * len(study["rows"])
    hardware = hardware_from_dict(study["hardware"], study["name"])
    images = ", ".join(
        f"{workload} {found['images']:,} of {found['data']}" for workload, found in study["workloads"].items()
    )
    seeds = f"mean of {len(study['seeds'])} seeds, each a dot" if len(study["seeds"]) > 1 else "one seed"
    figure = sheet(
        8.6,
        height,
        textwrap.shorten(study["title"], 100, placeholder=" …"),
        f"{describe_hardware(hardware)}",
        f"{images} images; {seeds}",
    )
    axes = figure.add_subplot()
    (_lines if against else _dots)(axes, study)
    return figure


def _dots(axes: Axes, study: Report) -> None:
    """A line for each row, the float network's accuracy marked on it."""
    for place, row in enumerate(study["rows"]):
        reference = 100 * study["workloads"][row["workload"]]["accuracy"]
        axes.plot(reference, place, "|", color=SOFT, markersize=13, markeredgewidth=1.5)
        if row["accuracy"] is None:
            axes.annotate("does not fit", (reference, place), xytext=(-8, 0), textcoords="offset points", ha="right",
                          va="center", size=7.5, color=SOFT)  # fmt: skip
            continue
        accuracy = 100 * row["accuracy"]
        axes.plot([reference, accuracy], [place, place], color=SOFT, linewidth=0.8)
        if len(row["seeds"]) > 1:
            spread = [100 * one["accuracy"] for one in row["seeds"]]
            axes.plot(spread, [place] * len(spread), "o", color=colour(0), markersize=3, alpha=0.5)
        axes.plot(accuracy, place, "o", color=INK if row["kind"] == "float" else colour(0), markersize=6)
    axes.set_yticks(range(len(study["rows"])), [_short(_named(row)) for row in study["rows"]])
    axes.set_ylim(len(study["rows"]) - 0.4, -0.6)
    axes.set_xlabel("accuracy, %; the bar is the row's float network")
    axes.grid(True, axis="x")


def _lines(axes: Axes, study: Report) -> None:
    """Each series against the axis; rows without the axis as levels."""
    against = study["against"]
    series: dict[str, list[Report]] = {}
    for row in study["rows"]:
        if row["accuracy"] is not None:
            series.setdefault(row["series"], []).append(row)
    for label, (name, rows) in enumerate(series.items()):
        if against in rows[0]["axes"]:
            xs = [row["axes"][against] for row in rows]
            axes.plot(xs, [100 * row["accuracy"] for row in rows], color=colour(label), marker="o", markersize=4,
                      linewidth=1.4, label=name)  # fmt: skip
            for x, row in zip(xs, rows, strict=True):
                if len(row["seeds"]) > 1:
                    spread = [100 * one["accuracy"] for one in row["seeds"]]
                    axes.plot([x] * len(spread), spread, "o", color=colour(label), markersize=2, alpha=0.5)
        else:
            ink = INK if rows[0]["kind"] == "float" else colour(label)
            axes.axhline(100 * rows[0]["accuracy"], color=ink, linewidth=0.9, linestyle=(0, (4, 3)), label=name)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(against)
    axes.set_ylabel("accuracy, %")
    axes.grid(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), borderaxespad=0)


def _named(row: Report) -> str:
    """A row's label, and the value that was best."""
    best = row["best"]
    return row["label"] if best is None else f"{row['label']}, best {best['axis']} = {best['value']}"


def _short(label: str) -> str:
    return label if len(label) <= 72 else label[:71] + "…"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _points(difference: float) -> str:
    """A signed number of points; what rounds to nothing has no sign."""
    text = f"{difference:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text
