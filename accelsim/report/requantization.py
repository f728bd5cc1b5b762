"""What `accelsim requant-diff` found, as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import Any

from accelsim.report.text import table

MOST_STEPS = 8
"""Differences named in the histogram; the others are one figure."""


def show_requantization_difference(document: dict[str, Any]) -> str:
    """The document of docs/formats.md, section 10, for a terminal."""
    lines = [f"{side.upper()}  {_scheme(document[side])}" for side in ("a", "b")]
    if (sweep := document["sweep"]) is not None:
        lines += ["", *_sweep(sweep)]
    if (network := document["network"]) is not None:
        lines += ["", *_network(network)]
    return "\n".join(lines)


def _scheme(side: dict[str, Any]) -> str:
    how = side["requantization"]
    parts = [how["scheme"], how["rounding"]]
    if how["scheme"] == "fixed_point":
        parts.append(f"{how['multiplier_bits']}-bit multiplier")
    if how["order"] == "shift_first":
        parts.append(f"shift first, {how['guard_bits']} guard bits")
    if how["output_overflow"] == "wrap":
        parts.append("low bits kept")
    changes = f" with {' '.join(side['set'])}" if side["set"] else ""
    return f"{side['name']}{changes}: {', '.join(parts)}"


def _sweep(sweep: dict[str, Any]) -> list[str]:
    kind = "" if sweep["signed"] else "u"
    rows = []
    for family in sweep["families"]:
        off = _off_by(family)
        rows.append(
            [
                family["name"],
                f"{family['values']:,}",
                f"{100 * family['differing'] / family['values']:.3f}",
                *off,
                str(family["largest"]),
                *(f"{family['error'][side]['mean']:+.4f}" for side in ("a", "b")),
                *(f"{family['error'][side]['largest']:.4f}" for side in ("a", "b")),
            ]
        )
    header = ["pairs", "number", "differ %", "off by 1", "by 2", "more", "largest"]
    header += ["mean error A", "B", "largest A", "B"]
    lines = [
        f"sweep: {kind}int{sweep['bits']} results, Z = {sweep['zero_point']}; "
        f"multipliers {sweep['smallest_multiplier']:g}..1"
        f"{', powers of two alone' if sweep['multipliers'] != 'any' else ''}; seed {sweep['seed']}; "
        "errors against sum * M, in units of the last place",
        *table(header, rows),
        *_histogram("B - A", sweep["families"]),
    ]
    examples = [
        [
            family["name"],
            f"{one['acc']:,}",
            f"{one['multiplier']:.9g}",
            f"{one['exact']:,.6f}",
            str(one["a"]),
            str(one["b"]),
        ]
        for family in sweep["families"]
        for one in family["examples"]
    ]
    if examples:
        lines += ["", *table(["first and worst", "sum", "M", "exact", "A", "B"], examples)]
    return lines


def _network(network: dict[str, Any]) -> list[str]:
    labelled = "" if network["data"] is None else f" of {network['data']}"
    lines = [f"{network['workload']}, {network['images']:,} images{labelled}, {network['hardware']['name']}"]
    if network["compared"] == "requantization":
        under = network["quantization"]
        lines.append(
            f"quantised once{'' if under is None else f' under {under}'}; requantisation exchanged, multipliers from M"
        )
    else:
        keys = ", ".join(network["differing_keys"])
        lines += textwrap.wrap(f"two schemes, which differ in {keys}: compared end to end alone", 118)
    rows = []
    for layer in network["layers"]:
        cells = [layer["node"], layer["op"]]
        for key in ("same_inputs", "end_to_end"):
            found = layer[key]
            cells += ["-"] * 5 if found is None else [f"{found['differing']:,}", *_off_by(found), str(found["largest"])]
        found = layer["end_to_end"] or layer["same_inputs"]
        rows.append([*cells[:2], "-" if found is None else f"{found['values']:,}", *cells[2:]])
    header = ["layer", "op", "values", "same inputs", "off by 1", "by 2", "more", "largest"]
    header += ["end to end", "off by 1", "by 2", "more", "largest"]
    lines += table(header, rows, left=2)
    judged = network["classification"]
    if judged is None:
        return lines
    lines.append("")
    if (accuracy := judged["accuracy"]) is not None:
        lines.append(
            f"accuracy     A {100 * accuracy['a']:.2f} %, B {100 * accuracy['b']:.2f} %; "
            f"right in A alone {accuracy['only_a_right']:,}, in B alone {accuracy['only_b_right']:,}"
        )
    lines.append(f"predictions  {judged['predictions_differ']:,} of {network['images']:,} differ")
    return lines


def _off_by(found: dict[str, Any]) -> list[str]:
    counts = [0, 0, 0]
    for step, count in found["steps"].items():
        counts[min(abs(int(step)), 3) - 1] += count
    return [f"{count:,}" for count in counts]


def _histogram(title: str, families: list[dict[str, Any]]) -> list[str]:
    """One line a family: how often each difference occurs, smallest magnitudes first."""
    lines = []
    for family in families:
        steps = sorted(((int(step), count) for step, count in family["steps"].items()), key=lambda x: (abs(x[0]), x[0]))
        if not steps:
            continue
        shown = "  ".join(f"{step:+d}: {count:,}" for step, count in steps[:MOST_STEPS])
        rest = sum(count for _, count in steps[MOST_STEPS:])
        lines.append(f"{title}, {family['name']}: {shown}{f'  others: {rest:,}' if rest else ''}")
    return lines
