"""VCD files: read back by an independent reader, and compared with what the machine computed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import accelsim
from accelsim.cli import main

vcd_reader = pytest.importorskip("vcd.reader", reason="pyvcd is not installed")


def read_vcd(path):
    """Values over time by full name: [(time, value)], values as the file has them."""
    scope, names, changes, now = [], {}, {}, 0
    kind = vcd_reader.TokenKind
    with open(path, "rb") as stream:
        for token in vcd_reader.tokenize(stream):
            if token.kind is kind.SCOPE:
                scope.append(token.data.ident)
            elif token.kind is kind.UPSCOPE:
                scope.pop()
            elif token.kind is kind.VAR:
                name = ".".join([*scope, token.data.reference])
                names[token.data.id_code] = (name, token.data.size)
                changes[name] = []
            elif token.kind is kind.CHANGE_TIME:
                now = token.data
            elif token.kind in (kind.CHANGE_VECTOR, kind.CHANGE_SCALAR):
                name, size = names[token.data.id_code]
                value = token.data.value
                if isinstance(value, int) and size > 1 and value >> (size - 1) and "psum" in name:
                    value -= 1 << size
                changes[name].append((now, value))
    return changes


def at(changes, time):
    """The value that holds at a time."""
    return [value for when, value in changes if when <= time][-1]


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_a_waveform_shows_each_pe_and_the_machines_cycles(tmp_path, capsys, dataflow):
    path = tmp_path / "out.vcd"
    common = ["--hardware", "edge_8x8", "--set", f"array.dataflow={dataflow}"]
    assert main(["vectors", "wave", "lenet5_digits", "-o", str(path), "--layer", "output", *common]) == 0
    said = capsys.readouterr().out
    first, last = (int(word) for word in said.split("cycles ")[1].split(" to "))
    changes = read_vcd(path)
    for register in ("activation", "weight", "shadow", "psum", "drain", "live", "first"):
        assert {f"array.row[{i}].column[{j}].pe.{register}" for i in range(8) for j in range(8)} <= changes.keys()
    # A rising edge of clk in every cycle of the machine, 10 ns apart; the cycle's number beside it.
    rises = [time for time, value in changes["bench.clk"] if value in (1, "1") and time >= 10 * first]
    assert rises == [10 * cycle for cycle in range(first, last + 1)]
    assert at(changes["bench.cycle"], 10 * last) == last


def test_partial_sums_of_a_waveform_are_the_vectors_of_the_layer(tmp_path, capsys):
    """A tile's sum stands in the bottom PE of column j in cycle T + m + R + j (microarchitecture, section 4.2)."""
    folder, path = tmp_path / "pack", tmp_path / "f6.vcd"
    layer = ["--layer", "f6", "--hardware", "edge_8x8"]
    assert main(["vectors", "export", "lenet5_digits", "--level", "cycle", "-o", str(folder), *layer]) == 0
    assert main(["vectors", "wave", "lenet5_digits", "-o", str(path), "--computes", "1", *layer]) == 0
    capsys.readouterr()
    changes = read_vcd(path)
    edges = np.load(next(folder.glob("*.cycle.psum.npy")))[0]
    valid = np.load(next(folder.glob("*.cycle.psum_valid.npy")))[0]
    first = (
        next(time // 10 for time, value in changes["grid.load_row"] if value == 1) - 1
    )  # row 0 of the first tile's weights is read in the cycle before
    shown = 0
    for cycle, column in np.argwhere(valid):
        value = at(changes[f"array.row[7].column[{column}].pe.psum"], 10 * (first + cycle))
        assert value == edges[cycle, column], (cycle, column)
        shown += 1
    assert shown == 15 * 8  # K = 120 in chunks of 8, one word, 8 columns


def declared(text, name):
    """Whether a module's source declares a port, register or net of this name."""
    return re.search(rf"\b(?:logic|wire)\b[^;=()]*?\b{name}\b\s*[;,=)]", re.sub("//.*", "", text)) is not None


def test_scopes_and_names_of_a_waveform_are_those_of_the_rtl(tmp_path):
    """From compute_unit.sv down; the scopes `bench` and `grid` have no counterpart."""
    path = tmp_path / "out.vcd"
    assert main(["vectors", "wave", "lenet5_digits", "-o", str(path), "--layer", "c1", "--computes", "1"]) == 0
    names = {re.sub(r"\[\d+\]", "", name) for name in read_vcd(path)}
    modules = {p.stem: p.read_text() for p in (Path(accelsim.__file__).parent / "rtl").glob("*.sv")}
    inside = {"array": "systolic_array", "sums": "accumulate"}
    for instance, module in inside.items():
        assert re.search(rf"\b{module} #\(.*\) {instance} \($", modules["compute_unit"], re.MULTILINE)
    seen = set()
    for name in sorted(names):
        top, *blocks, register = name.split(".")
        if top not in inside:
            assert top in ("bench", "grid"), name
            continue
        text = modules[inside[top]]
        for block in blocks:
            found = re.search(rf"begin : {block}$(.*)|\b(\w+) #\([^;]*\) {block} \(", text, re.MULTILINE | re.DOTALL)
            assert found, f"{name}: {block} is neither a block nor an instance"
            text = modules[found[2]] if found[2] else found[1]
        assert declared(text, register), name
        seen.add(top)
    assert seen == set(inside)
    assert not declared(modules["accumulate"], "address")


def test_two_waveforms_are_the_same_bytes(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a.vcd", "b.vcd")]
    for path in paths:
        main(["vectors", "wave", "lenet5_digits", "-o", str(path), "--layer", "c1", "--computes", "1"])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_pipelined_array_steps_in_the_machines_cycles(tmp_path):
    # `write_waveform` raises where the grid's cycles are not the machine's.
    options = ["--hardware", "edge_8x8", "--set", "array.mac_latency_cycles=4", "--set", "array.mac_interval_cycles=2"]
    path = str(tmp_path / "out.vcd")
    assert main(["vectors", "wave", "lenet5_digits", "-o", path, "--layer", "output", *options]) == 0
