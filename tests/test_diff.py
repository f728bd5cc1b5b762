"""`accelsim diff`: figures against the reports themselves, limits, other networks, files that are no reports."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.accounting import price
from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.energy import load_energy
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import run_checked
from accelsim.report import build_report
from accelsim.report.diff import LIMITED

CHANGES = ("array.dataflow=os", "array.rows=4", "accumulator.width_bits=20", "clock_mhz=100")


@pytest.fixture(scope="module")
def reports() -> tuple[dict, dict]:
    """One network, as JSON has it, on two machines."""
    maker = GraphMaker(np.random.default_rng(3), Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN))
    left = maker.conv(maker.input(8, 8, 3), 12, (3, 3), padding=(1, 1, 1, 1))
    maker.linear(maker.pool(maker.conv(left, 10, (3, 3)), "max", (2, 2), (2, 2)), 5)
    graph = maker.graph()
    found = []
    for changes in ((), CHANGES):
        program = compile_graph(graph, load_hardware("edge_8x8", list(changes)), 2)
        outcome = run_checked(program, graph, maker.codes(2))
        built = build_report(outcome, graph, price(outcome, graph, load_energy("horowitz_45nm")))
        found.append(json.loads(json.dumps(built)))
    found[0]["accuracy"], found[1]["accuracy"] = 0.5, 0.25  # GraphMaker's outputs are no vectors to judge
    return found[0], found[1]


@pytest.fixture
def pair(reports) -> tuple[dict, dict]:
    """Copies of them to alter."""
    return copy.deepcopy(reports)


@pytest.fixture
def compare(tmp_path, capsys):
    """Runs the command on two reports; returns exit code, document and text."""

    def run(a: dict, b: dict, *options: str) -> tuple[int, dict, str]:
        for name, report in (("a", a), ("b", b)):
            (tmp_path / f"{name}.json").write_text(json.dumps(report))
        place = tmp_path / "difference.json"
        code = main(["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json", str(place), *options])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(place.read_text()), out

    return run


def pairs(value: object) -> list[dict]:
    """Every pair of figures in a document."""
    if isinstance(value, dict):
        return [value] if "percent" in value else [p for inner in value.values() for p in pairs(inner)]
    return [p for inner in value for p in pairs(inner)] if isinstance(value, list) else []


def test_a_run_does_not_differ_from_itself(reports, compare):
    code, document, text = compare(reports[0], reports[0], *(f"--fail-on={key}=0" for key in LIMITED))
    assert code == 0
    assert document["networks"] == "equal"
    assert document["configuration"] == document["notes"] == []
    assert document["outputs"] == "equal"
    assert all((p["change"], p["percent"]) == (0, 0) for p in pairs(document) if p["a"] is not None)
    assert "configuration: equal\n" in text
    assert f"{len(reports[0]['layers'])} layers without a difference\n" in text


def test_every_figure_is_the_reports_own_and_their_difference(reports, compare):
    a, b = reports
    code, document, _ = compare(a, b)
    assert code == 0
    assert document["networks"] == "equal"
    for key in (
        "cycles",
        "macs",
        "energy",
        "utilization",
        "latency_seconds",
        "images_per_second",
        "tops",
        "instructions",
    ):
        assert (document["totals"][key]["a"], document["totals"][key]["b"]) == (a["totals"][key], b["totals"][key])
    for unit in ("load", "compute", "post", "store"):
        found = document["totals"][f"busy_cycles.{unit}"]
        assert (found["a"], found["b"]) == (a["totals"]["busy_cycles"][unit], b["totals"]["busy_cycles"][unit])
    assert document["totals"]["cycles_per_image"]["b"] == b["totals"]["cycles"] / 2
    assert document["totals"]["energy_per_image"]["b"] == b["totals"]["energy"] / 2
    assert document["totals"]["accuracy"]["a"] == a["accuracy"]
    for key in ("dram_bytes_read", "dram_bytes_written", "overflows"):
        sums = [sum(layer[key] for layer in report["layers"]) for report in reports]
        assert [document["totals"][key][side] for side in "ab"] == sums
    waited = [sum(n for layer in report["layers"] for n in layer["stall_cycles"].values()) for report in reports]
    assert [document["totals"]["stall_cycles"][side] for side in "ab"] == waited
    assert [sum(p[side] for p in document["stall_cycles"].values()) for side in "ab"] == waited
    assert [layer["name"] for layer in document["layers"]] == [layer["name"] for layer in a["layers"]]
    for found, x, y in zip(document["layers"], a["layers"], b["layers"], strict=True):
        for key in ("cycles", "macs", "energy", "utilization", "dram_bytes_read", "dram_bytes_written", "overflows"):
            assert (found[key]["a"], found[key]["b"]) == (x[key], y[key])
        for cause, p in found["stalls"].items():
            assert (p["a"], p["b"]) == (x["stall_cycles"].get(cause, 0), y["stall_cycles"].get(cause, 0))
        assert found["stalls"].keys() == x["stall_cycles"].keys() | y["stall_cycles"].keys()
    for op, p in document["energy_by_op"].items():
        none = {"energy": 0}
        assert (p["a"], p["b"]) == tuple(report["energy_by_op"].get(op, none)["energy"] for report in reports)
    assert document["energy_by_op"].keys() == a["energy_by_op"].keys() | b["energy_by_op"].keys()
    for p in pairs(document):
        if p["change"] is not None:
            assert p["change"] == p["b"] - p["a"]
            assert p["percent"] == (pytest.approx(100 * (p["b"] / p["a"] - 1), abs=1e-9) if p["a"] else p["b"] and None)
    assert {p["percent"] is None for p in pairs(document) if p["a"] == 0 and p["b"]} == {True}


def test_configuration_names_what_differs_and_nothing_else(pair, compare):
    a, b = pair
    _, document, text = compare(a, b)
    assert {row["key"]: (row["a"], row["b"]) for row in document["configuration"]} == {
        "hardware.array.dataflow": ("ws", "os"),
        "hardware.array.rows": (8, 4),
        "hardware.accumulator.width_bits": (32, 20),  # which every layer follows
        "hardware.clock_mhz": (a["hardware"]["clock_mhz"], 100),
    }
    assert any(line.split() == ["hardware.array.dataflow", '"ws"', '"os"'] for line in text.splitlines())
    # A layer's own width, its weights' bits, scheme, table and a key that one report alone has.
    b["hardware"] = {**a["hardware"], "later": {"key": [1, 2]}}
    for layer, other in zip(a["layers"], b["layers"], strict=True):
        other["accumulator_width_bits"] = layer["accumulator_width_bits"]
    b["layers"][0] |= {"accumulator_width_bits": 16, "weight_bits": 4}
    b["requantization"]["rounding"] = "floor"
    b["zero_points"] = "subtracted"
    b["totals"]["energy_table"] = "mine"
    _, document, _ = compare(a, b)
    name = a["layers"][0]["name"]
    assert {row["key"]: (row["a"], row["b"]) for row in document["configuration"]} == {
        "hardware.later.key": (None, [1, 2]),
        "requantization.rounding": ("half_even", "floor"),
        "zero_points": ("folded", "subtracted"),
        "energy_table": ("horowitz_45nm", "mine"),
        f"layers.{name}.accumulator_width_bits": (32, 16),
        f"layers.{name}.weight_bits": (8, 4),
    }
    assert "by two tables, horowitz_45nm and mine" in document["notes"][0]


def test_the_other_way_round_every_change_has_the_other_sign(reports, compare):
    _, there, _ = compare(reports[0], reports[1])
    _, back, _ = compare(reports[1], reports[0])
    for key in ("totals", "stall_cycles", "energy_by_op"):
        assert {name: p["change"] for name, p in there[key].items()} == {
            name: None if p["change"] is None else -p["change"] for name, p in back[key].items()
        }


def test_text_is_what_a_reader_needs(reports, compare):
    a, b = reports
    _, document, text = compare(a, b)
    lines = text.splitlines()
    cycles = document["totals"]["cycles"]
    row = next(line for line in lines if line.startswith("cycles "))
    assert row.split() == [
        "cycles",
        f"{cycles['a']:,}",
        f"{cycles['b']:,}",
        f"{cycles['change']:+,}",
        f"{cycles['percent']:+.2f}",
    ]
    assert not any(line.startswith("cycles per image") for line in lines)  # the batches are equal
    for title in ("configuration", "totals", "stall cycles", "energy by operation", "layer"):
        assert any(line.startswith(title) for line in lines), title
    for layer in a["layers"]:
        assert any(line.startswith(f"{layer['name']} ") for line in lines), layer["name"]


# --- networks, batches, units --------------------------------------------------------------------------------------


def test_layers_of_one_report_alone_are_named(pair, compare):
    a, b = pair
    gone = a["layers"][1]["name"]
    b["layers"][1]["name"] = "new"
    _, document, text = compare(a, b)
    assert document["networks"] == "related"
    assert (document["only_in_a"], document["only_in_b"]) == ([gone], ["new"])
    assert [layer["name"] for layer in document["layers"]] == [a["layers"][0]["name"], a["layers"][2]["name"]]
    assert "only in B: new" in text
    assert "- the networks are not the same" in text


def test_outputs_are_compared_where_both_reports_have_as_many(pair, compare):
    a, b = pair
    b["outputs"] = copy.deepcopy(a["outputs"])
    assert compare(a, b)[1]["outputs"] == "equal"
    b["outputs"][1] = a["outputs"][0]
    assert compare(a, b)[1]["outputs"] == "different"
    del b["outputs"][1]
    assert compare(a, b)[1]["outputs"] is None
    b["outputs"] = None
    assert compare(a, b)[1]["outputs"] is None


def test_a_layer_with_other_macs_makes_another_network(pair, compare):
    a, b = pair
    b["layers"][0]["macs"] += 2
    assert compare(a, b)[1]["networks"] == "related"
    b["layers"][0]["macs"] -= 2
    b["batch"] = 4
    for layer in b["layers"]:
        layer["macs"] *= 2
    _, document, text = compare(a, b)
    assert document["networks"] == "equal"  # by image
    assert document["notes"] == ["batches of 2 and 4: figures are of one batch, but for those per image"]
    assert "\ncycles per image " in text


def test_different_networks_are_said_to_be_and_totals_compared(pair, compare):
    a, b = pair
    b["workload"] = "other"
    for layer in b["layers"]:
        layer["name"] += "_other"
    code, document, text = compare(a, b, "--fail-on", "dram_bytes_read=1e9")
    assert code == 0
    assert document["networks"] == "different"
    assert document["layers"] == document["only_in_a"] == document["only_in_b"] == []
    assert document["outputs"] is None
    assert document["totals"]["cycles"]["b"] == b["totals"]["cycles"]
    assert {"key": "workload", "a": a["workload"], "b": "other"} in document["configuration"]
    n = len(a["layers"])
    assert f"- the networks are different: 0 layers of {n} and {n} have the same name and operation" in text


def test_energies_in_different_units_are_not_subtracted(pair, compare, tmp_path, capsys):
    a, b = pair
    b["totals"] |= {"energy_unit": "relative", "energy_table": "mine"}
    _, document, text = compare(a, b, "--fail-on=cycles=1e6")
    assert document["energy_by_op"] == {}
    assert {key: document["totals"]["energy"][key] for key in ("b", "change", "percent")} == {
        "b": b["totals"]["energy"],
        "change": None,
        "percent": None,
    }
    assert document["layers"][0]["energy"]["change"] is None
    assert "- energies are in pJ and relative: their differences are left out" in text
    arguments = ["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--fail-on", "energy=3"]
    assert main(arguments) == 2
    line = "--fail-on energy=3: energy is in different units in the two reports; leave it out"
    assert capsys.readouterr() == ("", f"accelsim: error: {line}\n")


def test_a_report_that_is_not_bit_exact_or_of_older_days(pair, compare):
    a, b = pair
    a |= {"bit_exact": False, "mismatch": "image 3, node c1"}
    b["bit_exact"] = None
    del b["totals"]["busy_cycles"], b["activation"], b["requantization"]
    for layer in b["layers"]:
        del layer["weight_bits"], layer["accumulator_width_bits"]
    code, document, text = compare(a, b)
    assert code == 0
    assert "- A is not bit-exact: image 3, node c1\n" in text
    assert "- B was compared with no reference\n" in text
    assert document["totals"]["busy_cycles.load"]["b"] is None
    assert {"key": "requantization.scheme", "a": "fixed_point", "b": None} in document["configuration"]
    assert not any("layers." in row["key"] for row in document["configuration"])


def test_names_cannot_steer_the_terminal(pair, compare):
    a, b = pair
    for report in (a, b):
        report["layers"][0]["name"] = "\x1b[31mc1\n"
        report["workload"] = "net\x07"
        report["hardware"]["name"] = "\x1b]0;x"
    b["hardware"]["name"] = "y"
    assert all(c.isprintable() or c == "\n" for c in compare(a, b)[2])


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, limit, exceeded",
    [
        (1000, 1020, "2", False),  # no more than 2 %
        (1000, 1021, "2", True),
        (1000, 1000, "0", False),
        (1000, 1001, "0", True),
        (1000, 1, "0", False),  # less is better
        (0, 0, "0", False),
        (0, 1, "1e300", True),  # from nothing, any rise is
        (1 << 62, (1 << 62) + 1, "0", True),
        (1000, 1009, "0.9", False),
    ],
)
def test_limits(pair, compare, a, b, limit, exceeded):
    for report, cycles in zip(pair, (a, b), strict=True):
        report["totals"]["cycles"] = cycles
    code, document, text = compare(*pair, "--fail-on", f"cycles={limit}", "--fail-on=dram_bytes_read=50")
    first, second = document["limits"]
    assert first == {"key": "cycles", "limit_percent": float(limit), "exceeded": exceeded}
    assert second == {"key": "dram_bytes_read", "limit_percent": 50, "exceeded": False}
    assert code == exceeded
    assert (f"limit cycles +{float(limit):g} %: EXCEEDED" in text) == exceeded
    assert "limit dram_bytes_read +50 %: kept" in text


@pytest.mark.parametrize("key", LIMITED)
def test_every_limit_looks_at_its_own_total(reports, compare, key):
    _, document, _ = compare(*reports)
    percent = document["totals"][key]["percent"]
    assert compare(*reports, f"--fail-on={key}={max(percent, 0) + 0.01}")[0] == 0
    if percent > 0:
        assert compare(*reports, f"--fail-on={key}={percent - 0.01}")[0] == 1
    else:
        assert compare(reports[1], reports[0], f"--fail-on={key}=0")[0] == (percent < 0)


@pytest.mark.parametrize(
    "limits, line",
    [
        (["cycels=2"], "--fail-on cycels=2: unknown key 'cycels'; did you mean 'cycles'?"),
        (["x=2"], f"--fail-on x=2: unknown key 'x'; known: {', '.join(LIMITED)}"),
        (["cycles"], "--fail-on cycles: must be KEY=PERCENT with at least 0 percent, such as cycles=2"),
        (["cycles=-1"], "--fail-on cycles=-1: must be KEY=PERCENT with at least 0 percent, such as cycles=2"),
        (["cycles=nan"], "--fail-on cycles=nan: must be KEY=PERCENT with at least 0 percent, such as cycles=2"),
        (["cycles=inf"], "--fail-on cycles=inf: must be KEY=PERCENT with at least 0 percent, such as cycles=2"),
        (["cycles=2 %"], "--fail-on cycles=2 %: must be KEY=PERCENT with at least 0 percent, such as cycles=2"),
        (["cycles=2", "cycles=3"], "--fail-on cycles=3: cycles has a limit already; give each key once"),
    ],
)
def test_limits_that_are_none_are_refused(tmp_path, capsys, limits, line):
    options = [f"--fail-on={limit}" for limit in limits]
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), *options]) == 2
    assert capsys.readouterr() == ("", f"accelsim: error: {line}\n")


def test_json_alone_on_standard_output(pair, tmp_path, capfd):
    for name, report in zip(("a", "b"), pair, strict=True):
        (tmp_path / name).write_text(json.dumps(report))
    arguments = [
        "diff",
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "--json",
        "/dev/stdout",
        "--fail-on=latency_seconds=0",
    ]
    assert main(arguments) == 1  # the clock is slower
    out, err = capfd.readouterr()
    assert json.loads(out)["limits"][0]["exceeded"] is True
    assert err == ""


# --- files that are no reports ------------------------------------------------------------------------------------

GIVE = "give what 'accelsim run --json' wrote"


def altered(path: str, value: object):
    """A report's text with one value changed, `del` to remove it."""

    def make(report: dict) -> str:
        *way, last = path.split("/")
        here = report
        for step in way:
            here = here[int(step)] if isinstance(here, list) else here[step]
        if value == "del":
            del here[last]
        else:
            here[last] = value
        return json.dumps(report)

    return make


def cut(report: dict) -> str:
    return json.dumps(report)[:-10]


def twice(report: dict) -> str:
    report["layers"][0]["name"] = report["layers"][1]["name"] = "c1"
    return json.dumps(report)


@pytest.mark.parametrize(
    "make, rule",
    [
        (lambda _: "", ": not valid JSON: Expecting value: line 1 column 1 (char 0); " + GIVE),
        (lambda _: "cycles: 3", ": not valid JSON: Expecting value: line 1 column 1 (char 0); " + GIVE),
        (cut, ": not valid JSON: Expecting "),
        (lambda _: "[" * 100_000, ": nested too deeply for a report; " + GIVE),
        (lambda _: "[1, 2]", ": has no format 'accelsim-report'; " + GIVE),
        (lambda _: '{"cycles": 3}', ": has no format 'accelsim-report'; " + GIVE),
        (lambda _: '{"format": "accelsim-sweep"}', ": format 'accelsim-sweep' is not 'accelsim-report'; " + GIVE),
        (lambda _: '{"a": 1, "a": 2}', ": not valid JSON: key 'a' is there twice; " + GIVE),
        (lambda _: '{"a": NaN}', ": not valid JSON: NaN is no number of JSON; " + GIVE),
        (lambda _: '{"a": -Infinity}', ": not valid JSON: -Infinity is no number of JSON; " + GIVE),
        (lambda _: "9" * 5000, ": not valid JSON: Exceeds the limit"),
        (altered("version", 2), ": report version 2 is not 1, which is read here; run it again"),
        (altered("version", True), ": report version True is not 1, which is read here; run it again"),
        (altered("version", "1"), ": report version '1' is not 1, which is read here; run it again"),
        (altered("totals/cycles", "del"), " [totals]: key 'cycles' is missing; add it"),
        (altered("totals/cycles", -1), " [totals]: cycles = -1 must be at least 0"),
        (altered("totals/cycles", 1.5), " [totals]: cycles = 1.5 must be an integer"),
        (altered("totals/cycles", 1 << 70), " [totals]: cycles = 1180591620717411303424 must be at most"),
        (altered("totals/energy", "12"), " [totals]: energy = '12' must be a number, written without quotes"),
        (altered("totals/energy", 1e31), " [totals]: energy = 1e+31 must be at most"),
        (altered("totals", []), ": totals = [] must be a table of keys"),
        (altered("layers", {}), ": layers = {} must be an array"),
        (altered("layers/0/stall_cycles", {"x": -1}), " [layers[0].stall_cycles]: x = -1 must be at least 0"),
        (altered("layers/0/cycles", True), " [layers[0]]: cycles = true must be an integer"),
        (twice, ": two layers are called 'c1'; each has a name of its own"),
        (altered("batch", 0), ": batch = 0 must be at least 1"),
        (altered("accuracy", 2), ": accuracy = 2 must be at most 1"),
        (altered("hardware", "big"), ": hardware = 'big' must be a table of keys"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(pair, tmp_path, capsys, make, rule):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(pair[0]))
    bad.write_text(make(pair[1]))
    for arguments in ((good, bad), (bad, good)):
        assert main(["diff", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"accelsim: error: {bad}{rule}"), err
        assert err.count("\n") == 1
        assert len(err) < 400


def test_numbers_beyond_float_and_bytes_beyond_a_report(pair, tmp_path, capsys):
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(pair[0]).replace(f'"cycles": {pair[0]["totals"]["cycles"]}', '"cycles": 1e999', 1))
    assert main(["diff", str(bad), str(bad)]) == 2
    assert "cycles = inf" in capsys.readouterr().err
    bad.write_bytes(b"")
    os.truncate(bad, 1 << 40)  # a hole of a terabyte
    assert main(["diff", str(bad), str(bad)]) == 2
    line = f"{bad}: has more than 67,108,864 bytes, too many for what it should be; check the path"
    assert capsys.readouterr().err == f"accelsim: error: {line}\n"
    assert main(["diff", str(tmp_path / "none.json"), str(bad)]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["diff", str(tmp_path), str(bad)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_documents_have_the_documented_keys(reports, compare):
    page = (Path(__file__).resolve().parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    chapter = page[page.index("## 14 Difference of two runs") :]
    rows = re.findall(r"^\| (`[^|]*) \|", chapter, re.MULTILINE)
    _, document, _ = compare(*reports, "--fail-on=cycles=1000")
    assert document.keys() - {"format", "version"} == {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    inner = document["a"].keys() | document["configuration"][0].keys() | document["limits"][0].keys()
    inner |= document["totals"]["cycles"].keys() | {"name", "op", "stall_cycles", "stalls"}
    assert inner <= set(re.findall(r"`(\w+)`", chapter))
    layer = reports[0]["layers"][0].keys()
    assert {key for key, value in document["layers"][0].items() if isinstance(value, dict)} - {"stalls"} <= layer
