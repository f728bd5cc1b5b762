"""Figures of a sweep: what is drawn, what is left out and why, and the numbers behind them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from sweep_stores import AXES, figures_of, make_store

from accelsim.cli import main
from accelsim.errors import InputError
from accelsim.explore.store import Store
from accelsim.explore.stored import Objective, Stored, read_sweep
from accelsim.report.page import page_data, sweep_page
from accelsim.report.plot import LeftOut, energy_figure, pareto_figure, roofline_point, spread, width_figure

HOSTILE = "<img src=x onerror=window.hit=1></script><script>window.hit=1</script>&amp;"


def read(path: Path, which: str | None = None) -> Stored:
    with Store(path, make=False) as store:
        return read_sweep(store, which)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("made") / "s.db", constraints=["cycles < 17000"])


@pytest.fixture
def refused(capsys):
    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err.removeprefix("accelsim: error: ").removesuffix("\n")

    return run


def test_the_front_is_what_comparing_all_pairs_leaves(made):
    stored = read(made)
    objectives = stored.objectives("min cycles, min energy, max accuracy")
    done = {row.position: row.figures for row in stored.rows if row.status == "done"}
    assert 0 < len(done) < len(stored.rows)

    def beats(a: dict[str, float], b: dict[str, float]) -> bool:
        no_worse = a["cycles"] <= b["cycles"] and a["energy"] <= b["energy"] and a["accuracy"] >= b["accuracy"]
        return no_worse and (a["cycles"], a["energy"], a["accuracy"]) != (b["cycles"], b["energy"], b["accuracy"])

    expected = [one for one in done if not any(beats(done[other], done[one]) for other in done)]
    assert [row.position for row in stored.front(objectives)] == expected
    assert 1 < len(expected) < len(done)


def test_drawn_points_are_those_of_the_store(made):
    stored = read(made)
    figure = pareto_figure(stored, stored.objectives("min cycles, min energy"))
    (axes,) = figure.axes
    drawn = {dots.get_label(): sorted(map(tuple, dots.get_offsets().tolist())) for dots in axes.collections}
    front = {row.position for row in stored.front(stored.objectives("min cycles, min energy"))}
    expected: dict[str, list[tuple[float, float]]] = {"infeasible": [], "dominated": [], "front": []}
    for row in stored.rows:
        kind = "front" if row.position in front else "dominated" if row.status == "done" else row.status
        expected[kind].append((float(row.figures["cycles"]), row.figures["energy"]))
    assert drawn == {kind: sorted(points) for kind, points in expected.items()}


def test_energy_by_part_stacks_to_the_total_of_each_bar(made):
    stored = read(made)
    (axes,) = energy_figure(stored, stored.objectives("min cycles, min energy")).axes
    ends: dict[int, float] = {}
    for bar in axes.patches:
        ends[round(bar.get_y() + bar.get_height() / 2)] = max(
            ends.get(round(bar.get_y() + bar.get_height() / 2), 0), bar.get_x() + bar.get_width()
        )
    labels = [label.get_text() for label in axes.get_yticklabels()]
    for row, end in ends.items():
        position = int(re.search(r"\[(\d+)\]", labels[row])[1])
        assert end == pytest.approx(stored.rows[position].figures["energy"] / 1000)  # nJ


def test_macs_of_the_roofline_are_those_of_the_network(tmp_path):
    """Against the definition: the products of the layers, over cycles and over DRAM bytes, of a real sweep."""
    from accelsim.config import load_quantization
    from accelsim.config.sweep import load_sweep
    from accelsim.explore.sweep import Sweep
    from accelsim.ir import Mac
    from accelsim.sources import find_workload

    path = tmp_path / "roof.toml"
    path.write_text('measure = ["cycles"]\nbatch = 2\n[axes]\n"hardware.array.rows" = [8, 16]\n')
    with Store(tmp_path / "s.db") as store:
        Sweep(load_sweep(path), store, tmp_path / "scratch", origin="roof.toml").run()
    stored = read(tmp_path / "s.db")
    graph = find_workload("lenet5_digits", quantization=load_quantization("int8")).graph
    macs = 2 * sum(graph.macs(node) for node in graph.nodes if isinstance(node, Mac))
    for row, rows in zip(stored.rows, (8, 16), strict=True):
        moved = max(row.figures["dram_bytes_read"], row.figures["dram_bytes_written"])
        intensity, achieved, pes, bandwidth = roofline_point(stored, row)
        assert achieved == pytest.approx(macs / row.figures["cycles"], rel=1e-12)
        assert intensity == pytest.approx(macs / moved, rel=1e-12)
        assert (pes, bandwidth) == (rows * 16, 16)  # of default_16x16
        assert achieved <= min(pes, intensity * bandwidth)  # under both roofs


def test_the_spread_of_an_axis_is_that_of_exact_means(made, tmp_path):
    stored = read(make_store(tmp_path / "all.db"))
    found = spread(stored, "hardware.array.rows", "cycles")
    cells = {
        place: Fraction(figures_of(dict(zip(AXES, place, strict=True)))["cycles"]) for place in product(*AXES.values())
    }
    means = {rows: sum(v for place, v in cells.items() if place[0] == rows) / 6 for rows in (4, 8, 16)}
    whole = sum(cells.values()) / 18
    assert found[0] == pytest.approx(float((max(means.values()) - min(means.values())) / whole))
    assert found[1] == [(str(rows), pytest.approx(float(mean))) for rows, mean in means.items()]
    assert spread(stored, "hardware.accumulator.width_bits", "cycles")[0] == 0


def test_many_values_of_an_axis_are_cut_into_ranges(tmp_path):
    axes = {key: values[:1] for key, values in AXES.items()} | {"hardware.array.rows": list(range(1, 31))}
    found = spread(read(make_store(tmp_path / "s.db", axes=axes)), "hardware.array.rows", "cycles")
    assert [name for name, _ in found[1]] == ["1–5", "6–10", "11–15", "16–20", "21–25", "26–30"]


def test_command_writes_every_figure_twice_and_the_same_bytes_again(made, tmp_path, capsys):
    assert main(["plot", str(made), "-o", str(tmp_path / "a")]) == 0
    names = [
        f"{name}.{kind}"
        for name in ("pareto", "accumulator", "energy", "roofline", "sensitivity")
        for kind in ("png", "svg")
    ]
    assert capsys.readouterr().out.split() == [str(tmp_path / "a" / name) for name in [*names, "sweep.html"]]
    command = [
        sys.executable,
        "-c",
        "from accelsim.cli import main; main()",
        "plot",
        str(made),
        "-o",
        str(tmp_path / "b"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / folder).iterdir()}
        for folder in "ab"
    ]
    assert digests[0] == digests[1]
    assert set(digests[0]) == {*names, "sweep.html"}


def test_what_makes_no_sense_is_left_out_with_its_reason(tmp_path, capsys):
    few = lambda setting: {"area": 1000 * setting["hardware.array.rows"]}  # noqa: E731
    axes = {"hardware.array.rows": [4, 8]}
    make_store(tmp_path / "s.db", axes=axes, figures=few, measure=["area"], images=None)
    assert main(["plot", str(tmp_path / "s.db"), "-o", str(tmp_path / "o")]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")] == [
        "left out: pareto: a front needs two objectives, there is min area; name more with --objectives",
        "left out: accumulator: the sweep has no axis hardware.accumulator.width_bits with two values",
        "left out: energy: no energy was measured",
        "left out: roofline: it needs cycles, utilisation and DRAM traffic; measure cycles",
    ]
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"sensitivity.png", "sensitivity.svg", "sweep.html"}


def test_energies_in_different_units_are_not_compared(tmp_path):
    stored = read(make_store(tmp_path / "s.db", units=("pJ", "relative")))
    objectives = stored.objectives("min energy, min cycles")
    for draw in (
        lambda: width_figure(stored),
        lambda: energy_figure(stored, objectives),
        lambda: pareto_figure(stored, objectives),
    ):
        with pytest.raises(LeftOut, match=re.escape("different units (pJ, relative), which cannot be compared")):
            draw()


def test_objectives_are_those_of_the_search_or_two_of_what_was_measured(made, tmp_path):
    assert read(made).objectives(None) == [Objective("max", "accuracy"), Objective("min", "energy")]
    search = {"objectives": ["min cycles", "min energy", "max accuracy"], "evaluations": 18}
    stored = read(make_store(tmp_path / "s.db", search=search))
    assert [str(one) for one in stored.objectives(None)] == search["objectives"]


@pytest.mark.parametrize(
    "said, line",
    [
        ("cycles", "--objectives: 'cycles' is not 'min NAME' or 'max NAME'; use 'min energy'"),
        ("min cycle", "--objectives: 'cycle' has no number at any point of this sweep; did you mean 'cycles'?"),
        ("min cycles,max cycles", "--objectives: 'cycles' is named twice; keep one of them"),
        (",", "--objectives: 0 are named; name 1 to 4, such as 'min cycles'"),
    ],
)
def test_objectives_that_are_none_are_refused(made, tmp_path, refused, said, line):
    assert refused("plot", made, "-o", tmp_path / "o", "--objectives", said) == line
    assert not (tmp_path / "o").exists()


def test_stores_and_sweeps_that_are_none_are_refused(tmp_path, refused):
    path = tmp_path / "s.db"
    assert refused("plot", path) == f"{path}: no such file; name a store that `accelsim sweep` wrote"
    assert not path.exists()
    with Store(path):
        pass
    assert refused("plot", path) == f"{path}: holds no sweep; begin one with accelsim sweep"
    make_store(path, name="one")
    make_store(path, name="two")
    make_store(path, name="two", title="again")
    told = "1 'one', 2 'two', 3 'two'"
    assert refused("plot", path) == f"{path}: holds 3 sweeps ({told}); choose one with --sweep NUMBER"
    assert (
        refused("plot", path, "--sweep", "onr")
        == f"--sweep onr: {path} holds none of this name or number; it holds {told}; did you mean 'one'?"
    )
    assert (
        refused("plot", path, "--sweep", "two")
        == f"--sweep two: {path} holds several of this name; use one of the numbers 2, 3"
    )
    assert read(path, "3").file.title == "again"
    assert read(path, "one").number == 1
    make_store(path, name="none", constraints=["cycles < 0"])
    assert "sweep 4, 'none', has no feasible point yet" in refused("plot", path, "--sweep", "none")
    (tmp_path / "text.db").write_text("not a store " * 100)
    assert "text.db: file is not a database; name another file" in refused("plot", tmp_path / "text.db")
    (tmp_path / "o").write_text("")
    assert refused("plot", path, "--sweep", "1", "-o", tmp_path / "o").endswith(
        "is a file, not a folder; choose another"
    )


def test_a_page_holds_all_data_and_no_markup_of_a_user(tmp_path):
    axes = {"workload": [HOSTILE, "b"], **AXES}
    stored = read(make_store(tmp_path / "s.db", name=HOSTILE, axes=axes, title=HOSTILE, workload=HOSTILE))
    objectives = stored.objectives(None)
    page = sweep_page(stored, objectives)
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert page.count("http") == page.count("http-equiv") + page.count(
        "http://www.w3.org/2000/svg"
    )  # nothing is fetched
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert not re.search("[<>&]", text)
    data = json.loads(text)
    assert data == json.loads(json.dumps(page_data(stored, objectives)))
    assert data["name"] == data["title"] == data["axes"]["workload"][0] == HOSTILE
    for position, row in enumerate(stored.rows):
        assert data["figures"]["energy"][position] == row.figures["energy"]
        assert {name: values[position] for name, values in data["axes"].items()} == row.setting
    assert data["common"]["hardware.clock_mhz"] == 500.0
    assert "hardware.array.rows" not in data["common"]


def test_a_page_says_nothing_for_a_figure_that_is_no_number(tmp_path):
    broken = lambda setting: {**figures_of(setting), "accuracy": float("nan"), "float": float("inf")}  # noqa: E731
    stored = read(make_store(tmp_path / "s.db", figures=broken))
    objectives = stored.objectives("min cycles")
    assert set(page_data(stored, objectives)["figures"]["accuracy"]) == {None}
    assert '"float":[null,' in sweep_page(stored, objectives)
    with pytest.raises(InputError, match="'accuracy' has no number"):
        stored.objectives("max accuracy")
