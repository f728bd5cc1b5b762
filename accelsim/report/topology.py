"""The report of a topology: its layers run one by one, as JSON and as a table."""

from __future__ import annotations

from typing import Any

from accelsim.config import Hardware
from accelsim.report.document import describe_hardware
from accelsim.report.text import table

SUMS = ("cycles", "array_span_cycles", "macs", "dram_bytes_read", "dram_bytes_written", "energy")


def topology_report(workload: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Reports of the layers' own runs, put together: format `accelsim-topology` (docs/formats.md).

    Args:
        reports: of `build_report`, one a layer, at least one, all of one machine, batch and energy table.
    """
    first = reports[0]
    hardware = first["hardware"]
    layers = [
        {**report["layers"][0], "bit_exact": report["bit_exact"], "mismatch": report["mismatch"]} for report in reports
    ]
    totals: dict[str, Any] = {key: sum(layer[key] for layer in layers) for key in SUMS}
    cycles, macs = totals["cycles"], totals["macs"]
    totals |= {key: first["totals"][key] for key in ("energy_unit", "energy_table")}
    totals["utilization"] = macs / (cycles * hardware["array"]["rows"] * hardware["array"]["columns"])
    totals["milliseconds"] = cycles / (hardware["clock_mhz"] * 1e3)
    return {
        "format": "accelsim-topology",
        "version": 1,
        "workload": workload,
        "hardware": hardware,
        "batch": first["batch"],
        "bit_exact": all(report["bit_exact"] for report in reports),
        "images_checked": first["images_checked"],
        "totals": totals,
        "layers": layers,
    }


def show_topology(report: dict[str, Any], hardware: Hardware) -> str:
    """The same for a terminal."""
    totals = report["totals"]
    rows = [
        [layer["name"], layer["op"], *_cells(layer)]
        for layer in [*report["layers"], {**totals, "name": "total", "op": ""}]
    ]
    header = ["layer", "op", "cycles", "array span", "MACs", "util %", "DRAM B", "energy"]
    lines = [
        f"{report['workload']} on {describe_hardware(hardware)}",
        f"batch {report['batch']}; {len(report['layers'])} independent layers with random values",
        "",
        *table(header, rows, left=2),
        "",
        f"cycles       {totals['cycles']:,} ({totals['milliseconds']:,.3f} ms at {hardware.clock_mhz:g} MHz)",
        f"array span   {totals['array_span_cycles']:,} cycles from each layer's first load or read to its last product",
        f"energy       {totals['energy']:,.1f} {totals['energy_unit']} ({totals['energy_table']})",
        f"bit_exact: {str(report['bit_exact']).lower()} ({report['images_checked']} images of each layer)",
    ]
    lines += [f"first difference: {x['name']}: {x['mismatch']}" for x in report["layers"] if not x["bit_exact"]][:1]
    return "\n".join(lines)


def _cells(figures: dict[str, Any]) -> list[str]:
    return [
        f"{figures['cycles']:,}",
        f"{figures['array_span_cycles']:,}",
        f"{figures['macs']:,}",
        f"{100 * figures['utilization']:.1f}",
        f"{figures['dram_bytes_read'] + figures['dram_bytes_written']:,}",
        f"{figures['energy']:,.1f}",
    ]
