"""Why a layer takes its cycles, as one JSON object: format `accelsim-explanation` version 1 (docs/explain.md)."""

from __future__ import annotations

from typing import Any

from accelsim.config import Hardware
from accelsim.explore.changes import RELIEF
from accelsim.explore.explanation import Explanation, WhatIf
from accelsim.explore.measured import LayerTime, products
from accelsim.isa import Compute, Instruction, Load, Memory, Post, Source, Start, Store
from accelsim.report.document import describe_hardware
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
        "layer": None if label is None else program.layers[label].name,
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
        "relief": _key(found.best(label, RELIEF[time.bound])),
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
                    "causes": {str(cause): time.causes[cause] for cause in Cause},
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
            if hardware.dram.model != "simple":
                form += ", and what opening rows and refresh add"
        case _:
            raise TypeError(f"{type(instruction).__name__} is not an instruction")
    return {"what": _what(found, instruction), "cycles": cycles, "closed_form": form}


def _compute_form(compute: Compute, hardware: Hardware) -> str:
    shape = ArrayShape.of(hardware)
    rows, columns, interval = shape.rows, shape.columns, shape.mac_interval
    stream = stream_of(compute, shape)
    chunks = -(-compute.run_bytes // rows)
    runs = compute.r_count * compute.s_count
    tiles = f"{runs:,} run{'s' * (runs > 1)} x ceil({compute.run_bytes:,} / R = {rows})"
    if compute.output_stationary:
        preload = f"start values {rows} + " if compute.start != Start.ZERO else ""
        between = f"{stream.tiles - 1:,} x {stream.period:,} + " if stream.tiles > 1 else ""
        return (
            f"tiles ceil(M = {compute.words:,} / R = {rows}) = {stream.tiles:,}, each {tiles} = {runs * chunks:,} "
            f"pieces of R{f' x {shape.step}' * (shape.step > 1)} cycles: {preload}{between}{stream.last:,} + drain "
            f"{2 * rows + columns - 3 + D_ACC}"
        )
    words = f"M = {compute.words:,}" + f" x {interval}" * (interval > 1)
    gap = shape.wave + 1 - interval
    fill = f"{shape.switch} + R = {rows}" if shape.switch else f"R = {rows}"
    period = f"({words} + {gap} + R = {rows})" if compute.serial else f"max({fill}, {words})"
    between = f"{stream.tiles - 1:,} x {stream.period:,} + " if stream.tiles > 1 else ""
    return (
        f"tiles {tiles} = {stream.tiles:,} x {period}: first weights {rows} + {between}{stream.last:,} + drain "
        f"{gap + D_ACC}"
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
