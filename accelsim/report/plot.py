"""Figures of a sweep: front, accumulator width, energy by part, roofline and sensitivity; and its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelsim.config.sweep import keys_of
from accelsim.errors import InputError
from accelsim.files import write_whole
from accelsim.report.drawing import (
    INK,
    PLACE_COLOURS,
    SOFT,
    colour,
    digits,
    linear_axis,
    multiple,
    note,
    patch,
    render,
    sheet,
    style,
    styled,
    unit_name,
)
from accelsim.report.page import MOST_POINTS, sweep_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from accelsim.explore.stored import Objective, Stored
    from accelsim.explore.sweep import Row

WIDTH = "hardware.accumulator.width_bits"
MOST_BARS = 24
"""Points of the front in the figure of energy by part."""
FEW_BARS = 12
"""So many feasible points are all drawn there."""
MOST_LINES = 7
"""Lines of one colour each, and roofs that are named."""
MOST_VALUES = 12
"""An axis with more values is cut into ranges of equally many points."""
RANGES = 6


class LeftOut(Exception):
    """A figure makes no sense for this sweep; the message says why."""


def write_plots(stored: Stored, objectives: Sequence[Objective], folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Draw what makes sense for a sweep, each as PNG and SVG, and write ``sweep.html``.

    Args:
        folder: is made where it is missing.
    Returns:
        The files, and name -> reason of what was left out.
    Raises:
        InputError: matplotlib is not installed, or a file cannot be written.
    """
    with style():  # matplotlib is there
        pass
    drawings: dict[str, Callable[[Stored, Sequence[Objective]], Figure]] = {
        "pareto": pareto_figure,
        "accumulator": lambda one, _: width_figure(one),
        "energy": energy_figure,
        "roofline": lambda one, _: roofline_figure(one),
        "sensitivity": sensitivity_figure,
    }
    files: dict[Path, bytes | str] = {}
    left_out: dict[str, str] = {}
    for name, draw in drawings.items():
        try:
            figure = draw(stored, objectives)
        except LeftOut as reason:
            left_out[name] = str(reason)
        else:
            files |= {folder / f"{name}.{kind}": render(figure, kind) for kind in ("png", "svg")}
    if len(stored.rows) > MOST_POINTS:
        left_out["sweep.html"] = f"{len(stored.rows):,} points are more than {MOST_POINTS:,}, which a browser can show"
    else:
        files[folder / "sweep.html"] = sweep_page(stored, objectives)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make this folder: {error.strerror}; name another") from error
    for path, content in files.items():
        write_whole(path, content)
    return list(files), left_out


# What all of them need ------------------------------------------------------------------------------------------


def _done(stored: Stored, *names: str) -> list[Row]:
    """The feasible points that have all these figures or axes as numbers."""
    return [
        row
        for row in stored.rows
        if row.status == "done" and all(stored.value(row, name) is not None for name in names)
    ]


def _values(stored: Stored, rows: Sequence[Row], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 (N,): of points that have it."""
    return np.array([stored.value(row, name) for row in rows], dtype=np.float64)


def _one_unit(stored: Stored) -> str:
    """The unit of all energies."""
    units = stored.units()
    if len(units) > 1:
        raise LeftOut(f"energies are in different units ({', '.join(units)}), which cannot be compared")
    return units[0] if units else "relative"


def _label(stored: Stored, name: str) -> str:
    """A figure or axis as a plot's axis names it."""
    known = {
        "accuracy": "accuracy (%)",
        "float": "accuracy of the float network (%)",
        "area": "area (transistors)",
        "milliseconds": "time (ms)",
        "dram_bytes_read": "DRAM bytes read",
        "dram_bytes_written": "DRAM bytes written",
        "utilization": "utilisation of the array",
        "safe_width": "safe accumulator width (bits)",
        "proved_width": "proved accumulator width (bits)",
    }
    if name == "energy" or (name.startswith("energy.") and name not in stored.file.axes):
        units = [unit_name(unit) for unit in stored.units()]
        return f"{name.replace('.', ': ')} ({' or '.join(units)})"
    return known.get(name, _short(name))


def _short(key: str) -> str:
    """``hardware.array.rows`` is ``array.rows`` where there is little room."""
    return ".".join(key.split(".")[-2:])


def _setting(row: Row) -> str:
    """The values of all axes at a point, in the axes' order, in at most 40 characters."""
    text = " · ".join(map(str, row.setting.values()))
    return text if len(text) <= 40 else text[:39] + "…"


def _head(stored: Stored) -> str:
    return _cut(" ".join((stored.file.title or stored.file.name).split()), 80)


def _counted(rows: Sequence[Row]) -> str:
    feasible = sum(row.status == "done" for row in rows)
    return f"{len(rows):,} points, {feasible:,} feasible"


def _log_where_wide(axes: Axes, values: Any, which: str) -> None:
    """A logarithmic axis where values span more than a factor of 30."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis = getattr(axes, f"{which}axis")
    if values.min() > 0 and values.max() / values.min() > 30:
        getattr(axes, f"set_{which}scale")("log")
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _: object = None) -> str:
    """A tick without exponents: 12.5M is 12,500,000 shortened.

    >>> _tick(12_500_000), _tick(40_000), _tick(0.25)
    ('12.5M', '40k', '0.25')
    """
    for size, mark in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if mark == 'k' else size):.4g}{mark}"
    return f"{value:.4g}"


# The front ------------------------------------------------------------------------------------------------------


@styled
def pareto_figure(stored: Stored, objectives: Sequence[Objective]) -> Figure:
    """Every pair of the objectives: the front of all of them, what it dominates, and infeasible points in grey."""
    if len(objectives) < 2:
        raise LeftOut(f"a front needs two objectives, there is {objectives[0]}; name more with --objectives")
    if any(one.name.startswith("energy") for one in objectives):
        _one_unit(stored)
    names = [one.name for one in objectives]
    done = _done(stored, *names)
    if not done:
        raise LeftOut(f"no feasible point has all of {', '.join(names)}")
    best = stored.front(objectives)
    on_front = {row.position for row in best}
    out = [row for row in stored.rows if row.status == "infeasible" and row.figures]
    out = [row for row in out if all(stored.value(row, name) is not None for name in names)]
    pairs = list(combinations(objectives, 2))
    across = 1 if len(pairs) == 1 else 2 if len(pairs) < 5 else 3
    down = -(-len(pairs) // across)
    figure = sheet(
        max(4.6 * across, 6.4),
        4.1 * down + 0.8,
        f"{_head(stored)}: Pareto front",
        f"{_counted(stored.rows)}; objectives: {', '.join(map(str, objectives))}",
        f"{len(best):,} points that no other beats in all objectives; grey rings are infeasible",
    )
    for place, (x, y) in enumerate(pairs):
        axes = figure.add_subplot(down, across, place + 1)
        kinds: tuple[tuple[list[Row], dict[str, Any]], ...] = (
            (out, {"facecolors": "none", "edgecolors": "#B8B8B8", "s": 16, "linewidths": 0.8, "label": "infeasible"}),
            (
                [row for row in done if row.position not in on_front],
                {"c": colour(4), "s": 16, "linewidths": 0, "alpha": 0.75, "label": "dominated"},
            ),
            (best, {"c": colour(5), "s": 30, "edgecolors": INK, "linewidths": 0.7, "label": "front", "zorder": 3}),
        )
        for rows, marker in kinds:
            if rows:
                axes.scatter(_values(stored, rows, x.name), _values(stored, rows, y.name), **marker)
        if len(objectives) == 2:
            ends = sorted({(stored.value(row, x.name) or 0.0, stored.value(row, y.name) or 0.0) for row in best})
            axes.step(*zip(*ends, strict=True), where="post" if x.direction == "min" else "pre", color=INK, lw=0.8)
        every = [*done, *out]
        for which, one in (("x", x), ("y", y)):
            _log_where_wide(axes, _values(stored, every, one.name), which)
            better = "smaller" if one.direction == "min" else "larger"
            getattr(axes, f"set_{which}label")(f"{_label(stored, one.name)}, {better} is better")
        axes.grid(True)
        if place == 0:
            axes.legend(loc="best")
    return figure


# Accumulator width ----------------------------------------------------------------------------------------------


@styled
def width_figure(stored: Stored) -> Figure:
    """Energy against the accumulator's width, and accuracy beside it: a line for each machine, or mean and range."""
    if len({row.setting.get(WIDTH) for row in stored.rows}) < 2:
        raise LeftOut(f"the sweep has no axis {WIDTH} with two values")
    shown = [name for name in ("energy", "accuracy") if _done(stored, WIDTH, name)]
    if "energy" not in shown:
        raise LeftOut("no energy was measured")
    unit = _one_unit(stored)
    figure = sheet(
        4.8 * len(shown) + (0.8 if len(shown) == 1 else 0),
        4.4,
        f"{_head(stored)}: what a narrower accumulator does",
        f"{_counted(stored.rows)}; {stored.file.workload}"
        if "workload" not in stored.file.axes
        else _counted(stored.rows),
        "infeasible points are left out" + ("" if len(shown) == 2 else "; accuracy was not measured"),
    )
    for place, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        rows = _done(stored, WIDTH, name)
        factor, said = multiple(max(_values(stored, rows, name)), unit) if name == "energy" else (1.0, "%")
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            rest = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in row.setting.items() if key != WIDTH)
            point = (stored.value(row, WIDTH) or 0.0, (stored.value(row, name) or 0.0) / factor)
            lines.setdefault(rest, []).append(point)
        if len(lines) <= MOST_LINES:
            for number, (rest, points) in enumerate(lines.items()):
                x, y = zip(*sorted(points), strict=True)
                axes.plot(x, y, "o-", ms=3.5, lw=1.2, color=colour(number), label=rest or None)
            if any(lines) and place == 0:
                axes.legend(loc="best", fontsize=7)
        else:
            _band(axes, [point for points in lines.values() for point in points], len(lines))
        widths = sorted({round(x, 2) for points in lines.values() for x, _ in points})
        if len(widths) <= 16:
            axes.set_xticks(widths, [f"{width:g}" for width in widths])
        axes.set_xlabel("accumulator width (bits)")
        axes.set_ylabel(f"energy ({said})" if name == "energy" else "accuracy (%)")
        axes.grid(True)
    return figure


def _band(axes: Axes, points: list[tuple[float, float]], lines: int) -> None:
    """Mean, and the range from the least to the most, at each place."""
    places = sorted({x for x, _ in points})
    at = [np.array([y for x, y in points if x == place]) for place in places]
    axes.fill_between(places, [y.min() for y in at], [y.max() for y in at], color=colour(4), alpha=0.35, lw=0)
    axes.plot(
        places, [y.mean() for y in at], "o-", ms=3.5, lw=1.4, color=colour(0), label=f"mean of {lines:,} settings"
    )
    axes.plot(places, [y.min() for y in at], ":", lw=1, color=SOFT, label="least and most")
    axes.plot(places, [y.max() for y in at], ":", lw=1, color=SOFT)
    axes.legend(loc="best")


# Energy by part -------------------------------------------------------------------------------------------------


@styled
def energy_figure(stored: Stored, objectives: Sequence[Objective]) -> Figure:
    """A bar for each point of the front, or for each feasible point where there are few, stacked by place."""
    done = _done(stored, "energy")
    if not done:
        raise LeftOut("no energy was measured")
    unit = _one_unit(stored)
    if len(done) <= FEW_BARS:
        rows, which = done, f"all feasible points ({len(done)})"
    else:
        front = {row.position for row in stored.front(objectives)}
        rows = [row for row in done if row.position in front]
        which = f"the {len(rows)} point{'s' * (len(rows) != 1)} of the front of {', '.join(map(str, objectives))}"
        if not rows:
            raise LeftOut(f"no point of the front of {', '.join(map(str, objectives))} has an energy")
    rows = sorted(rows, key=lambda row: (stored.value(row, "energy") or 0.0, row.position))
    if len(rows) > MOST_BARS:
        which = f"{MOST_BARS} of {which}, evenly spread"
        rows = [rows[round(place)] for place in np.linspace(0, len(rows) - 1, MOST_BARS)]
    totals = _values(stored, rows, "energy")
    factor, said = multiple(float(totals.max()), unit)
    figure = sheet(
        9.0,
        1.7 + 0.3 * len(rows),
        f"{_head(stored)}: energy by part",
        f"{which}, the least energy first; {stored.file.energy}" if "energy" not in stored.file.axes else which,
        f"one batch; beside a bar its point: {_cut(' · '.join(_short(key) for key in rows[0].setting), 90)} [point]",
    )
    axes = figure.add_subplot()
    left = np.zeros(len(rows))
    handles = []
    for place, tone in PLACE_COLOURS.items():
        part = np.array([stored.value(row, f"energy.{place}") or 0.0 for row in rows]) / factor
        if part.any():
            axes.barh(range(len(rows)), part, left=left, color=tone, height=0.72)
            handles.append(patch(tone, place))
            left += part
    for number, total in enumerate(totals):
        note(axes, total / factor, number, digits(total / factor))
    axes.set_yticks(range(len(rows)), [f"{_setting(row)}  [{row.position}]" for row in rows])
    axes.invert_yaxis()
    linear_axis(axes, float(totals.max()) / factor, 1.1)
    axes.set_xlabel(f"energy ({said})")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return figure


# Roofline -------------------------------------------------------------------------------------------------------


def roofline_point(stored: Stored, row: Row) -> tuple[float, float, int, int] | None:
    """MACs a DRAM byte, MACs a cycle, PEs and DRAM bytes a cycle of a point; None where it lacks one.

    Bytes are those of the busier direction, because each has the whole bandwidth. Utilisation is the share of
    PE-cycles with a product, so that MACs a cycle are utilisation times PEs.

    Source: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009.
    """
    hardware = stored.inputs.get(row.key, {}).get("hardware")
    read, written = stored.value(row, "dram_bytes_read"), stored.value(row, "dram_bytes_written")
    cycles, utilization = stored.value(row, "cycles"), stored.value(row, "utilization")
    if hardware is None or read is None or written is None or not cycles or not utilization or not read + written:
        return None
    pes = int(hardware["array"]["rows"]) * int(hardware["array"]["columns"])
    achieved = utilization * pes
    return achieved * cycles / max(read, written), achieved, pes, int(hardware["dram"]["bandwidth_bytes_per_cycle"])


@styled
def roofline_figure(stored: Stored) -> Figure:
    """MACs a cycle against MACs a DRAM byte, under the roofs of the machines: PEs, and bandwidth times intensity."""
    found = [point for row in stored.rows if row.status == "done" and (point := roofline_point(stored, row))]
    if not found:
        raise LeftOut("it needs cycles, utilisation and DRAM traffic; measure cycles")
    roofs = sorted({(pes, bandwidth) for _, _, pes, bandwidth in found})
    figure = sheet(
        7.2,
        5.0,
        f"{_head(stored)}: roofline",
        f"{_counted(stored.rows)}; one MAC is a multiplication and an addition",
        "a roof is a machine's PEs (flat) and its DRAM bytes a cycle times the intensity (slope)",
    )
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    intensity = [one[0] for one in found]
    low = min([*intensity, *(pes / bandwidth for pes, bandwidth in roofs)]) / 2.5
    high = max([*intensity, *(pes / bandwidth for pes, bandwidth in roofs)]) * 2.5
    named = len(roofs) <= MOST_LINES
    for number, (pes, bandwidth) in enumerate(roofs):
        knee = pes / bandwidth
        tone, label = (colour(number), f"{pes:,} PEs, {bandwidth} B/cycle") if named else ("#C4C4C4", None)
        line: dict[str, Any] = {"color": tone, "lw": 1.3 if named else 0.8, "label": label, "zorder": 1}
        axes.plot([low, knee, high], [low * bandwidth, pes, pes], **line)
        mine = [one for one in found if one[2:] == (pes, bandwidth)]
        if named:
            axes.scatter([one[0] for one in mine], [one[1] for one in mine], s=20, color=tone, edgecolors=INK, lw=0.4)
    if named:
        axes.legend(loc="best", fontsize=7)
    else:
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import FuncFormatter

        pes_of = [one[2] for one in found]
        norm = LogNorm(min(pes_of), max(*pes_of, min(pes_of) + 1))
        dots = axes.scatter(intensity, [one[1] for one in found], c=pes_of, norm=norm, s=20, lw=0.3, edgecolors=INK)
        bar = figure.colorbar(dots, ax=axes, label="PEs", shrink=0.8, format=FuncFormatter(_tick))
        bar.minorticks_off()
        bar.set_ticks(sorted(set(pes_of))[:: -(-len(set(pes_of)) // 8)])
    _plain_ticks(axes)
    axes.set_xlim(low, high)
    achieved = [one[1] for one in found]
    axes.set_ylim(min(achieved) / 2, 1.6 * max(pes for pes, _ in roofs))
    axes.set_xlabel("MACs per DRAM byte")
    axes.set_ylabel("MACs per cycle")
    axes.grid(True, which="major")
    return figure


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=15))
        axis.set_major_formatter(FuncFormatter(_tick))
        axis.set_minor_formatter(NullFormatter())


# Sensitivity ----------------------------------------------------------------------------------------------------


def spread(stored: Stored, said: str, name: str) -> tuple[float, list[tuple[str, float]]] | None:
    """How far an axis moves the mean of an objective.

    Args:
        said: an axis of the file; one of several keys is taken as a whole.
        name: a figure or numeric axis.
    Returns:
        (largest mean - smallest mean) / mean of all, and (value, mean) in order; None where fewer than two values have
        feasible points. More than `MOST_VALUES` numbers are cut into `RANGES` ranges of equally many points.
    """
    keys = keys_of(said)
    rows = [row for row in _done(stored, name) if all(key in row.setting for key in keys)]
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.setting[key] for key in keys), []).append(row)
    if len(groups) > MOST_VALUES and all(isinstance(one, int | float) for value in groups for one in value[:1]):
        ordered = sorted(rows, key=lambda row: (stored.value(row, keys[0]) or 0.0, row.position))
        cuts = [round(place) for place in np.linspace(0, len(ordered), RANGES + 1)]
        parts = [ordered[a:b] for a, b in pairwise(cuts) if b > a]
        means = [
            (
                f"{part[0].setting[keys[0]]:.4g}–{part[-1].setting[keys[0]]:.4g}",
                float(_values(stored, part, name).mean()),
            )
            for part in parts
        ]
    else:
        means = [
            (" × ".join(map(str, value)), float(_values(stored, part, name).mean())) for value, part in groups.items()
        ]
    whole = float(_values(stored, rows, name).mean()) if rows else 0.0
    if len(means) < 2 or not whole:
        return None
    heights = [mean for _, mean in means]
    return (max(heights) - min(heights)) / abs(whole), means


@styled
def sensitivity_figure(stored: Stored, objectives: Sequence[Objective]) -> Figure:
    """For each objective, how far each axis moves its mean; the axis that moves it most is on top."""
    if any(one.name.startswith("energy") for one in objectives):
        _one_unit(stored)
    panels = []
    for one in objectives:
        bars = [
            (said, found) for said in stored.file.axes if said != one.name and (found := spread(stored, said, one.name))
        ]
        if bars:
            panels.append((one, sorted(bars, key=lambda bar: -bar[1][0])))
    if not panels:
        raise LeftOut("no axis has two values with feasible points")
    rows = max(len(bars) for _, bars in panels)
    figure = sheet(
        max(4.4 * len(panels) + 1.2, 7.0),
        1.9 + 0.42 * rows,
        f"{_head(stored)}: sensitivity",
        f"{_counted(stored.rows)}; for each axis: (largest - smallest) / mean of all, over the means at its values",
        "behind a bar: the values with the smallest and the largest mean; infeasible points do not count",
    )
    for place, (one, bars) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        shares = [100 * found[0] for _, found in bars]
        axes.barh(range(len(bars)), shares, color=colour(place), height=0.6)
        for number, (_, (_, means)) in enumerate(bars):
            least, most = min(means, key=lambda m: m[1])[0], max(means, key=lambda m: m[1])[0]
            moved = f"{shares[number]:.3g} %: {_cut(least)} → {_cut(most)}" if shares[number] else "no effect"
            note(axes, shares[number], number, moved)
        axes.set_yticks(range(len(bars)), ["\n× ".join(_short(key) for key in keys_of(said)) for said, _ in bars])
        axes.invert_yaxis()
        linear_axis(axes, max(shares), 1.9)
        axes.set_xlabel(f"spread of mean {_short(one.name)} (% of its mean)")
        axes.set_ylim(rows - 0.4, -0.6)
    return figure


def _cut(text: str, most: int = 16) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
