"""The pages: every example is run, every link leads somewhere, every documented field is there."""

from __future__ import annotations

import doctest
import hashlib
import json
import re
import shlex
import struct
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker
from safetensors.numpy import load_file

from accelsim.accounting import price
from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.energy import load_energy
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.ir import (
    OP_NAMES,
    Add,
    Dequantize,
    Input,
    IntegerGraph,
    Linear,
    Multiplier,
    Quantize,
    TensorType,
    evaluate,
    load_graph,
    save_graph,
)
from accelsim.isa import Modes, Piece
from accelsim.isa.modes import MODES_BYTES
from accelsim.isa.program import HEADER
from accelsim.numerics import SINGLE_ROUNDINGS, IntFormat, Requantization, Rounding, Scheme
from accelsim.pipeline import run_checked
from accelsim.report import build_report

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(page: Path) -> str:
    """The page with everything but its Python examples blanked, so that line numbers stay."""
    kept, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        if fence:
            inside = line == "```python"
        kept.append(line if inside and not fence else "")
    return "\n".join(kept) + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_give_what_it_says(page):
    test = doctest.DocTestParser().get_doctest(examples(page), {}, page.name, str(page), 0)
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    runner.run(test, out=failures.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(failures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_are_relative_and_lead_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert not target.startswith("/"), target
            assert (page.parent / target).exists(), f"{page.name}: {target} is not there"


COMMANDS = {
    page: [
        command
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for command in block.splitlines()
    ]
    for page in PAGES[1:]  # the README's have a test of their own
}


@pytest.mark.parametrize("page", [page for page in COMMANDS if COMMANDS[page]], ids=lambda page: page.name)
def test_commands_of_a_page_run_one_after_the_other(tmp_path, monkeypatch, capsys, page):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    given = r"Put this\sinto `(\w+\.(?:toml|py))`:\n\n```(?:toml|python)\n(.*?)^```"
    for name, content in re.findall(given, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    for command in COMMANDS[page]:
        program, *words = shlex.split(command)
        if program == "python":  # a script that the page gives
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
            assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
            continue
        assert program == "accelsim"
        assert main(words) == 0, command
        assert capsys.readouterr().out


# --- docs/formats.md against what is written ---------------------------------------------------------------

FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The rows of the table of docs/formats.md whose heading row begins with `heading`."""
    found = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", FORMATS, re.MULTILINE)
    assert found, heading
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in found[1].splitlines()]


def keys(heading: str) -> set[str]:
    return {key for row in table(heading) for key in re.findall(r"`(\w+)`", row[0])}


@pytest.fixture(scope="module")
def outcome():
    """A graph with every kind of node, compiled and run."""
    maker = GraphMaker(np.random.default_rng(3), Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN))
    source = maker.input(6, 6, 3)
    left = maker.clip(maker.conv(source, 4, (3, 3), padding=(1, 1, 1, 1)))
    mixed = maker.matmul(maker.matmul(source, source, 1, "channels"), source, 1, "tokens")
    right = maker.table(maker.conv(mixed, 4, (1, 1)))
    pooled = maker.pool(maker.sum(left, right), "max", (2, 2), (2, 2))
    maker.linear(maker.pool(pooled, "avg", (3, 3), (1, 1)), 5)
    graph = maker.graph()
    program = compile_graph(graph, load_hardware("edge_8x8"), 2)
    return graph, run_checked(program, graph, maker.codes(2))


def test_header_table_is_the_header_and_fills_it():
    kinds = {"magic": "8s", "ISA version": "H", "timing version": "H", "instructions": "I"}
    offset = 0
    for row in table("offset"):
        assert int(row[0]) == offset, row
        if row[2] in kinds:
            assert struct.calcsize("<" + kinds[row[2]]) == int(row[1])
        offset += int(row[1])
    assert offset == HEADER.size
    assert len(table("byte of modes")) == MODES_BYTES


def test_codes_of_modes_are_those_of_the_page():
    rows = {int(row[0]): row[1] for row in table("byte of modes")}
    for scheme in Scheme:
        for rounding in SINGLE_ROUNDINGS:
            how = Requantization(scheme=scheme, rounding=rounding, multiplier_bits=20, output_overflow="wrap")
            code = Modes(activation=IntFormat(7), zero_points="subtracted", requantization=how).encode()
            assert (code[0], code[1], code[2], code[5], code[6], code[7]) == (7, 1, 1, 20, 0, 2)
            assert f"{code[3]} {scheme.value}" in rows[3]
            assert f"{code[4]} {rounding.value}" in rows[4]


def test_digests_of_a_program_are_where_the_page_says(outcome, tmp_path):
    outcome[1].program.save(tmp_path)
    data = (tmp_path / "program.bin").read_bytes()
    assert data[64:96] == hashlib.sha256((tmp_path / "dram.bin").read_bytes()).digest()
    assert data[96:128] == hashlib.sha256((tmp_path / "program.json").read_bytes()).digest()
    assert data[128:160] == hashlib.sha256(data[:128] + bytes(32) + data[160:]).digest()
    assert data[24:32] == bytes(8)
    assert data[160:192] == bytes(32)
    assert len(data) == 192 + 64 * len(outcome[1].program.instructions)


def test_keys_of_program_json_are_those_of_the_page(outcome, tmp_path):
    outcome[1].program.save(tmp_path)
    data = json.loads((tmp_path / "program.json").read_text())
    (first, second) = (m for m in re.finditer(r"^\| key \|", FORMATS, re.MULTILINE))
    rows = FORMATS[first.start() : second.start()].split("\n\n")[0].splitlines()[2:]
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row.split(" |")[0])} == set(data)
    assert keys("key of a region") == set(data["input"]) == set(data["output"])
    (layers,) = (row for row in rows if "`layers`" in row)
    assert set(re.findall(r"`(\w+)`", layers)) - {"layers"} == set(data["layers"][0])
    (pieces,) = (row for row in rows if "`pieces`" in row)
    assert pieces.split("in order: ")[1].split(":")[0].split(", ") == list(Piece.__dataclass_fields__)


def host_graph() -> IntegerGraph:
    """float32 numbers quantised, summed to int32, made real, quantised again and added in float32."""
    how = Requantization(scheme=Scheme.FLOAT32, rounding=Rounding.HALF_EVEN)
    codes = TensorType(height=1, width=1, channels=2, scale=0.5)
    sums, reals = (replace(codes, kind=kind, scale=1.0) for kind in ("int32", "float32"))
    none = Multiplier(m0=np.zeros(0, np.int64), shift=np.zeros(0, np.int64), real=np.zeros(0))
    one = Multiplier(m0=np.array([how.derive(1.0)[0]]), shift=np.zeros(1, np.int64), real=np.ones(1))
    scaled = {"scales": np.array([0.5], np.float32), "zero_points": np.zeros(1, np.int64)}
    nodes = (
        Input(name="hx", inputs=(), output=reals, precision="float32"),
        Quantize(name="hq", inputs=("hx",), output=codes, **scaled),
        Linear(
            name="hl", inputs=("hq",), output=sums, weight=np.eye(2, dtype=np.int64), bias=np.zeros(2, np.int64),
            multiplier=none, clip=(-(2**31), 2**31 - 1),
        ),
        Dequantize(name="hd", inputs=("hl",), output=reals, **scaled),
        Quantize(name="hr", inputs=("hd",), output=codes, **scaled),
        Add(
            name="ha", inputs=("hq", "hr"), output=codes, multipliers=(one, one), clip=(-128, 127), rounding="sum"
        ),
    )  # fmt: skip
    return IntegerGraph(
        name="host", nodes=nodes, output="ha", output_shape=(2,), activation=IntFormat(8), requantization=how
    )


def test_the_graph_of_the_host_is_what_it_says_on_reference_and_engine(tmp_path):
    graph = host_graph()
    save_graph(graph, tmp_path)
    numbers = np.array([[[[0.5, -1.75]]], [[[100.0, 0.25]]]], dtype=np.float32)
    arithmetic = load_hardware().arithmetic()
    # codes 1, -4 (-3.5 to even), 127 (clamped), 0 (0.5 to even); times 0.5 and quantised: the same; doubled, clamped
    for one in graph, load_graph(tmp_path):
        for tensors in (
            evaluate(one, numbers, arithmetic).tensors,
            execute(one, numbers, arithmetic, nodes=["hl", "ha"]),
        ):
            assert tensors["hl"].ravel().tolist() == [1, -4, 127, 0]
            assert tensors["ha"].ravel().tolist() == [2, -8, 127, 0]
    with pytest.raises(InputError, match="cannot be compiled: node hx: takes float32 numbers runs on the host"):
        compile_graph(graph, load_hardware())


def test_keys_of_graph_json_are_those_of_the_page(outcome, tmp_path):
    save_graph(outcome[0], tmp_path)
    data = json.loads((tmp_path / "graph.json").read_text())
    assert keys("key of graph.json") == set(data)
    tensors = load_file(tmp_path / "graph.safetensors")
    common = {"name", "op", "inputs", "source", "shape", "scale", "zero_point", "limits"}
    said = {row[0].strip("`"): (row[1], row[2]) for row in table("`op`")}
    assert set(said) == set(OP_NAMES.values()) == {node["op"] for node in data["nodes"]} | {"quantize", "dequantize"}
    save_graph(host_graph(), tmp_path)
    host = json.loads((tmp_path / "graph.json").read_text())["nodes"]
    tensors |= load_file(tmp_path / "graph.safetensors")
    unusual = re.search(r"Three keys are written only where (.*?)\n\n", FORMATS, re.DOTALL)
    assert unusual
    optional = {key for node in host for key in ("kind", "precision", "rounding") if key in node}
    assert optional == {"kind", "precision", "rounding"} <= set(re.findall(r"`(\w+)`", unusual[1]))
    for node in [*data["nodes"], *host]:
        own, stored = said[node["op"]]
        assert {*re.findall(r"`(\w+)`", own), *common} == set(node) - optional, node["op"]
        found = {name: array.dtype for name, array in tensors.items() if name.startswith(node["name"] + ".")}
        names = re.findall(r"`([\w.]+)`", stored)
        assert {f"{node['name']}.{name}" for name in names} == set(found)
        for name, dtype in found.items():
            after = stored.split(f"`{name.removeprefix(node['name'] + '.')}`")[1]
            assert re.search(r"\b(?:int|float)\d+", after)[0] == dtype.name, name


def test_keys_of_a_report_are_those_of_the_page(outcome):
    graph, ran = outcome
    report = build_report(ran, graph, price(ran, graph, load_energy("horowitz_45nm")))
    assert keys("key of `totals`") == set(report["totals"])
    assert keys("key of a layer") == set(report["layers"][0])
    rows = FORMATS.split("## 3 Report")[1].split("\n\n")[2].splitlines()[2:]
    said = {key for row in rows for key in re.findall(r"`(\w+)`", row.split(" |")[0])}
    assert said == {*report, "float_accuracy"}  # the command line adds what it knows of the float model
    (operations,) = (row for row in rows if "`energy_by_op`" in row)
    assert set(re.findall(r"`(\w+)`", operations)) - {"energy_by_op"} == set(report["energy_by_op"]["mul"])
    assert (report["format"], report["version"]) == ("accelsim-report", 1)


def test_studies_and_evaluations_have_the_documented_keys(tmp_path):
    pytest.importorskip("torch")
    folder = tmp_path / "study"
    words = ["accumulator", "lenet5_digits", "--images", "5", "--widths", "14", "--per-layer", "-o", str(folder)]
    assert main(words) == 0
    study = json.loads((folder / "study.json").read_text())
    assert keys("key of a study") | {"format", "version"} >= study.keys()
    assert study.keys() - {"format", "version"} <= keys("key of a study")
    (row,) = study["widths"]
    written = {*row, *row["layers"]["c1"], *row["layers"]["c1"]["first_overflow"], *study["exact"]["layers"]["c1"]}
    written |= {*study["per_layer"]["tolerance"], *study["smallest"]["tolerance"]["uniform"]}
    chapter = FORMATS[FORMATS.index("## 9 ") :]
    assert written <= set(re.findall(r"`(\w+)`", chapter))
    header = (folder / "study.csv").read_text().splitlines()[0].split(",")
    assert {"overflows.c1", "psum_min.c1", "psum_max.c1", "alone.accuracy.c1", "energy.adders"} <= set(header)
    report = tmp_path / "evaluation.json"
    assert main(["evaluate", "lenet5_digits", "--images", "5", "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    fixed = {"format", "version", "workload", "data", "hardware"}
    assert found.keys() - fixed == keys("key of an evaluation") - {"agree"}


def test_comparisons_of_requantisations_have_the_documented_keys(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "out.json"
    words = ["requant-diff", "int8", "coursework", "--samples", "64", "--json", str(path)]
    assert main([*words, "--workload", "lenet5_digits", "--images", "2", "--quantization", "int8"]) == 0
    found = json.loads(path.read_text())
    assert found.keys() == {"format", "version"} | keys("key of a comparison")
    assert found["sweep"].keys() == keys("key of a sweep")
    assert found["network"].keys() == keys("key of a network")
    (family, *_), (layer, *_) = found["sweep"]["families"], found["network"]["layers"]
    written = {*found["a"], *family, *family["error"]["a"], *family["examples"][0], *layer, *layer["same_inputs"]}
    written |= {*found["network"]["classification"], *found["network"]["classification"]["accuracy"]}
    assert written <= set(re.findall(r"`(\w+)`", FORMATS[FORMATS.index("## 10 ") :]))


# --- docs/sweeps.md ----------------------------------------------------------------------------------------

SWEEPS = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")


def sweep_table(heading: str) -> set[str]:
    """What stands in backquotes in the first column of a table of docs/sweeps.md."""
    found = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", SWEEPS, re.MULTILINE)
    assert found, heading
    return {key for line in found[1].splitlines() for key in re.findall(r"`([^`]+)`", line.split(" |")[0])}


def test_keys_of_a_sweep_file_are_those_of_the_page():
    from accelsim.config.sweep import Sampling, Search, SweepFile

    for heading, model in (("key of a sweep", SweepFile), ("key of `sampling`", Sampling), ("key of `search`", Search)):
        assert sweep_table(heading) == set(model.model_fields), heading


def test_figures_of_a_sweep_are_those_of_the_page():
    from accelsim.explore.bench import FIGURES

    rows = re.findall(r"^\| `(\w+)` \| (`.*?`) \| [^|]+ \| [^|]+ \|$", SWEEPS.split("## Figures")[1], re.MULTILINE)
    said: dict[str, set[str]] = {}
    for group, figures in rows:
        said.setdefault(group, set()).update(re.findall(r"`([^`]+)`", figures))
    assert said == {
        group: {*names, *{"energy": ["energy.PLACE"], "layers": ["cycles.LAYER"]}.get(group, [])}
        for group, names in FIGURES.items()
    }


def test_sweeps_of_the_page_are_those_that_come_along():
    from accelsim.config import preset_names
    from accelsim.config.sweep import load_sweep
    from accelsim.explore.space import Space

    said = dict(re.findall(r"^\| `accelsim sweep (\w+)` \|.*\| (\d+) \|$", SWEEPS, re.MULTILINE))
    assert {name: int(count) for name, count in said.items()} == {
        name: Space(load_sweep(name), name).count for name in preset_names("sweeps")
    }


def test_the_sweep_file_of_the_page_is_one(tmp_path):
    from accelsim.config.sweep import load_sweep
    from accelsim.explore.space import Inputs, Space

    (text,) = re.findall(r"^```toml\n(.*?)^```", SWEEPS, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    file = load_sweep(tmp_path / "mine.toml")
    settings = list(Space(file, "mine.toml").points())
    assert len(settings) == 40
    assert {Inputs(file, one).hardware.array.rows * Inputs(file, one).hardware.array.columns for one in settings} == {
        256
    }


def test_columns_of_a_store_are_those_of_the_page(tmp_path):
    import sqlite3

    from accelsim.explore.store import APPLICATION, VERSION, Store

    Store(tmp_path / "s.db").close()
    with closing(sqlite3.connect(tmp_path / "s.db")) as opened:
        for name in ("points", "sweeps", "members"):
            columns = {row[1] for row in opened.execute(f"PRAGMA table_info({name})")}
            assert columns == keys(f"column of `{name}`"), name
    assert f"`{APPLICATION:#x}`" in FORMATS
    assert f"schema version {VERSION} " in FORMATS
