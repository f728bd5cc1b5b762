"""Why a layer takes its cycles, as one JSON object and as text: format `accelsim-explanation` version 1."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from accelsim.config import Hardware
from accelsim.explore.explanation import Explanation, WhatIf
from accelsim.explore.measured import LayerTime, products
from accelsim.isa import Compute, Instruction, Load, Memory, Post, Source, Start, Store, Unit
from accelsim.report.document import describe_hardware
from accelsim.report.text import table
from accelsim.timing import (
    D_ACC,
    D_POST,
    ArrayShape,
    compute_counts,
    compute_times,
    post_cycles,
    transfer_cycles,
)
from accelsim.timing.attribution import Cause, Step, stream_of

FORMAT, VERSION = "accelsim-explanation", 1
WIDTH = 118
STEPS_SHOWN = 12
"""Steps of a critical path a terminal is shown; JSON has all."""
GROUPS_SHOWN = 12
"""Kinds of instructions a terminal is shown; JSON has all."""


def build_explanation(found: Explanation, label: int | None = None) -> dict[str, Any]:
    """Everything an explanation found, ready for JSON.

    Args:
        found: the explanation.
        label: of the one layer that is asked for; None for all, without critical paths.
    """
    program = found.program
    labels = range(len(program.layers)) if label is None else [label]
    hardware = program.hardware
    return {
        "format": FORMAT,
        "version": VERSION,
        "workload": program.name,
        "machine": describe_hardware(hardware),
        "hardware": hardware.model_dump(mode="json"),
        "batch": program.batch,
        "instructions": len(program.instructions),
        "operands_swapped": program.input.layout == "columns",
        "simulated": found.mismatch is None,
        "mismatch": found.mismatch,
        "not_recompiled": found.why_not_compiled,
        "run": {**_time(found.time()), "what_if": _what_ifs(found, None), "best": _key(found.best())},
        "layers": [_layer(found, one, with_path=label is not None) for one in labels],
        "changes": [
            {
                "keys": list(one.keys),
                "title": one.title,
                "change": one.change,
                "recompiled": one.recompiled,
                "takes_away": one.smaller,
                "batch_factor": one.batch,
                "impossible": one.impossible,
            }
            for one in found.what_ifs
        ],
    }


def _layer(found: Explanation, label: int, *, with_path: bool) -> dict[str, Any]:
    program, time = found.program, found.time(label)
    layer, hardware = program.layers[label], program.hardware
    pes = hardware.array.rows * hardware.array.columns
    macs = sum(
        compute_counts(instruction, ArrayShape.of(hardware))["mul"] * count
        for instruction, count in ((program.instructions[first], count) for first, count in found.alike[label])
        if isinstance(instruction, Compute)
    )
    units = {
        unit.name.lower(): {
            "instructions": spent.instructions,
            "busy_cycles": spent.busy,
            "critical_cycles": time.units[unit],
            "stall_cycles": {source.name.lower(): cycles for source, cycles in sorted(spent.stalls.items())},
        }
        for unit, spent in sorted(found.units[label].items())
    }
    document = {
        "name": layer.name,
        "op": layer.op,
        "nodes": list(layer.nodes),
        **_time(time),
        "macs": macs,
        "utilization": macs / (time.cycles * pes) if time.cycles else 0.0,
        "passes": [list(one) for one in time.passes],
        "cycles_ahead": found.ahead[label],
        "units": units,
        "instructions": [
            {"unit": instruction.UNIT.name.lower(), "count": count, **_closed_form(found, instruction)}
            for instruction, count in ((program.instructions[first], count) for first, count in found.alike[label])
        ],
        "fill": _fill(found, label),
        "what_if": _what_ifs(found, label),
        "best": _key(found.best(label)),
    }
    if with_path:
        document["critical_path"] = [_step(found, step) for step in time.path]
    return document


def _time(time: LayerTime) -> dict[str, Any]:
    return {
        "cycles": time.cycles,
        "causes": {str(cause): time.causes[cause] for cause in Cause},
        "bound": str(time.bound),
        "bound_cycles": time.cycles_of(time.bound),
        "array_fill": time.fill,
    }


def _what_ifs(found: Explanation, label: int | None) -> list[dict[str, Any]]:
    """What each change that could be tried makes of a layer, or the run."""
    result = []
    for one in found.what_ifs:
        if one.impossible is None:
            time = one.run if label is None else one.layers[label]
            assert time is not None
            result.append(
                {
                    "keys": list(one.keys),
                    "cycles": one.cycles(label),
                    "saved": found.saved(one, label),
                    "bound": str(time.bound),
                    "run_cycles": one.cycles(),
                }
            )
    return result


def _key(what_if: WhatIf | None) -> list[str] | None:
    return None if what_if is None else list(what_if.keys)


def _step(found: Explanation, step: Step) -> dict[str, Any]:
    instruction = found.program.instructions[step.instruction]
    return {
        "instruction": step.instruction,
        "unit": instruction.UNIT.name.lower(),
        "layer": found.program.layers[instruction.label].name,
        "what": _what(found, instruction),
        "first": step.first,
        "last": step.last,
        "causes": {str(cause): count for cause, count in found.measured.attribution.causes(step).items()},
    }


# Closed forms -------------------------------------------------------------------------------------------------


def _what(found: Explanation, instruction: Instruction) -> str:
    """What an instruction does, in a word or two."""
    match instruction:
        case Store():
            return "results"
        case Load():
            held = {"weight": "inputs", "activation": "weights"} if found.program.input.layout == "columns" else {}
            memory = Memory(instruction.memory).name.lower()
            plural = {"weight": "weights", "activation": "activations", "parameter": "parameters", "table": "table"}
            return held.get(memory, plural[memory])
        case Compute():
            kind = "os" if instruction.output_stationary else "diagonal" if instruction.diagonal else "ws"
            return f"{kind}, {instruction.lanes} lanes"
        case Post():
            source = "accumulators" if instruction.source == Source.ACCUMULATOR else "activations"
            return f"{source}, {instruction.lanes} lanes"
    raise TypeError(f"{type(instruction).__name__} is not an instruction")


def _closed_form(found: Explanation, instruction: Instruction) -> dict[str, Any]:
    """An instruction's cycles from issue to done, undisturbed, and how they come about in this case's numbers."""
    hardware = found.program.hardware
    match instruction:
        case Compute():
            times = compute_times(instruction, ArrayShape.of(hardware), None, 0)
            cycles, form = times.done + 1 - times.issue, _compute_form(instruction, hardware)
        case Post():
            cycles, form = post_cycles(instruction), _post_form(instruction)
        case Load():
            cycles = transfer_cycles(instruction, hardware)
            width = hardware.dram.bandwidth_bytes_per_cycle
            rows = f"{instruction.rows:,} row{'s' * (instruction.rows > 1)}"
            form = f"latency {hardware.dram.latency_cycles:,} + {rows} x ceil({instruction.row_bytes:,} B / {width} B)"
        case _:
            raise TypeError(f"{type(instruction).__name__} is not an instruction")
    return {"what": _what(found, instruction), "cycles": cycles, "closed_form": form}


def _compute_form(compute: Compute, hardware: Hardware) -> str:
    rows, columns = ArrayShape.of(hardware)
    stream = stream_of(compute, ArrayShape.of(hardware))
    chunks = -(-compute.run_bytes // rows)
    runs = compute.r_count * compute.s_count
    tiles = f"{runs:,} run{'s' * (runs > 1)} x ceil({compute.run_bytes:,} / R = {rows})"
    if compute.output_stationary:
        preload = f"start values {rows} + " if compute.start != Start.ZERO else ""
        between = f"{stream.tiles - 1:,} x {stream.period:,} + " if stream.tiles > 1 else ""
        return (
            f"tiles ceil(M = {compute.words:,} / R = {rows}) = {stream.tiles:,}, each {tiles} = {runs * chunks:,} "
            f"pieces of R cycles: {preload}{between}{stream.last:,} + drain {2 * rows + columns - 3 + D_ACC}"
        )
    period = f"(M = {compute.words:,} + {rows + columns - 2} + R = {rows})" if compute.serial else None
    period = period or f"max(R = {rows}, M = {compute.words:,})"
    between = f"{stream.tiles - 1:,} x {stream.period:,} + " if stream.tiles > 1 else ""
    return (
        f"tiles {tiles} = {stream.tiles:,} x {period}: first weights {rows} + {between}{compute.words:,} + drain "
        f"{rows + columns - 2 + D_ACC}"
    )


def _post_form(post: Post) -> str:
    records = 1 if post.broadcast else post.lanes * (1 + post.residual_on)
    reads = 2 if post.residual_on and post.source == Source.ACTIVATION else 1
    window = f" x window {post.window}" if post.window > 1 else ""
    twice = f" x {reads} reads" if reads > 1 else ""
    return f"records {records} + words {post.words:,}{window}{twice} + pipeline {D_POST}"


def _fill(found: Explanation, label: int) -> dict[str, float] | None:
    """How a layer's largest COMPUTE fills the array: rows, columns and cycles, as shares; None without a COMPUTE."""
    shape = ArrayShape.of(found.program.hardware)
    computes = [
        (instruction, count)
        for first, count in found.alike[label]
        if isinstance(instruction := found.program.instructions[first], Compute)
    ]
    if not computes:
        return None
    compute, _ = max(computes, key=lambda pair: pair[1] * stream_of(pair[0], shape).cycles)
    columns = (1 if compute.diagonal else compute.lanes) / shape.columns
    streaming = stream_of(compute, shape).cycles
    rows = products(compute) / (streaming * shape.rows * shape.columns * columns)
    return {"rows": rows, "columns": columns, "both": rows * columns}


# Text ---------------------------------------------------------------------------------------------------------

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
    lines = _one(document, layers[0]) if "critical_path" in layers[0] else _all(document)
    return "\n".join([head, "", *lines, *_notes(document)])


def printable(name: str) -> str:
    """A name of the user's on one line, with what a terminal would obey shown as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


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
                layer["bound"],
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
        f"The whole run: {run['cycles']:,} cycles, mostly {run['bound']}",
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
        f"the run's {run['cycles']:,} cycles ({_percent(layer['cycles'], run['cycles'])} %), {layer['bound']}",
        "",
        *_wrap(_verdict(document, layer)),
    ]
    if layer["cycles"]:
        lines += ["", "Where the cycles go, along the chain of events that decided when the layer was done:"]
        lines += _causes(document, layer)
    lines += ["", "How an instruction's cycles come about, from issue to done:", *_forms(layer)]
    lines += ["", "Units; a stall is a cycle in which an instruction could issue, but for what it waits for:"]
    lines += _units(layer)
    if layer["critical_path"]:
        lines += ["", *_path(layer)]
    lines += ["", "What if; each is a program for a machine, timed and simulated:", *_tried(document, layer)]
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
    if len(layer["passes"]) > 1:
        said += f" The batch runs in groups of images: the layer has {len(layer['passes'])} passes, counted together."
    return said + early


def _causes(document: dict[str, Any], time: dict[str, Any]) -> list[str]:
    texts = {**CAUSES, **SWAPPED} if document["operands_swapped"] else CAUSES
    rows = [
        [texts[Cause(cause)][0], f"{cycles:,}", _percent(cycles, time["cycles"]), texts[Cause(cause)][1]]
        for cause, cycles in sorted(time["causes"].items(), key=lambda pair: -pair[1])
        if cycles
    ]
    rows.append(["sum", f"{sum(time['causes'].values()):,}", "100.0", ""])
    return _table(["", "cycles", "%", "what happens"], rows, flush_left=(0, 3))


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
    header = ["unit", "instructions", "busy", "decide", "stalls", ""]
    return _table(header, rows, flush_left=(0, 5))


def _path(layer: dict[str, Any]) -> list[str]:
    path = layer["critical_path"]
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
        causes = ", ".join(f"{Cause(cause).replace('_', ' ')} {cycles:,}" for cause, cycles in step["causes"].items())
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
                one["bound"],
                change["change"] + (", compiled again" if change["recompiled"] else ""),
            ]
        )
    run = [] if whole else ["run"]
    places = len(run)
    header = ["change", "cycles", "%", *run, "then", "exactly"]
    now = ["as it is", f"{time['cycles']:,}", "", *([] if whole else [f"{document['run']['cycles']:,}"])]
    return _table(header, [[*now, time["bound"], ""], *rows], flush_left=(0, 3 + places, 4 + places))


def _advice(document: dict[str, Any], layer: dict[str, Any]) -> str:
    """What would help most, from what was tried."""
    titles = _titles(document)
    best = _chosen(layer)
    together = [one for one in layer["what_if"] if len(one["keys"]) > 1]
    batches = {tuple(change["keys"]): change["batch_factor"] for change in document["changes"]}
    if best is None:
        said = "No single change saves a hundredth of the layer's cycles."
    else:
        said = (
            f"Most would help: {titles[tuple(best['keys'])]}, {layer['cycles']:,} -> {_number(best['cycles'])} cycles; "
            f"the layer is then {best['bound']}. The run: {document['run']['cycles']:,} -> "
            f"{_number(best['run_cycles'])}."
        )
    for one in together:
        if one["saved"] > (best["saved"] if best else 0):
            said += (
                f" Together, {titles[tuple(one['keys'])]} make it {_number(one['cycles'])}: where one chain gets "
                "shorter, another that was nearly as long decides."
            )
    for one in layer["what_if"]:
        factor = batches[tuple(one["keys"])]
        if factor > 1 and len(one["keys"]) == 1 and one["saved"] >= max(0.01 * layer["cycles"], 0.5):
            said += (
                f" For throughput: a batch {factor} times as large takes {_number(one['cycles'])} cycles for the same "
                "images, and a longer run."
            )
    return said


def _notes(document: dict[str, Any]) -> list[str]:
    lines = []
    for change in document["changes"]:
        if change["impossible"] is not None:
            lines += _wrap(f"Not possible: {change['title']}: {change['impossible']}")
    if document["not_recompiled"] is not None:
        lines += _wrap(
            f"Left out: changes that need another compilation (array, dataflow, buffers, batch): "
            f"{document['not_recompiled']}"
        )
    if document["mismatch"] is not None:
        lines += _wrap(f"DIFFERENT: {document['mismatch']}")
    return ["", *lines] if lines else []


def _chosen(time: dict[str, Any]) -> dict[str, Any] | None:
    """The figures of the best change."""
    return next((one for one in time["what_if"] if one["keys"] == time["best"]), None)


def _titles(document: dict[str, Any]) -> dict[tuple[str, ...], str]:
    return {tuple(change["keys"]): change["title"] for change in document["changes"]}


def _table(header: list[str], rows: list[list[str]], *, flush_left: tuple[int, ...]) -> list[str]:
    """As `table`, with any columns flush left, and indented."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    padded = [
        [cell.ljust(width) if i in flush_left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in [header, *rows]
    ]
    return ["  " + line for line in table(padded[0], padded[1:], left=len(header))]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _cycles(count: int) -> str:
    return f"{count:,} cycle{'s' * (count != 1)}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _signed(change: float, whole: float) -> str:
    return f"{100 * change / whole:+.1f}" if whole else "-"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == math.floor(value) else f"{value:,}"
