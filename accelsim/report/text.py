"""The report of a run as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import Any

from accelsim.config import Hardware
from accelsim.energy import EnergyReport, by_place
from accelsim.energy.evaluation import as_number
from accelsim.report.document import describe_hardware


def table(header: list[str], rows: list[list[str]], *, left: int = 1) -> list[str]:
    """Columns as wide as their widest cell; the first `left` are flush left, the others flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *map(line, rows)]


def show(report: dict[str, Any], hardware: Hardware, energy: EnergyReport) -> str:
    """What `accelsim run` prints."""
    totals, unit = report["totals"], report["totals"]["energy_unit"]
    lines = [
        f"{report['workload']} on {describe_hardware(hardware)}",
        f"batch {report['batch']}, zero points {report['zero_points']}, bias in the {report['bias_at']}; "
        "activation buffer 3R2W",
        "",
        *_layers(report),
        "",
        *textwrap.wrap(report["energy_title"], 118),
        *_energy(report, energy),
        *(line for note in report["energy_notes"] for line in _wrapped(note)),
        "",
        f"cycles       {totals['cycles']:,} ({totals['latency_seconds'] * 1e6:,.1f} us, "
        f"{totals['images_per_second']:,.0f} images/s at {hardware.clock_mhz:g} MHz)",
        f"utilization  {100 * totals['utilization']:.1f} % of {hardware.array.rows * hardware.array.columns} PEs "
        f"({totals['tops']:.4g} of {hardware.peak_tops:.4g} TOPS)",
        f"energy       {_figure(totals['energy'])} {unit} ({totals['energy_table']})",
    ]
    if report["accuracy"] is not None:
        right = round(report["accuracy"] * report["images_checked"])
        lines.append(f"accuracy     {100 * report['accuracy']:.2f} % ({right} of {report['images_checked']} images)")
    judged = report["bit_exact"]
    lines.append(
        "bit_exact: not checked"
        if judged is None
        else f"bit_exact: {str(judged).lower()} ({report['images_checked']} images, every written tensor)"
    )
    if report["mismatch"] is not None:
        lines.append(f"first difference: {report['mismatch']}")
    return "\n".join(lines)


def show_image(image: Any, digit: int, label: int | None) -> str:
    """Draw a (H, W) image in [0, 1] with text, every second row, and say what it was taken for."""
    shades = " .:-=+*#%@"
    rows = image[::2]
    drawn = ["".join(shades[int(min(max(v, 0.0), 1.0) * (len(shades) - 1) + 0.5)] for v in row) for row in rows]
    drawn = [line.rstrip() for line in drawn]
    while drawn and not drawn[0]:
        drawn.pop(0)
    while drawn and not drawn[-1]:
        drawn.pop()
    truth = "" if label is None else f" (labelled {label})"
    return "\n".join([*drawn, f"taken for a {digit}{truth}"])


def _layers(report: dict[str, Any]) -> list[str]:
    rows = []
    for layer in report["layers"]:
        stalled = sum(layer["stall_cycles"].values())
        psum = "-" if layer["psum_min"] is None else f"{layer['psum_min']:,}..{layer['psum_max']:,}"
        overflows = "-" if layer["overflows"] is None else f"{layer['overflows']:,}"
        rows.append(
            [
                layer["name"],
                "+".join([layer["op"], *layer["nodes"][1:]]),
                f"{layer['cycles']:,}",
                f"{layer['macs']:,}",
                f"{100 * layer['utilization']:.1f}",
                f"{stalled:,}",
                f"{layer['dram_bytes_read'] + layer['dram_bytes_written']:,}",
                psum,
                overflows,
                _figure(layer["energy"]),
            ]
        )
    header = ["layer", "op", "cycles", "MACs", "util %", "stalls", "DRAM B", "partial sums", "overflows", "energy"]
    return table(header, rows, left=2)


def _energy(report: dict[str, Any], energy: EnergyReport) -> list[str]:
    total = energy.energy or 1
    rows = []
    for place, value in by_place(energy.by_op).items():
        if value:
            rows.append([place, _figure(as_number(value)), f"{float(100 * value / total):.1f}"])
    ops = [
        [op, f"{f['count']:,}", f"{f['bits']:.4g}", f"{f['energy_per_bit']:.4g}", _figure(f["energy"])]
        for op, f in report["energy_by_op"].items()
        if f["energy"]
    ]
    unit = report["totals"]["energy_unit"]
    return [
        *table(["energy by operation", "N", "bits", f"{unit}/bit", "N*B*S"], ops),
        "",
        *table(["energy by place", unit, "%"], rows),
    ]


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note, 118, initial_indent="- ", subsequent_indent="  ")


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
