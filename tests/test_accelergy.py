"""Accelergy's ERT files: figures against energies worked out by hand, and files that are none."""

from __future__ import annotations

from fractions import Fraction

import pytest

from accelsim.config.sweep import SweepFile
from accelsim.energy import load_energy
from accelsim.energy.accelergy import MOST_BYTES, read_ert
from accelsim.errors import InputError
from accelsim.explore.space import Inputs
from accelsim.timing import OpKey

# The form of Accelergy 0.4's files (0.3 has `arguments: null` and a version without quotes); the figures are made up.
ERT = """
ERT:
    version: '0.4'
    tables:
      - name: chip.PE[0..15].mac[1..4]
        actions:
          - name: compute
            arguments: {}
            energy: 2.56
          - name: leak
            arguments: {}
            energy: 4e-3
      - name: chip.GLB[1..1]
        actions:
          - name: read
            arguments:
                address_delta: 0
                data_delta: 1
            energy: 1.6
          - name: read
            arguments:
                address_delta: 1
                data_delta: 1
            energy: 6.4
          - name: write
            arguments:
                global_cycle_seconds: 1e-09
            energy: 7
      - name: chip.DRAM
        actions:
          - name: read
            arguments: null
            energy: 512
"""
HEAD = """
unit = "pJ"
node_nm = 45
voltage_v = 0.9
source = "a test"
ert = "ERT.yaml"
"""
MAC = HEAD + '[[entry]]\nops = ["mul"]\nkind = "action"\nbits = 16\nby_bits = 16\n'
TABLE = (
    MAC
    + """
component = "chip.PE.mac"
action = "compute"
share = 0.75

[[entry]]
ops = ["add.array"]
kind = "action"
bits = 32
component = "chip.PE[0..15].mac[1..4]"
action = "compute"
share = 0.25

[[entry]]
ops = ["read.weight", "read.accumulator"]
kind = "action"
bits = 64
component = "chip.GLB"
action = "read"
arguments = { address_delta = 1, data_delta = 1 }

[[entry]]
ops = ["write.weight"]
kind = "action"
bits = 64
component = "chip.GLB"
action = "write"
node_nm = 40

[[entry]]
ops = ["dram.read"]
kind = "action"
bits = 64
component = "chip.DRAM"
action = "read"
source = "a data sheet agrees"

[[entry]]
ops = ["idle"]
kind = "action"
bits = 1
component = "chip.PE.mac"
action = "leak"

[[entry]]
ops = ["compare"]
kind = "action"
bits = 8
energy_per_action = 0.03
"""
)


def write(tmp_path, table: str = TABLE, ert: str = ERT):
    (tmp_path / "ERT.yaml").write_text(ert)
    (tmp_path / "mine.toml").write_text(table)
    return tmp_path / "mine.toml"


@pytest.mark.parametrize(
    "key, energy",
    [
        (OpKey("mul", 16, 16), Fraction("1.92")),  # 2.56 * 3/4
        (OpKey("mul", 8, 8), Fraction("0.48")),  # a quarter of the product bits
        (OpKey("mul", 8, 4), Fraction("0.24")),
        (OpKey("add.array", 32), Fraction("0.64")),
        (OpKey("add.array", 20), Fraction("0.4")),
        (OpKey("read.weight", 8), Fraction("0.8")),  # 6.4 / 8
        (OpKey("read.accumulator", 24), Fraction("2.4")),
        (OpKey("write.weight", 8), Fraction(7, 8)),
        (OpKey("dram.read", 8), Fraction(64)),
        (OpKey("idle", 1), Fraction("0.004")),  # 4e-3, which YAML 1.1 takes for text
        (OpKey("compare", 32), Fraction("0.12")),
    ],
)
def test_energies_are_those_worked_out_by_hand(tmp_path, key, energy):
    assert load_energy(write(tmp_path)).by_op[key.op].energy(key, 1024) == energy


@pytest.mark.parametrize("change", [("'0.4'", "0.3"), ("{}", "null")])
def test_older_files_give_the_same(tmp_path, change):
    new = load_energy(write(tmp_path))
    old = load_energy(write(tmp_path, ert=ERT.replace(*change)))
    assert new.entries == old.entries


def test_a_report_says_where_a_figure_comes_from(tmp_path):
    table = load_energy(write(tmp_path))
    assert table.provenance("read.weight") == (
        "Accelergy, ERT.yaml: chip.GLB[1..1] read (address_delta = 1, data_delta = 1), 45 nm, 0.9 V"
    )
    assert table.provenance("write.weight").endswith("write (global_cycle_seconds = 1e-09), 40 nm, 0.9 V")
    assert table.provenance("dram.read") == "a data sheet agrees"
    assert table.provenance("compare") == "a test, 45 nm, 0.9 V"


def test_a_point_of_a_sweep_holds_the_figures_and_not_the_files_name(tmp_path):
    file = SweepFile(measure=["energy"], energy=str(write(tmp_path)), axes={"batch": [1]})
    content = Inputs(file, {"batch": 1, "energy.entry.mul.share": 0.5}).content()
    first = content["energy"]["entry"][0]
    assert (first["energy_per_action"], first["share"]) == (2.56, 0.5)
    assert "ert" not in content["energy"]
    assert "component" not in first


@pytest.mark.parametrize(
    "lines, message",
    [
        (
            'component = "chip.PE.mac"\naction = "compute"\nenergy_per_action = 1',
            "both energy_per_action and a component",
        ),
        ('component = "chip.PE.mac"', "key 'action' is missing or no text"),
        ('component = "chip.PE.max"\naction = "compute"', r"'chip.PE.max' is not in .*did you mean"),
        ('component = "chip.PE.mac"\naction = "compte"', r"'compte' is none of .*did you mean 'compute'"),
        (
            'component = "chip.GLB"\naction = "read"',
            r"arguments is missing: chip.GLB\[1..1\] has read \(address_delta = 0",
        ),
        ('component = "chip.GLB"\naction = "read"\narguments = { data_delta = 1 }', "fit none of"),
        ('component = "chip.GLB"\naction = "read"\narguments = 3', "must be a table of keys"),
        ('component = "chip.PE.mac"\naction = "compute"\nshare = 2.0', "share = 2.0 must be at most 1"),
        ("energy_per_action = 1", "no entry names a component of it"),
    ],
)
def test_a_table_that_asks_for_what_is_not_there_is_refused_in_one_line(tmp_path, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        load_energy(write(tmp_path, MAC + lines))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table, message",
    [
        (MAC.replace('ert = "ERT.yaml"', "") + 'component = "x"', "component is of an ERT; add ert = 'ERT.yaml'"),
        (MAC.replace("by_bits = 16", 'component = "chip.PE.mac"\naction = "compute"'), "add by_bits"),
        (TABLE.replace("bits = 32\n", "bits = 32\nby_bits = 8\n"), "'add.array' is no product; leave by_bits out"),
        (TABLE.replace('kind = "action"', 'kind = "constant"'), "component and action are for kind = 'action'"),
        (MAC.replace('"ERT.yaml"', "3"), "ert = 3 must be the name of a file in quotes"),
        (MAC.replace("ERT.yaml", "nosuch.yaml") + 'component = "x"', "nosuch.yaml: no such file"),
    ],
)
def test_a_broken_table_is_one_line(tmp_path, table, message):
    with pytest.raises(InputError, match=message) as caught:
        load_energy(write(tmp_path, table))
    assert "\n" not in str(caught.value)


BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    "ert, message",
    [
        ("", "has no key 'ERT'"),
        ("- 1", "has no key 'ERT'"),
        ("ERT_summary: {version: 0.4}", "is a summary"),
        ("ERT: 3", "has no key 'ERT'"),
        ("ERT: {version: 9, tables: []}", "version = 9 is not one of"),
        ("ERT: {version: 0.4}", "tables must be a list"),
        ("ERT: {version: 0.4, tables: [3]}", "table 1: has no name"),
        ("ERT: {version: 0.4, tables: [{name: x}]}", r"table 1 \(x\): actions must be a list"),
        ("ERT: {version: 0.4, tables: [{name: x, actions: [3]}]}", "an action without a name"),
        (ERT.replace("2.56", "-1"), r"compute: energy = -1 must be a number of 0 to"),
        (ERT.replace("2.56", ".nan"), "energy = nan must be"),
        (ERT.replace("2.56", ".inf"), "energy = inf must be"),
        (ERT.replace("2.56", "1e400"), "energy = '1e400' must be"),
        (ERT.replace("2.56", "true"), "energy = True must be"),
        (ERT.replace("2.56", "[1]"), r"energy = \[1\] must be"),
        (ERT.replace("energy: 2.56", "energy: 2.56\n            energy: 3"), "key 'energy' twice"),
        (ERT.replace("null", "[3]"), "arguments must be a table"),
        (BOMB, "aliases .* are not read"),
        ("ERT: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("ERT: {", "is not valid YAML"),
        ("ERT: 2026-99-99", "is not valid YAML"),
        ("ERT: \x00", "is not valid YAML"),
        ("[" * 3000, "nested too deeply"),
        ("#" * (MOST_BYTES + 1), "is larger than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_ert_is_refused_in_one_line(tmp_path, ert, message):
    path = tmp_path / "ERT.yaml"
    path.write_text(ert)
    with pytest.raises(InputError, match=message) as caught:
        read_ert(path)
    assert "\n" not in str(caught.value)


def test_a_device_is_no_file():
    from pathlib import Path

    with pytest.raises(InputError, match="is no file"):
        read_ert(Path("/dev/zero"))


def test_yaml_itself_is_no_energy_table(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match=r"a TOML file with ert = 'ERT.yaml'"):
        load_energy(tmp_path / "ERT.yaml")


def test_a_component_that_is_there_twice_is_named_with_its_ranges(tmp_path):
    ert = ERT.replace("chip.DRAM", "chip.GLB[2..3]")
    with pytest.raises(InputError, match=r"is in .* 2 times, as chip.GLB\[1..1\], chip.GLB\[2..3\]"):
        load_energy(write(tmp_path, MAC + 'component = "chip.GLB"\naction = "write"', ert))


def test_without_pyyaml_one_line_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InputError, match=r"need yaml, which is not installed; .*pip install 'accelsim\[ert\]'"):
        load_energy(write(tmp_path))
