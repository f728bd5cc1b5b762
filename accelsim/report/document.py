"""The report of a run as one JSON object, format `accelsim-report` version 1 (docs/formats.md)."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

from accelsim.accounting import count_of, layer_counts, layer_cycles
from accelsim.config import Hardware
from accelsim.energy import EnergyReport
from accelsim.energy.evaluation import as_number
from accelsim.ir import IntegerGraph, Mac, MatMul, proved_overflow_free
from accelsim.isa import Unit
from accelsim.machine import Issued
from accelsim.numerics import Requantization
from accelsim.pipeline import Outcome
from accelsim.report.unit_times import busy_cycles


def array_spans(timeline: list[Issued]) -> Counter[int]:
    """By layer, cycles from its first weight load or read to its last wave's end, over runs of its COMPUTEs."""
    total: Counter[int] = Counter()
    computes = ((issued.label, issued.span) for issued in timeline if issued.span is not None)
    for label, run in groupby(computes, key=lambda pair: pair[0]):
        spans = [span for _, span in run]
        total[label] += spans[-1][1] - spans[0][0] + 1
    return total


def stalls(timeline: list[Issued]) -> dict[int, Counter[str]]:
    """By layer, stall cycles of its instructions by cause: ``<unit>_waits_for_<unit>``."""
    total: dict[int, Counter[str]] = {}
    for issued in timeline:
        for source, cycles in issued.stalls:
            causes = total.setdefault(issued.label, Counter())
            causes[f"{issued.unit.name.lower()}_waits_for_{source.name.lower()}"] += cycles
    return total


def build_report(outcome: Outcome, graph: IntegerGraph, energy: EnergyReport) -> dict[str, Any]:
    """Everything a run found, ready for JSON; `totals` and `layers` describe one batch."""
    program, timeline = outcome.program, outcome.timed.timeline
    hardware = program.hardware
    pes = hardware.array.rows * hardware.array.columns
    cycles = outcome.timed.cycles or 0
    counts, stalled, spans = layer_counts(outcome), stalls(timeline), array_spans(timeline)
    layers: list[dict[str, Any]] = []
    for label, (layer, spent, took, priced) in enumerate(
        zip(program.layers, counts, layer_cycles(outcome), energy.layers, strict=True)
    ):
        macs = count_of(spent, "mul")
        layers.append(
            {
                "name": layer.name,
                "op": layer.op,
                "nodes": list(layer.nodes),
                **_bits(outcome, graph, label),
                "cycles": took,
                "macs": macs,
                "stall_cycles": dict(sorted(stalled.get(label, Counter()).items())),
                "utilization": macs / (took * pes) if took else 0.0,
                "dram_bytes_read": count_of(spent, "dram.read"),
                "dram_bytes_written": count_of(spent, "dram.write"),
                "energy": as_number(priced.energy),
                "energy_by_op": {op: figure.as_numbers() for op, figure in priced.by_op.items()},
                **_partial_sums(outcome, graph, label),
                "array_span_cycles": spans[label],
            }
        )
    macs = sum(layer["macs"] for layer in layers)
    seconds = cycles / (hardware.clock_mhz * 1e6)
    report: dict[str, Any] = {
        "format": "accelsim-report",
        "version": 1,
        "workload": program.name,
        "hardware": hardware.model_dump(mode="json"),
        "batch": program.batch,
        "bit_exact": outcome.bit_exact,
        "mismatch": None if outcome.mismatch is None else str(outcome.mismatch),
        "totals": {
            "cycles": cycles,
            "macs": macs,
            "energy": as_number(energy.energy),
            "energy_unit": energy.table.unit,
            "energy_table": energy.table.name,
            "utilization": macs / (cycles * pes) if cycles else 0.0,
            "latency_seconds": seconds,
            "images_per_second": program.batch / seconds if seconds else 0.0,
            "tops": 2 * macs / seconds * 1e-12 if seconds else 0.0,
            "instructions": len(program.instructions),
            "busy_cycles": {
                unit.name.lower(): busy_cycles([issued for issued in timeline if issued.unit is unit]) for unit in Unit
            },
        },
        "energy_by_op": {op: figure.as_numbers() for op, figure in energy.by_op.items()},
        "energy_title": energy.table.title,
        "energy_sources": {op: energy.table.provenance(op) for op in energy.by_op},
        "energy_notes": list(energy.notes),
        "layers": layers,
        "activation": {"bits": graph.activation.bits, "signed": graph.activation.signed},
        "requantization": _requantization(graph.requantization),
        "zero_points": graph.zero_points,
        "bias_at": graph.bias_at,
        "images_checked": outcome.images_checked,
        "accuracy": outcome.accuracy,
        "outputs": None if outcome.outputs is None else outcome.outputs.tolist(),
    }
    return report


def _bits(outcome: Outcome, graph: IntegerGraph, label: int) -> dict[str, int | None]:
    """Bits of a layer's weights and of its sums; null where it has no products."""
    node = graph.by_name[outcome.program.layers[label].name]
    if not isinstance(node, Mac):
        return {"weight_bits": None, "accumulator_width_bits": None}
    width = node.accumulator_width_bits or outcome.program.hardware.accumulator.width_bits
    return {"weight_bits": node.weight_bits, "accumulator_width_bits": width}


def _requantization(how: Requantization) -> dict[str, Any]:
    return {
        "scheme": how.scheme.value,
        "rounding": how.rounding.value,
        "multiplier_bits": how.multiplier_bits,
        "order": how.order,
        "guard_bits": how.guard_bits,
        "output_overflow": how.output_overflow,
    }


def _partial_sums(outcome: Outcome, graph: IntegerGraph, label: int) -> dict[str, int | None]:
    """Extremes and overflows of a layer's partial sums; null where not watched, but for what the weights prove."""
    watched = outcome.timed.statistics.get(label)
    if watched is not None and watched.minimum is not None:
        return {"psum_min": watched.minimum, "psum_max": watched.maximum, "overflows": watched.overflows}
    node = graph.by_name[outcome.program.layers[label].name]
    arithmetic = outcome.program.hardware.arithmetic()
    proved = not isinstance(node, Mac | MatMul) or proved_overflow_free(graph, node, arithmetic)
    return {"psum_min": None, "psum_max": None, "overflows": 0 if proved else None}


def describe_hardware(hardware: Hardware) -> str:
    """One line for a report's head."""
    array, accumulator = hardware.array, hardware.accumulator
    psum = "" if hardware.psum_bits == accumulator.width_bits else f", {hardware.psum_bits}-bit partial sums"
    when = "at every add" if accumulator.saturate_at == "every_add" else "at the end"
    verb = "saturating" if accumulator.overflow == "saturate" else "wrapping"
    return (
        f"{hardware.name}: {array.rows}x{array.columns} {array.dataflow}, {accumulator.width_bits}-bit accumulator "
        f"{verb} {when}{psum}, {hardware.clock_mhz:g} MHz"
    )
