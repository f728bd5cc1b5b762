"""What all figures share: their style, their files, and how they write numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from accelsim.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

FORMATS = ("png", "svg", "pdf")
DPI = 150
# Okabe and Ito's palette, told apart by readers with any colour vision; layers take it in turn, in network order.
LAYER_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A7F00")
# Paul Tol's muted palette; related places are next to each other in hue.
PLACE_COLOURS = {
    "multipliers": "#332288",
    "adders": "#CC6677",
    "partial-sum registers": "#882255",
    "operand registers": "#88CCEE",
    "accumulator memory": "#AA4499",
    "buffers": "#44AA99",
    "post-processing": "#999933",
    "DRAM": "#DDCC77",
    "idle": "#BBBBBB",
}
INK, SOFT, ALARM = "#222222", "#777777", "#B2182B"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that text is set alike everywhere
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.2,
    "legend.handleheight": 1.0,
    "hatch.linewidth": 0.4,
    "text.parse_math": False,  # a layer may be called $x$
    "svg.fonttype": "path",
    "svg.hashsalt": "accelsim",
}


def render(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a file; they name neither date nor version."""
    unstated = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    stream = BytesIO()
    with style():
        _settle(figure)
        metadata = unstated.get(kind, {"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
    return stream.getvalue()


def _settle(figure: Figure) -> None:
    """Lay the axes out once and keep them, on a grid that swallows what two layouts of one figure differ in.

    The constrained layout's solver (kiwisolver) orders its variables by their addresses, so that its sums differ in
    their last bits from process to process, and files would with them.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(edge, 5) for edge in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults with `STYLE`, whatever the user's own settings; theirs are back afterwards."""
    try:
        import matplotlib.style
    except ImportError as error:
        raise InputError(
            "figures need matplotlib, which is not installed; install it with pip install 'accelsim[plot]'"
        ) from error
    with matplotlib.style.context(["default", STYLE]):
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under `style`."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return in_style


def sheet(width: float, height: float, title: str, ran: str, note: str) -> Figure:
    """An empty figure of so many inches under a title, a line on what ran and one on how to read it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    # The layout makes room for one title: its first line is left to the bold one, which is laid over it.
    figure.suptitle(f"\n{ran}\n{note}", x=0.08 / width, ha="left", size=8, color=SOFT, linespacing=1.6)
    figure.text(0.08 / width, 1 - 0.06 / height, title, ha="left", va="top", size=10.5, weight="bold")
    return figure


def patch(colour: str, label: str, hatch: str | None = None, ink: str | None = None) -> Any:
    """An entry of a legend."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, label=label, hatch=hatch, edgecolor=ink, linewidth=0)


def colour(label: int) -> str:
    """A layer's colour."""
    return LAYER_COLOURS[label % len(LAYER_COLOURS)]


def linear_axis(axes: Axes, most: float, room: float) -> None:
    """An x axis from 0 to `room` times the largest value."""
    axes.set_xlim(0, most * room or 1)
    axes.grid(True, axis="x")


def note(axes: Axes, x: float, row: int, text: str) -> None:
    """Text behind the end of a bar."""
    axes.annotate(text, (x, row), xytext=(4, 0), textcoords="offset points", va="center", size=7.5, color=INK)


def short(name: str) -> str:
    """A layer's name in at most 24 characters; a module path is known by its end."""
    return name if len(name) <= 24 else "…" + name[-23:]


def share(part: float, whole: float) -> str:
    """A part of a whole in percent."""
    percent = 100 * part / whole if whole else 0.0
    return "< 0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def multiple(value: float, unit: str) -> tuple[float, str]:
    """The multiple of a table's unit in which `value` has one to three digits before the point."""
    steps = ("pJ", "nJ", "µJ", "mJ", "J") if unit == "pJ" else ("", "thousand", "million", "billion", "trillion")
    place = min(max(int(np.floor(np.log10(value) / 3)), 0), len(steps) - 1) if value > 0 else 0
    name = steps[place] if unit == "pJ" else f"{steps[place]} relative units".strip()
    return 1000.0**place, name


def unit_name(unit: str) -> str:
    """A table's unit as an axis names it."""
    return "relative units" if unit == "relative" else unit


def quantity(value: float, unit: str) -> str:
    """Three digits and a multiple of the table's unit."""
    factor, name = multiple(value, unit)
    return f"{digits(value / factor)} {name}"


def digits(value: float) -> str:
    """Three significant digits.

    >>> digits(0.93), digits(658.2), digits(0)
    ('0.930', '658', '0')
    """
    return f"{value:#.3g}".rstrip(".") if value else "0"


def power(base: int, exponent: int) -> str:
    """A power as text, without a mathematics parser.

    >>> power(10, -12)
    '10⁻¹²'
    """
    return f"{base}" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
