"""An explanation as text for a terminal: sentences, and the figures that they rest on."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from accelsim.errors import printable
from accelsim.explore.changes import RELIEF
from accelsim.explore.explanation import WORTH_NAMING
from accelsim.explore.measured import Bound
from accelsim.report.text import table
from accelsim.timing.attribution import Cause

WIDTH = 118
STEPS_SHOWN = 12
"""Steps of a critical path a terminal is shown; JSON has all."""
GROUPS_SHOWN = 12
"""Kinds of instructions a terminal is shown; JSON has all."""


CAUSES = {
    Cause.DRAM_LATENCY: ("DRAM latency", "a LOAD or STORE waits for its first bytes"),
    Cause.DRAM_TRANSFER: ("DRAM transfers", "activations, parameters, tables or results move to or from DRAM"),
    Cause.WEIGHT_TRANSFER: ("weights from DRAM", "weights move from DRAM into their buffer"),
    Cause.WEIGHT_FILL: ("weights into the array", "no word can stream until the next weights are in the PEs"),
    Cause.ARRAY_STREAM: ("array streams", "a word of activations enters the array in each of these cycles"),
    Cause.ARRAY_DRAIN: ("array drains", "the last words cross the array and their sums are written"),
    Cause.POST: ("POST", "sums or activations become results: records, words, pipeline"),
}
SWAPPED = {
    Cause.WEIGHT_FILL: ("inputs into the array", "no word can stream until the next inputs are in the PEs"),
    Cause.ARRAY_STREAM: ("array streams", "a word of weights enters the array in each of these cycles"),
    Cause.DRAM_TRANSFER: ("DRAM transfers", "inputs, parameters or results move to or from DRAM"),
}
"""Where operands are swapped (is), the array holds inputs."""

BOUNDS = {
    "array-bound": "the array streams and drains, and most of its PEs are at work",
    "poorly filled array": "the array streams and drains, and fewer than half of its PEs are at work",
    "DRAM-bound": "bytes move to or from DRAM",
    "weight-load-bound": "weights are on their way, from DRAM into their buffer or from there into the array",
    "POST-bound": "POST turns sums or activations into results",
    "latency-bound": "transfers wait for their first bytes from DRAM",
}


def show_explanation(document: dict[str, Any]) -> str:
    """What `accelsim explain` prints: one layer in depth where the document has a critical path, else a table."""
    layers = document["layers"]
    head = (
        f"{printable(document['workload'])} on {document['machine']}, batch {document['batch']}, "
        f"{document['instructions']:,} instructions"
    )
    lines = _all(document) if document["layer"] is None else _one(document, layers[0])
    return "\n".join([head, "", *lines, *_notes(document)])


def _all(document: dict[str, Any]) -> list[str]:
    run = document["run"]
    titles = _titles(document)
    rows = []
    for layer in document["layers"]:
        best = _chosen(layer)
        rows.append(
            [
                printable(layer["name"]),
                layer["op"],
                f"{layer['cycles']:,}",
                f"{_percent(layer['cycles'], run['cycles'])}",
                _bound(layer),
                f"{_percent(layer['bound_cycles'], layer['cycles'])}",
                "-" if layer["array_fill"] is None else f"{100 * layer['array_fill']:.1f}",
                "-" if best is None else titles[tuple(best["keys"])],
                "-" if best is None else _number(best["cycles"]),
            ]
        )
    header = ["layer", "op", "cycles", "%", "bound", "% of layer", "PEs %", "helps most", "cycles then"]
    lines = [
        *table(header, rows, left=2),
        "",
        *_wrap(
            "%: of the run. Bound: what most of the layer's cycles go to, and how many of them. PEs %: those with a "
            "product while the array streams and drains. Helps most: the one change that saves the layer most."
        ),
        "",
        f"The whole run: {run['cycles']:,} cycles, {_bound(run)}",
        *_causes(document, run),
        "",
        "What if: the whole run",
        *_tried(document, run),
        "",
        "accelsim explain WORKLOAD --layer NAME explains one layer.",
    ]
    return lines


def _one(document: dict[str, Any], layer: dict[str, Any]) -> list[str]:
    run = document["run"]
    nodes = " + ".join(printable(node) for node in layer["nodes"][1:])
    lines = [
        f"layer {printable(layer['name'])} ({layer['op']}{f', with {nodes}' if nodes else ''}): {layer['cycles']:,} of "
        f"the run's {run['cycles']:,} cycles ({_percent(layer['cycles'], run['cycles'])} %), {_bound(layer)}",
        "",
        *_wrap(_verdict(document, layer)),
    ]
    if layer["cycles"]:
        lines += ["", "Where the cycles go, along the chain of events that decided when the layer was done:"]
        lines += _causes(document, layer)
    lines += [
        "",
        *_wrap(f"How an instruction's cycles come about, from issue to done. {_legend(layer)}"),
        *_forms(layer),
    ]
    lines += [
        "",
        "Units. On chain: cycles of the chain; stalls: cycles an instruction could issue in, but for a token:",
    ]
    lines += _units(layer)
    if layer["critical_path"]:
        lines += ["", *_path(document, layer)]
    lines += [
        "",
        "What if. Each line is a program on a machine, timed and simulated; then: what limits the layer there:",
    ]
    lines += _tried(document, layer)
    lines += ["", *_wrap(_advice(document, layer))]
    return lines


def _verdict(document: dict[str, Any], layer: dict[str, Any]) -> str:
    """The bound in sentences."""
    ahead = layer["cycles_ahead"]
    early = (
        f" Its first instruction issued {_cycles(ahead)} earlier, while the layers before still ran: what it did then "
        "costs nothing here."
        if ahead
        else ""
    )
    if layer["bound"] == "hidden":
        return "The layer has no cycles of its own: it is done before what precedes it in the program." + early
    share = _percent(layer["bound_cycles"], layer["cycles"])
    said = f"In {layer['bound_cycles']:,} of its {_cycles(layer['cycles'])} ({share} %) {BOUNDS[layer['bound']]}."
    fill = layer["fill"]
    if layer["array_fill"] is not None and fill is not None:
        array = document["hardware"]["array"]
        streams = layer["causes"]["array_stream"]
        of = streams + layer["causes"]["array_drain"]
        said += (
            f" Of the {array['rows'] * array['columns']:,} PEs {100 * layer['array_fill']:.1f} % have a product while "
            f"the array streams and drains. While it streams, the largest COMPUTE fills {100 * fill['rows']:.1f} % of "
            f"the {array['rows']} rows x {100 * fill['columns']:.1f} % of the {array['columns']} columns; words stream "
            f"in {_percent(streams, of)} % of those cycles."
        )
        if any(kind["what"].startswith("diagonal") for kind in layer["instructions"]):
            said += " The layer is depthwise: only the PEs on the array's diagonal multiply."
    if len(layer["passes"]) > 1:
        said += f" The batch runs in groups of images: the layer has {len(layer['passes'])} passes, counted together."
    return said + early


def _causes(document: dict[str, Any], time: dict[str, Any]) -> list[str]:
    texts = _texts(document)
    rows = [
        [texts[Cause(cause)][0], f"{cycles:,}", _percent(cycles, time["cycles"]), texts[Cause(cause)][1]]
        for cause, cycles in sorted(time["causes"].items(), key=lambda pair: -pair[1])
        if cycles
    ]
    rows.append(["sum", f"{sum(time['causes'].values()):,}", "100.0", ""])
    return _table(["", "cycles", "%", "what happens"], rows, flush_left=(0, 3))


def _texts(document: dict[str, Any]) -> dict[Cause, tuple[str, str]]:
    return {**CAUSES, **SWAPPED} if document["operands_swapped"] else CAUSES


def _legend(layer: dict[str, Any]) -> str:
    computes = any(kind["unit"] == "compute" for kind in layer["instructions"])
    return "R: rows of the array; M: words streamed past the weights of each tile." if computes else ""


def _forms(layer: dict[str, Any]) -> list[str]:
    kinds = sorted(layer["instructions"], key=lambda kind: -kind["count"] * kind["cycles"])[:GROUPS_SHOWN]
    rows = [
        [kind["unit"].upper(), kind["what"], f"{kind['count']:,} x", f"{kind['cycles']:,}", f"= {kind['closed_form']}"]
        for kind in layer["instructions"]
        if kind in kinds
    ]
    lines = _table(["unit", "what", "", "cycles", "how"], rows, flush_left=(0, 1, 4))
    if len(layer["instructions"]) > GROUPS_SHOWN:
        lines.append(f"... and {len(layer['instructions']) - GROUPS_SHOWN:,} kinds more, which take fewer; see --json")
    return lines


def _units(layer: dict[str, Any]) -> list[str]:
    rows = [
        [
            name.upper(),
            f"{unit['instructions']:,}",
            f"{unit['busy_cycles']:,}",
            f"{unit['critical_cycles']:,}",
            f"{sum(unit['stall_cycles'].values()):,}",
            ", ".join(f"for {source.upper()} {cycles:,}" for source, cycles in unit["stall_cycles"].items()),
        ]
        for name, unit in layer["units"].items()
    ]
    header = ["unit", "instructions", "busy", "on chain", "stalls", ""]
    return _table(header, rows, flush_left=(0, 5))


def _path(document: dict[str, Any], layer: dict[str, Any]) -> list[str]:
    path, texts = layer["critical_path"], _texts(document)
    several = " of its longest pass" if len(layer["passes"]) > 1 else ""
    lines = [f"The chain{several}: each step begins when the one before lets it; {len(path):,} steps"]
    head = (STEPS_SHOWN + 1) // 2
    shown = path if len(path) <= STEPS_SHOWN else [*path[:head], None, *path[-(STEPS_SHOWN - head) :]]
    rows = []
    for step in shown:
        if step is None:
            left = path[head : -(STEPS_SHOWN - head)]
            spent = sum(one["last"] - one["first"] + 1 for one in left)
            rows.append(["...", f"{spent:,}", f"{len(left):,} steps", "", "all of them with --json"])
            continue
        causes = ", ".join(f"{texts[Cause(cause)][0]} {cycles:,}" for cause, cycles in step["causes"].items())
        other = "" if step["layer"] == layer["name"] else f" of layer {printable(step['layer'])}"
        rows.append(
            [
                f"{step['first']:,}..{step['last']:,}",
                f"{step['last'] - step['first'] + 1:,}",
                f"{step['unit'].upper()} {step['instruction']}",
                f"{step['what']}{other}",
                causes,
            ]
        )
    return lines + _table(["cycles", "", "instruction", "what", "why"], rows, flush_left=(0, 2, 3, 4))


def _tried(document: dict[str, Any], time: dict[str, Any]) -> list[str]:
    """The changes, best first; those that take something away after the others."""
    changes = {tuple(change["keys"]): change for change in document["changes"]}
    ordered = sorted(
        time["what_if"], key=lambda one: (changes[tuple(one["keys"])]["takes_away"], -one["saved"], -len(one["keys"]))
    )
    whole = time is document["run"]
    rows = []
    for one in ordered:
        change = changes[tuple(one["keys"])]
        rows.append(
            [
                change["title"],
                _number(one["cycles"]),
                _signed(-one["saved"], time["cycles"]),
                *([] if whole else [_number(one["run_cycles"])]),
                _bound(one),
                change["change"] + (" *" if change["recompiled"] else ""),
            ]
        )
    run = [] if whole else ["run"]
    places = len(run)
    header = ["change", "cycles", "%", *run, "then", "exactly"]
    now = ["as it is", f"{time['cycles']:,}", "", *([] if whole else [f"{document['run']['cycles']:,}"])]
    lines = _table(header, [[*now, _bound(time), ""], *rows], flush_left=(0, 3 + places, 4 + places))
    return [*lines, "  * compiled again"] if any(change["recompiled"] for change in changes.values()) else lines


def _advice(document: dict[str, Any], layer: dict[str, Any]) -> str:
    """What would help most, from what was tried."""
    changes = {tuple(change["keys"]): change for change in document["changes"]}
    best = _chosen(layer)
    noise = max(WORTH_NAMING * layer["cycles"], 0.5)
    if best is None:
        said = ["No single change of the machine saves a hundredth of the layer's cycles."]
    else:
        said = [
            f"What would help most: {_says(best, changes)}, {layer['cycles']:,} -> {_number(best['cycles'])} cycles, "
            f"then {_bound(best)}. The run: {document['run']['cycles']:,} -> {_number(best['run_cycles'])}."
        ]
    if layer["relief"] is None and layer["cycles"]:
        said.append(f"Nothing tried that relieves the bound alone ({', '.join(_relief(layer, changes))}) helps.")
    elif layer["relief"] != layer["best"]:
        relief = next(one for one in layer["what_if"] if one["keys"] == layer["relief"])
        said.append(f"What relieves the bound itself: {_says(relief, changes)}, {_number(relief['cycles'])} cycles.")
    for one in layer["what_if"]:
        if len(one["keys"]) > 1 and one["saved"] > (best["saved"] if best else 0) + noise:
            said.append(
                f"Together, {_says(one, changes)}: {_number(one['cycles'])}. When one chain of events gets shorter, "
                "another that was nearly as long decides."
            )
    for one in layer["what_if"]:
        change = changes[tuple(one["keys"])]
        if change["batch_factor"] > 1 and len(one["keys"]) == 1 and one["saved"] >= noise:
            said.append(
                f"For throughput: a batch {change['batch_factor']} times as large takes {_number(one['cycles'])} "
                "cycles for the same images, in a longer run."
            )
    idle = [
        f"{_says(one, changes)} ({_number(one['cycles'])} cycles)"
        for one in layer["what_if"]
        if changes[tuple(one["keys"])]["takes_away"] and layer["cycles"] and one["saved"] > -noise
    ]
    if idle:
        said.append(f"Enough for this layer: {', or '.join(idle)}.")
    return " ".join(said)


def _says(one: dict[str, Any], changes: dict[tuple[str, ...], dict[str, Any]]) -> str:
    return str(changes[tuple(one["keys"])]["title"])


def _relief(layer: dict[str, Any], changes: dict[tuple[str, ...], dict[str, Any]]) -> list[str]:
    """Titles of the tried changes that take away what a layer's bound names."""
    return [change["title"] for keys, change in changes.items() if keys[0] in RELIEF[Bound(layer["bound"])]]


def _notes(document: dict[str, Any]) -> list[str]:
    lines = []
    for change in document["changes"]:
        if change["impossible"] is not None:
            lines += _wrap(f"Not possible: {change['title']}: {printable(change['impossible'])}")
    if document["not_recompiled"] is not None:
        lines += _wrap(
            f"Left out: changes that need another compilation (array, dataflow, buffers, batch): "
            f"{document['not_recompiled']}"
        )
    if document["mismatch"] is not None:
        lines += _wrap(f"DIFFERENT: {document['mismatch']}")
    return ["", *lines] if lines else []


def _bound(time: dict[str, Any]) -> str:
    """A bound, and of weights how far they are."""
    if time["bound"] != Bound.WEIGHTS:
        return str(time["bound"])
    causes = time["causes"]
    return f"{time['bound']} ({'DRAM' if causes['weight_transfer'] >= causes['weight_fill'] else 'array'})"


def _chosen(time: dict[str, Any]) -> dict[str, Any] | None:
    """The figures of the best change."""
    return next((one for one in time["what_if"] if one["keys"] == time["best"]), None)


def _titles(document: dict[str, Any]) -> dict[tuple[str, ...], str]:
    return {tuple(change["keys"]): change["title"] for change in document["changes"]}


def _table(header: list[str], rows: list[list[str]], *, flush_left: tuple[int, ...]) -> list[str]:
    """As `table`, with any columns flush left, and indented."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    padded = [
        [cell.ljust(widths[i]) if i in flush_left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        for row in [header, *rows]
    ]
    return ["  " + line for line in table(padded[0], padded[1:], left=len(header))]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False, break_long_words=False)  # names and paths stay whole


def _cycles(count: int) -> str:
    return f"{count:,} cycle{'s' * (count != 1)}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _signed(change: float, whole: float) -> str:
    return f"{100 * change / whole:+.1f}" if whole else "-"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == math.floor(value) else f"{value:,}"
