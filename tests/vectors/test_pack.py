"""Packs on disk: the same bytes for the same command, digests, coverage counted in the vectors, bad input."""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from graphs import random_graph, random_hardware
from refusals import refusal

from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.errors import InputError
from accelsim.ir import save_graph
from accelsim.pipeline import run_checked, save_compiled
from accelsim.vectors import Request, check, export_corners, export_network, load_pack, measure, read_dump
from accelsim.vectors.corners import cases
from accelsim.vectors.layers import Layer, make_layers, policy_of
from accelsim.vectors.manifest import MANIFEST, Manifest
from accelsim.vectors.text import decode, encode

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "vectors.md").read_text(encoding="utf-8")


def request(level="tile", **more):
    return Request(level=level, command="test", versions={"accelsim": "test"}, **more)


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


# --- text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 8, 16, 32, 64])
def test_text_comes_back_as_it_went(bits):
    rng = np.random.default_rng(bits)
    low, high = (0, 2) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for per_line in (1, 3, 16):
        values = rng.integers(low, high, (7, per_line), endpoint=bits > 1)
        text = encode(values, bits)
        assert {len(line) for line in text.splitlines()} == {-(-per_line * bits // 4)}
        back = decode(text.upper(), 7, per_line, bits, signed=bits > 1, where="x")
        assert (back.values == values).all()
        assert not back.unknown.any()


def test_element_0_of_a_line_is_in_the_lowest_bits():
    assert encode(np.array([[0x11, 0x22, -1]]), 8) == "ff2211\n"


# --- export ------------------------------------------------------------------------------------------------


def test_cycle_vectors_are_those_of_a_multiply_add_of_one_cycle(tmp_path):
    slow = load_hardware("edge_8x8", ["array.mac_latency_cycles=2"])
    said = refusal(export_corners, slow, tmp_path / "pack", request("cycle", layers=["shift_zero"]))
    assert said.startswith("--level cycle: cycle vectors are those of a PE that multiplies and adds in one cycle; use")
    export_corners(slow, tmp_path / "pack", request("tile", layers=["shift_zero"]))


def test_the_same_command_writes_the_same_bytes_wherever_it_writes(tmp_path, capsys):
    for name in ("one", "other"):
        arguments = ["vectors", "export", "lenet5_digits", "--level", "cycle", "--layer", "output", "--images", "2"]
        assert main([*arguments, "--hardware", "edge_8x8", "-o", str(tmp_path / name)]) == 0
    assert files(tmp_path / "one") == files(tmp_path / "other")
    manifest = tomllib.loads((tmp_path / "one" / MANIFEST).read_text())
    assert manifest["command"] == (
        "accelsim vectors export lenet5_digits --level cycle --images 2 --hardware edge_8x8 --layer output"
    )
    for layer in manifest["layer"]:
        for tensor in layer["tensor"]:
            for form in ("hex", "npy"):
                data = (tmp_path / "one" / f"{tensor['file']}.{form}").read_bytes()
                assert hashlib.sha256(data).hexdigest() == tensor[f"{form}_sha256"]


def small(folder: Path, level: str = "layer", **more) -> None:
    export_corners(load_hardware("edge_8x8"), folder, request(level, **{"layers": ["shift_zero"], **more}))


def test_files_that_no_pack_wrote_stay(tmp_path):
    """A folder with another program's manifest is refused; in a pack's own folder only its own files are replaced."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / MANIFEST).write_text("a = 1\n")
    (foreign / "my.npy").write_text("mine")
    before = files(foreign)
    assert "is not that of a pack this version can read, so its files stay" in refusal(small, foreign)
    assert files(foreign) == before
    folder = tmp_path / "pack"
    small(folder)
    (folder / "my.npy").write_text("mine")
    (folder / "tile_bench.sv").write_text("mine")  # level layer has none of its own
    (folder / "dump").mkdir()
    small(folder, layers=["all_minimum"])
    assert (folder / "my.npy").read_text() == (folder / "tile_bench.sv").read_text() == "mine"
    assert (folder / "dump").is_dir()
    assert not [name for name in map(str, folder.iterdir()) if "shift_zero" in name]
    before = files_below(folder)
    assert "tile_bench.sv: no pack wrote this file, and the new one has one of its name" in refusal(
        small, folder, "tile"
    )
    assert files_below(folder) == before


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bench_that_was_edited_is_not_overwritten(tmp_path):
    small(tmp_path / "pack", "tile")
    design = tmp_path / "pack" / "example_array.sv"
    design.write_text(design.read_text() + "// mine\n")
    before = files_below(tmp_path / "pack")
    for level in ("tile", "layer"):
        assert "example_array.sv: was changed since the pack was written" in refusal(small, tmp_path / "pack", level)
    assert files_below(tmp_path / "pack") == before


def test_an_altered_tensor_is_what_exporting_again_mends(tmp_path):
    small(tmp_path / "pack")
    before = files_below(tmp_path / "pack")
    next((tmp_path / "pack").glob("*.hex")).write_text("00\n")
    small(tmp_path / "pack")
    assert files_below(tmp_path / "pack") == before


@pytest.mark.parametrize("limit", ["MOST_CYCLES", "LARGEST_BYTES"])
def test_a_refused_export_leaves_the_earlier_pack_as_it_was(tmp_path, monkeypatch, limit):
    folder = tmp_path / "pack"
    small(folder, "tile")
    before = files_below(folder)
    monkeypatch.setattr(f"accelsim.vectors.pack.{limit}", 20)
    refusal(small, folder, "cycle")
    assert files_below(folder) == before
    refusal(small, tmp_path / "new", "cycle")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("first, then", [("tile", "layer"), ("cycle", "tile"), ("layer", "cycle")])
def test_exporting_over_a_pack_of_another_level_gives_the_bytes_of_a_new_one(tmp_path, first, then):
    small(tmp_path / "used", first)
    small(tmp_path / "used", then)
    small(tmp_path / "new", then)
    assert files_below(tmp_path / "used") == files_below(tmp_path / "new")


@pytest.mark.parametrize("held", [True, False], ids=["over a pack", "new folder"])
@pytest.mark.parametrize("at", ["first file", "last file", "first move", "last move", "manifest's move"])
def test_a_killed_export_is_no_obstacle_for_the_next(tmp_path, held, at):
    """Killed while writing: the earlier pack is whole. Killed while moving: the next export ends that and goes on."""
    folder, other = tmp_path / "pack", tmp_path / "other"
    small(other, "tile")
    if held:
        small(folder, layers=["all_minimum"])
        (folder / "mine.txt").write_text("mine")
    before = files_below(folder)
    count = len(list(other.iterdir()))
    program = (
        "import os, sys, itertools\nfrom pathlib import Path\nsys.path[:0] = [{tests!r}]\n"
        "calls, real = itertools.count(1), os.replace\n"
        "def replace(*names):\n    if next(calls) == {stop}: os._exit(9)\n    real(*names)\n"
        "os.replace = replace\nfrom vectors.test_pack import small\nsmall(Path({folder!r}), 'tile')\n"
    )
    # Every file is written with one os.replace, and moved with another.
    stop = {"first file": 1, "last file": count, "first move": count + 1, "last move": 2 * count - 1}.get(at, 2 * count)
    text = program.format(tests=str(ROOT / "tests"), stop=stop, folder=str(folder))
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 9
    if held and at.endswith("file"):
        left = {name: data for name, data in files_below(folder).items() if not name.startswith(".accelsim-export")}
        assert left == before
        load_pack(folder)
    small(folder, "tile")
    if held:
        assert (folder / "mine.txt").read_text() == "mine"
        (folder / "mine.txt").unlink()
    assert files_below(folder) == files_below(other)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in other.iterdir())


@pytest.mark.parametrize("seed", range(6))
def test_outputs_of_a_pack_are_those_of_the_machine_that_runs_the_program(tmp_path, seed):
    """The program's own tiles and rectangles are other ones; its tensors must be the pack's."""
    rng = np.random.default_rng(100 + seed)
    maker = random_graph(rng)
    graph, dataflow = maker.graph(), ("ws", "os")[seed % 2]
    hardware = random_hardware(rng, graph, dataflow)
    hardware = hardware.model_copy(
        update={"accumulator": hardware.accumulator.model_copy(update={"saturate_at": "every_add"})}
    )
    codes = maker.codes(2)
    try:
        outcome = run_checked(compile_graph(graph, hardware, 2), graph, codes, keep_tensors=True)
    except InputError as error:
        pytest.skip(str(error))
    export_network(graph, hardware, codes, tmp_path / "pack", request())
    pack = load_pack(tmp_path / "pack")
    assert [layer.name for layer in pack.manifest.layer] == [node.name for node in graph.nodes[1:]]
    for layer in pack.manifest.layer:
        by_name = {tensor.name: tensor for tensor in layer.tensor}
        assert (pack.read(by_name["output"]) == outcome.tensors[layer.name]).all(), layer.name


def test_hex_and_npy_hold_the_same(tmp_path):
    export_corners(load_hardware("edge_8x8"), tmp_path / "pack", request(layers=["up_then_down", "tile_k9_n9"]))
    pack = load_pack(tmp_path / "pack")
    for file, (_, tensor) in pack.by_file.items():
        text = (tmp_path / "pack" / f"{file}.hex").read_text()
        got = decode(text, tensor.lines, tensor.per_line, tensor.bits, signed=tensor.signed, where=file)
        assert (got.values.reshape(tensor.shape) == pack.read(tensor)).all(), file


@pytest.mark.parametrize("policy", ["saturating", "wrapping", "exact"])
def test_accumulators_follow_the_named_policy(tmp_path, policy):
    """127 * 127 * 8 = 129,032 and then -128 * 127 * 8 = -130,048, one after the other, in 16 bits or without limit."""
    hardware = load_hardware("edge_8x8", ["accumulator.width_bits=16"])
    export_corners(hardware, tmp_path / "pack", request(policy=policy, layers=["up_then_down"]))
    pack = load_pack(tmp_path / "pack")
    (layer,) = pack.manifest.layer
    first = pack.read(next(t for t in layer.tensor if t.name == "tile.accumulator"))[0, :, 0, 0].tolist()
    wrapped = [129032 - 2 * 65536, -1016]
    assert first == {"saturating": [32767, -1], "wrapping": wrapped, "exact": [129032, -1016]}[policy]


def test_simple_keeps_layers_without_zero_points_and_with_one_multiplier(tmp_path, capsys):
    export_corners(load_hardware("edge_8x8"), tmp_path / "pack", request("layer", simple=True))
    pack = load_pack(tmp_path / "pack")
    assert len(pack.manifest.layer) > 40
    for layer in pack.manifest.layer:
        assert (layer.numerics.z_x, layer.numerics.z_y, layer.sums.z_w) == ([0], 0, 0)
        arrays = pack.layer(layer).arrays
        assert len({*zip(arrays["m0"].tolist(), arrays["shift"].tolist(), strict=True)}) == 1


def corner_layers(overrides: list[str]) -> list[Layer]:
    """The directed cases without writing them."""
    hardware = load_hardware("edge_8x8", overrides)
    policy = policy_of(hardware, None)
    return [layer for case in cases(hardware) for layer in make_layers(case.graph, hardware, case.codes, policy=policy)]


# --- coverage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["array.rows=4", "array.columns=4", "accumulator.width_bits=16"],
        ["array.rows=3", "array.columns=5", "accumulator.width_bits=12", "accumulator.overflow=wrap"],
        ["array.dataflow=os", "accumulator.width_bits=20"],
        [],
    ],
    ids=["16 bits", "12 bits, wrapping", "os, 20 bits", "32 bits"],
)
def test_the_directed_cases_reach_everything_that_can_be_reached(overrides):
    coverage = measure(corner_layers(overrides))
    assert [point.name for point in coverage.missed] == []
    hit = {point.name for point in coverage.points.values() if point.status == "hit"}
    impossible = {point.name for point in coverage.points.values() if point.status == "impossible"}
    assert len(hit) + len(impossible) == len(coverage.points)
    # What widths rule out: eight products of 2^14 stay below 2^31, and an output-stationary memory adds nothing.
    assert {name.partition(".")[0] for name in impossible} <= {"array", "accumulator"}


def test_coverage_is_counted_in_the_vectors_and_falls_with_them():
    """A tie that is moved off its half, and a case that is left out, are no longer counted."""
    layers = corner_layers(["accumulator.width_bits=16"])
    whole = measure(layers)
    ties = [layer for layer in layers if layer.entry.name == "ties_half_even"]
    # Of -128..127 a quarter is 2 mod 4: 32 positive values and 32 negative ones.
    assert [measure(ties).points[f"tie.{sign}.half_even"].hits for sign in ("positive", "negative")] == [32, 32]
    ties[0].arrays["input"] = ties[0].arrays["input"] // 4 * 4
    assert measure(ties).points["tie.positive.half_even"].status == "missed"
    without = measure([layer for layer in layers if not layer.entry.name.startswith(("all_minimum", "operand_ends"))])
    assert whole.points["operands.all_minimum"].status == "hit"
    assert without.points["operands.all_minimum"].status == "missed"


def test_the_report_in_a_pack_is_what_counting_again_gives(tmp_path, capsys):
    assert main(["vectors", "export", "corners", "--hardware", "edge_8x8", "-o", str(tmp_path / "pack")]) == 0
    report = tomllib.loads((tmp_path / "pack" / "coverage.toml").read_text())["point"]
    capsys.readouterr()
    assert main(["vectors", "coverage", str(tmp_path / "pack")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for point, line in zip(report, lines, strict=False):
        assert line.split()[:3] == [point["name"], point["status"], f"{point['hits']:,}"]


# --- the page ------------------------------------------------------------------------------------------------


def test_every_key_of_the_manifest_is_on_the_page_and_every_key_of_the_page_in_the_manifest():
    schema = Manifest.model_json_schema()
    found = set(schema["properties"])
    for section in schema["$defs"].values():
        found |= set(section["properties"])
    page = PAGE.split("## 2 ")[1].split("\n## ")[0]
    said = {
        key
        for line in page.splitlines()
        if line.startswith("| `")
        for key in re.findall(r"`(\w+)`", line.split(" |")[0])
    }
    assert said == found


# --- bad input -----------------------------------------------------------------------------------------------


def test_bad_packs_are_refused_in_one_line(tmp_path):
    assert "holds no manifest.toml; give a folder" in refusal(load_pack, tmp_path)
    export_corners(load_hardware("edge_8x8"), tmp_path / "pack", request("layer", layers=["shift_zero"]))
    manifest = tmp_path / "pack" / MANIFEST
    text = manifest.read_text()
    for old, new, said in (
        ("version = 1", "version = 2", "version = 2 is not 1; export the pack again"),
        ('level = "layer"', 'level = "tiles"', "level = 'tiles' is not one of 'layer', 'tile' or 'cycle'"),
        ("per_line = 1", "per_line = 3", "per_line = 3 is neither 1 nor the last axis"),
        ('format = "', 'kind = 1\nformat = "', "unknown key 'kind'"),
        ('file = "', 'file = "../', "file names hold no folder"),
    ):
        manifest.write_text(text.replace(old, new, 1))
        assert said in refusal(load_pack, tmp_path / "pack")
    manifest.write_text(text)
    pack = load_pack(tmp_path / "pack")
    tensor = pack.manifest.layer[0].tensor[0]
    np.save(tmp_path / "pack" / f"{tensor.file}.npy", np.zeros(3, dtype=np.int8))
    assert "is not the file its manifest was written for" in refusal(pack.read, tensor)


def test_layers_too_large_for_a_pack_are_refused_before_they_are_made(tmp_path, monkeypatch):
    hardware = load_hardware("edge_8x8")
    monkeypatch.setattr("accelsim.vectors.layers.LARGEST_TILES", 4000)  # all_minimum: 2 chunks of (2 words, 24) and 64
    said = refusal(export_corners, hardware, tmp_path / "pack", request())
    assert re.search(r"its tiles have [\d,]+ elements, more than the 4,000 of a pack; export fewer images", said)
    monkeypatch.undo()
    monkeypatch.setattr("accelsim.vectors.pack.MOST_CYCLES", 20)
    said = refusal(export_corners, hardware, tmp_path / "pack", request("cycle"))
    # all_minimum: L = 0, 8; T = 8, 16; M = 2: 16 + 2 + 8 + 8 - 1 cycles.
    assert "layer all_minimum: 1 blocks of 33 cycles are more than the 20 cycles of a pack's layer" in said


def test_bad_requests_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    corners = ["vectors", "export", "corners", "--hardware", "edge_8x8", "-o", str(tmp_path / "pack")]
    for arguments, said in (
        ([*corners, "--level", "tiles"], "--level tiles: is not one of layer, tile, cycle; did you mean 'tile'?"),
        ([*corners, "--policy", "wrap"], "--policy wrap: is not one of saturating, wrapping, exact"),
        (
            [*corners, "--layer", "shift_zer"],
            "--layer shift_zer: corners has no such layer; did you mean 'shift_zero'?",
        ),
        ([*corners, "--set", "accumulator.saturate_at=end"], "is no adder's behaviour; export with --policy exact"),
        ([*corners, "--set", "array.dataflow=is"], "export with array.dataflow = 'ws', whose bits are the same"),
        ([*corners, "--simple", "--layer", "scales_floor"], "--simple: no layer of corners is without zero points"),
        (
            [*corners[:-1], str(tmp_path / "full")],
            "holds notes.txt and no manifest.toml; give an empty or a new folder",
        ),
        (["vectors", "check", str(tmp_path), str(tmp_path), "--trace", "0"], "--trace 0: must be at least 1"),
        (
            ["vectors", "wave", "lenet5_digits", "-o", str(tmp_path / "x.vcd"), "--layer", "c4"],
            "--layer c4: lenet5_digits",
        ),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A graph directory and a program directory of one random network."""
    folder = tmp_path_factory.mktemp("directories")
    maker = random_graph(np.random.default_rng(5))
    graph = maker.graph()
    save_graph(graph, folder / "graph")
    program = compile_graph(graph, load_hardware("edge_8x8"), 1)
    save_compiled(program, graph, maker.codes(1), folder / "program")
    return {"corners": "corners", "graph": str(folder / "graph"), "program": str(folder / "program")}


SOURCE = ("--quantization=int8_per_tensor", "--quantization-set=weights.bits=4", "--calibration=x.npy")


@pytest.mark.parametrize(
    "action, what, option",
    [("export", "corners", one) for one in (*SOURCE, "--data=digits", "--input=x.npy", "--images=2")]
    + [("export", "graph", one) for one in SOURCE]
    + [("wave", "graph", SOURCE[0])]
    + [
        (action, "program", one)
        for action in ("export", "wave")
        for one in (*SOURCE, "--data=digits", "--input=x.npy", "--hardware=edge_8x8", "--set=array.rows=4")
    ],
)
def test_options_that_would_change_nothing_are_refused(tmp_path, capsys, directories, action, what, option):
    name = option.partition("=")[0]
    assert main(["vectors", action, directories[what], option, "-o", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert f"{name}: {directories[what]} " in error
    assert error.endswith(f"; leave {name} out\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_an_altered_manifest_is_refused_in_one_line_or_changes_nothing_that_is_read(tmp_path):
    """Every number and word of it in turn; whatever is not refused must still be checked to the end."""
    maker = random_graph(np.random.default_rng(5))
    graph = maker.graph()
    hardware = load_hardware("edge_8x8", ["array.rows=4", "array.columns=3"])
    export_network(graph, hardware, maker.codes(1), tmp_path / "pack", request("cycle"))
    manifest = tmp_path / "pack" / MANIFEST
    text = manifest.read_text()
    lines = text.splitlines()
    good = load_pack(tmp_path / "pack")
    rng = np.random.default_rng(7)
    outputs = tmp_path / "dump"
    outputs.mkdir()
    for _, tensor in good.by_file.values():
        if tensor.name in ("output", "tile.psum"):
            array = good.read(tensor).astype(tensor.dtype)
            array.flat[0] ^= 1  # so that the whole report is made
            np.save(outputs / f"{tensor.file}.npy", array)
    refused = passed = 0
    places = [(n, m) for n, line in enumerate(lines) for m in re.finditer(r"-?\b\d+\b|\btrue\b|\bfalse\b", line)]
    places = [place for place in places if "sha256" not in lines[place[0]]]
    for index in rng.choice(len(places), 120, replace=False):
        number, match = places[index]
        new = {"true": "false", "false": "true"}.get(match[0]) or str(rng.choice([-1, 0, 1, 3, 255, 10**6]))
        altered = [*lines]
        altered[number] = lines[number][: match.start()] + new + lines[number][match.end() :]
        manifest.write_text("\n".join(altered) + "\n")
        try:
            pack = load_pack(tmp_path / "pack")
            check(pack, read_dump(pack, outputs))
            passed += 1
        except InputError:  # one line, by construction
            refused += 1
    assert refused > 50
    assert passed > 0
    manifest.write_text(text)


def test_numbers_beyond_64_bits_in_a_manifest_are_refused_in_one_line(tmp_path):
    """Each key of the first convolution, sum and pool in turn; 2**70 fits no integer that computes with it."""
    maker = random_graph(np.random.default_rng(5))
    hardware = load_hardware("edge_8x8", ["array.rows=4", "array.columns=3"])
    export_network(maker.graph(), hardware, maker.codes(1), tmp_path / "pack", request("cycle"))
    manifest = tmp_path / "pack" / MANIFEST
    text = manifest.read_text()
    output = next(tensor for tensor in load_pack(tmp_path / "pack").by_file if tensor.endswith(".output"))
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / f"{output}.hex").write_text("00\n")  # the rest is unknown: the whole report is made
    lines = text.splitlines()
    first = {}
    for number, line in enumerate(lines):
        key = line.partition(" = ")[0]
        if "sha256" not in key and not line.startswith('"') and re.search(r"= \[*-?\d", line):
            first.setdefault(key, number)
    assert {"z_x", "z_y", "clip", "z_w", "stride", "shape", "chunks", "total", "words"} <= first.keys()
    free = []
    for key, number in first.items():
        for huge in (2**70, -(2**70)):
            altered = [*lines]
            altered[number] = re.sub(r"-?\d+", str(huge), lines[number], count=1)
            manifest.write_text("\n".join(altered) + "\n")
            with contextlib.suppress(InputError):  # one line, by construction
                pack = load_pack(tmp_path / "pack")
                check(pack, read_dump(pack, tmp_path / "dump"))
                measure(pack.layer(entry) for entry in pack.manifest.layer)
                free.append(key)
    assert set(free) <= {"images", "number", "level"}  # said, and computed with by nobody
