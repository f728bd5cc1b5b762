"""The benches that come with a pack, under Icarus: with the example design, and with one that differs on purpose."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from graphs import random_graph, random_hardware
from simulators import need

from accelsim.cli import main
from accelsim.vectors import Request, check, export_network, load_pack, read_dump
from accelsim.vectors.evaluation import Variant, compute

HERE = Path(__file__).parent
BENCHES = ("layers.sv", "tile_bench.sv", "ppu_bench.sv")
EXAMPLES = ("example_array.sv", "example_ppu.sv")


@pytest.fixture(autouse=True, scope="module")
def icarus() -> None:
    """Before every fixture of the module, so that a missing Icarus is not a failure of theirs."""
    need("icarus")


def export(folder: Path, *arguments: str) -> Path:
    assert main(["vectors", "export", *arguments, "-o", str(folder)]) == 0
    return folder


def tops(pack: Path) -> list[str]:
    return re.findall(r"^module (\w+);", (pack / "layers.sv").read_text(), re.MULTILINE)


def simulate(pack: Path, top: str, sources: list[Path], dump: Path) -> str:
    """Compile one top and run it; returns its last line."""
    dump.mkdir(exist_ok=True)
    program = dump.parent / f"{top}.vvp"
    build = ["iverilog", "-g2012", "-s", top, "-o", str(program), *(str(pack / name) for name in BENCHES)]
    subprocess.run([*build, *map(str, sources)], check=True, capture_output=True, text=True)
    done = subprocess.run(
        ["vvp", str(program), f"+pack={pack}", f"+dump={dump}"], check=True, capture_output=True, text=True, timeout=300
    )
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "options",
    [
        ("--set", "array.rows=4", "--set", "array.columns=3", "--set", "accumulator.width_bits=14"),
        ("--set", "array.rows=3", "--set", "array.columns=4", "--set", "array.dataflow=os", "--policy", "wrapping"),
    ],
    ids=["ws saturating at 14 bits", "os wrapping at 32 bits"],
)
def test_the_example_design_passes_every_corner(tmp_path, capsys, options):
    """All the directed layers, some in an array, all shifting schemes in a PPU: RTL written apart from the model."""
    pack = export(tmp_path / "pack", "corners", "--level", "tile", "--hardware", "edge_8x8", *options)
    dump = tmp_path / "dump"
    chosen = [
        top
        for top in tops(pack)
        if re.search(r"accumulator_|array_|all_min|up_then|k5_n4|zero_points|operand_ends", top) or "ppu_" in top
    ]
    chosen = [top for number, top in enumerate(chosen) if top.startswith("tile") or number % 3 == 0]
    assert len(chosen) > 25
    for top in chosen:
        assert simulate(pack, top, [pack / name for name in EXAMPLES], dump).startswith("PASS"), top
    capsys.readouterr()
    assert main(["vectors", "check", str(pack), str(dump)]) == 0
    assert capsys.readouterr().out.startswith("PASS: ")


@pytest.mark.parametrize("seed", [1000, 1001])
def test_the_example_design_passes_random_networks(tmp_path, seed):
    """Grouped, depthwise and dilated layers, unsigned codes, subtracted zero points, every shifting scheme."""
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    hardware = random_hardware(rng, graph, ("ws", "os")[seed % 2])
    policy = "exact" if hardware.accumulator.saturate_at == "end" else None
    request = Request(level="tile", policy=policy, command="test", versions={})
    export_network(graph, hardware, maker.codes(1), tmp_path / "pack", request)
    pack = load_pack(tmp_path / "pack")
    for top in tops(pack.folder):
        sources = [pack.folder / name for name in EXAMPLES]
        assert simulate(pack.folder, top, sources, tmp_path / "dump").startswith("PASS"), top
    assert check(pack, read_dump(pack, tmp_path / "dump")).passed


@pytest.fixture(scope="module")
def wrapping_pack(tmp_path_factory):
    """LeNet-5's second layer for simple hardware: no zero points, one multiplier, 16-bit sums that wrap."""
    return export(
        tmp_path_factory.mktemp("wrapping") / "pack", "lenet5_digits", "--level", "tile", "--simple",
        "--quantization", "int8_per_tensor", "--policy", "wrapping", "--layer", "c3", "--layer", "f6",
        "--hardware", "edge_8x8", "--set", "accumulator.width_bits=16", "--set", "array.columns=5",
    )  # fmt: skip


def test_a_different_design_consumes_a_pack_and_passes(tmp_path, capsys, wrapping_pack):
    """16-bit sums overflow in this layer, so that passing shows more than that nothing did."""
    design = [HERE / "wrapping_array.sv", wrapping_pack / "example_ppu.sv"]
    assert sorted(re.sub(r"_\d+_", " ", top) for top in tops(wrapping_pack)) == [
        "ppu c3",
        "ppu f6",
        "tile c3",
        "tile f6",
    ]
    for top in tops(wrapping_pack):
        assert simulate(wrapping_pack, top, design, tmp_path / "dump").startswith("PASS"), top
    capsys.readouterr()
    assert main(["vectors", "check", str(wrapping_pack), str(tmp_path / "dump")]) == 0
    assert "values in 6 files agree" in capsys.readouterr().out
    opened = load_pack(wrapping_pack)
    layer = opened.layer(opened.manifest.layer[0])
    kept = compute(layer.entry, layer.arrays)["accumulator"]
    assert (kept != compute(layer.entry, layer.arrays, Variant(overflow="saturate"))["accumulator"]).any()


def test_a_wrapping_design_on_a_saturating_pack_is_told_that_it_wraps(tmp_path, capsys):
    pack = export(
        tmp_path / "pack", "corners", "--level", "tile", "--hardware", "edge_8x8", "--layer", "all_minimum",
        "--layer", "tile_k1_n1", "--set", "accumulator.width_bits=16",
    )  # fmt: skip
    design = [HERE / "wrapping_array.sv", pack / "example_ppu.sv"]
    tile = {top[5:]: top for top in tops(pack) if top.startswith("tile_")}
    wrong, right = (next(top for name, top in tile.items() if part in name) for part in ("all_minimum", "tile_k1_n1"))
    assert simulate(pack, right, design, tmp_path / "dump").startswith("PASS")
    assert simulate(pack, wrong, design, tmp_path / "dump").startswith("FAIL")
    capsys.readouterr()
    assert main(["vectors", "check", str(pack), str(tmp_path / "dump")]) == 1
    said = capsys.readouterr().out
    # -128 * -128 = 2^14: the second product takes a 16-bit sum one past its maximum, in the first word and column.
    assert said.splitlines()[0].startswith("FAIL: layer all_minimum")
    assert "chunk 0 (k 0..7)" in said
    assert re.search(r"0 +1 +1 +-128 +-128 +16384 +32768 +32767!", said)
    assert "cause: overflow: additions wrap instead of saturating" in said
