"""Sweep files: what is refused, and which points a file names."""

from __future__ import annotations

import re
from itertools import product

import pytest

from accelsim.config import preset_folder
from accelsim.config.sweep import SweepFile, load_sweep
from accelsim.errors import InputError
from accelsim.explore.space import Inputs, Space

HEAD = 'measure = ["cycles"]\n'


def load(tmp_path, text: str) -> SweepFile:
    path = tmp_path / "f.toml"
    path.write_text(text)
    return load_sweep(path)


def points(tmp_path, text: str) -> list[dict]:
    return list(Space(load(tmp_path, text), "f.toml").points())


def test_a_grid_is_every_combination_the_last_axis_fastest(tmp_path):
    found = points(
        tmp_path,
        HEAD
        + """
        [axes]
        "hardware.array.rows" = [8, 16]
        "hardware.accumulator.width_bits" = { from = 12, to = 16, step = 2 }
        "hardware.array.columns, hardware.array.dataflow" = [[4, "ws"], [8, "os"]]
        """,
    )
    assert [tuple(point.values()) for point in found] == [
        (rows, bits, *pair) for rows, bits, pair in product((8, 16), (12, 14, 16), ((4, "ws"), (8, "os")))
    ]


def test_zip_takes_axes_side_by_side_and_refuses_unequal_ones(tmp_path):
    text = HEAD + '[sampling]\nmethod = "zip"\n[axes]\n"hardware.array.rows" = [8, 16]\nbatch = {}\n'
    assert points(tmp_path, text.format("[1, 2]")) == [
        {"hardware.array.rows": 8, "batch": 1},
        {"hardware.array.rows": 16, "batch": 2},
    ]
    with pytest.raises(InputError, match=r"zip needs axes of one length; there are hardware\.array\.rows: 2, batch: 3"):
        points(tmp_path, text.format("[1, 2, 3]"))


@pytest.mark.parametrize("method", ["random", "sobol", "halton"])
def test_samples_keep_to_their_axes_and_depend_on_the_seed_alone(tmp_path, method):
    def sampled(seed: int) -> list[dict]:
        return points(
            tmp_path,
            HEAD
            + f"""
            [sampling]
            method = "{method}"
            samples = 50
            seed = {seed}
            [axes]
            "hardware.array.rows" = {{ low = 4, high = 67, log = true }}
            "hardware.clock_mhz" = {{ low = 0.5, high = 2 }}
            "hardware.array.dataflow" = ["ws", "os"]
            """,
        )

    found = sampled(1)
    assert found == sampled(1) != sampled(2)
    assert len(found) == 50
    rows = [point["hardware.array.rows"] for point in found]
    assert all(isinstance(value, int) and 4 <= value <= 67 for value in rows)
    assert all(0.5 <= point["hardware.clock_mhz"] <= 2 for point in found)
    assert {point["hardware.array.dataflow"] for point in found} == {"ws", "os"}
    below = sum(value < 17 for value in rows)  # 17 = sqrt(4 * 68): half of a logarithmic axis
    assert 15 <= below <= 35


def test_low_discrepancy_covers_more_evenly_than_chance(tmp_path):
    """64 Sobol points: each of 64 equal parts of an axis has exactly one."""
    found = points(
        tmp_path,
        HEAD
        + """
        [sampling]
        method = "sobol"
        samples = 64
        [axes]
        "hardware.dram.latency_cycles" = { low = 0, high = 63 }
        """,
    )
    assert sorted(point["hardware.dram.latency_cycles"] for point in found) == list(range(64))


def test_derived_keys_follow_and_reach_the_machine(tmp_path):
    file = load(
        tmp_path,
        HEAD
        + """
        [axes]
        "hardware.array.rows" = [8, 32]
        [derived]
        "hardware.array.columns" = "hardware.array.rows / 2"
        "hardware.weight.memory_bytes" = "max(4096, hardware.array.rows * hardware.array.columns * 8)"
        """,
    )
    machines = [Inputs(file, setting).hardware for setting in Space(file, "f.toml").points()]
    assert [(m.array.columns, m.weight.memory_bytes) for m in machines] == [(4, 4096), (16, 4096)]


def test_axes_reach_hardware_scheme_and_energy(tmp_path):
    file = load(
        tmp_path,
        HEAD
        + """
        energy = "eyeriss_relative"
        [axes]
        "hardware.array.rows" = [8]
        "quantization.weight.bits" = [5]
        "energy.entry.mul.energy_per_product_bit" = [0.5]
        "energy.ops_per_mac.linear.additions" = [3]
        quantization = ["coursework"]
        """,
    )
    (setting,) = Space(file, "f.toml").points()
    inputs = Inputs(file, setting)
    assert inputs.hardware.array.rows == 8
    assert inputs.quantization.weight.bits == 5
    assert inputs.quantization.requantization.rounding == "floor"
    assert inputs.energy.by_op["requant_mul"].energy_per_product_bit == 0.5
    assert inputs.energy.header.ops_per_mac.linear.additions == 3
    plain = Inputs(load(tmp_path, HEAD + 'energy = "eyeriss_relative"\n[axes]\nbatch = [1]\n'), {"batch": 1})
    assert plain.energy.by_op["mul"].energy_per_product_bit != 0.5, "a point changed the file that others read"


@pytest.mark.parametrize(
    "text, message",
    [
        ("measure = []\n[axes]\nbatch = [1]", r"measure = \[\]"),
        (HEAD + "[axes]", r"axes = \{\}"),
        ('measure = ["cycle"]\n[axes]\nbatch = [1]', "'cycle' is not one of"),
        (HEAD + "[axes]\nbatch = 3", r"must be an array in brackets"),
        (HEAD + "[axes]\nbatch = []", r"batch = \[\] has no value"),
        (HEAD + "[axes]\nbatch = [[1]]", r"\[1\] is not 1 value\(s\)"),
        (HEAD + '[axes]\n"batch, workload" = [1]', r"1 is not 2 value\(s\)"),
        (HEAD + "[axes]\nbatch = { from = 3, to = 1, step = 1 }", "from = 3 is above to = 1"),
        (HEAD + "[axes]\nbatch = { from = 0, to = 1, step = 0 }", "step = 0 must be above 0"),
        (HEAD + "[axes]\nbatch = { from = 0, to = 1e9, step = 1e-9 }", "makes more than 1,000,000 values"),
        (HEAD + "[axes]\nbatch = { low = 1, high = 2 }", "low and high name no values for a grid"),
        (HEAD + "[axes]\n'array.rows' = [1]", "unknown key 'array.rows'; did you mean 'hardware.array.rows'?"),
        (HEAD + "[axes]\n'weight.bits' = [4]", "unknown key 'weight.bits'; did you mean 'quantization.weight.bits'?"),
        (HEAD + "[axes]\nworklod = [1]", "unknown key 'worklod'; did you mean 'workload'"),
        (HEAD + '[axes]\nbatch = [1]\n[derived]\nbatch = "2"', "'batch' is both in 'batch' and in 'batch'"),
        ('measure = ["accuracy"]\n[axes]\nbatch = [1]', "needs test images; add images = 500"),
        (HEAD + "images = 5\n[axes]\nbatch = [1]", "nothing measured here looks at images"),
        (HEAD + '[axes]\nbatch = [1]\n[sampling]\nmethod = "sobol"', "needs samples"),
        (HEAD + "[axes]\nbatch = [1]\n[sampling]\nsamples = 3", "means nothing to method = 'grid'"),
        (HEAD + '[axes]\nbatch = [1]\n[search]\nobjectives = ["least x"]\nevaluations = 2', "is not 'min NAME'"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "axis, message",
    [
        ('"hardware.array.rows" = [0]', "array.*rows = 0 must be at least 1"),
        ('"hardware.name" = ["a\\"\\n[x]"]', None),
        ("batch = [0]", "batch = 0 must be an integer of 1..4096"),
        ('"energy.entry.idle.energy_per_bit" = [0.5]', "unknown key 'energy_per_bit'"),
    ],
)
def test_a_point_that_breaks_a_rule_says_which(tmp_path, axis, message):
    file = load(tmp_path, HEAD + "[axes]\n" + axis)
    (setting,) = Space(file, "f.toml").points()
    if message is None:
        assert Inputs(file, setting).hardware.name == 'a"\n[x]'
    else:
        with pytest.raises(InputError, match=message):
            Inputs(file, setting)


@pytest.mark.parametrize(
    "text, message",
    [
        ('[axes]\n"hardware.array.rws" = [1]', "unknown key 'array.rws'; did you mean 'rows'"),
        ('[axes]\n"quantization.weight" = [1]', "is a section"),
        ('[axes]\n"energy.entry.mull.s" = [1]', "'mull' is no operation; did you mean 'mul'"),
        ('[axes]\n"energy.entry.read.weight.s" = [1]', None),
        ('[axes]\n"energy.ops_per_mc.linear.additions" = [1]', "unknown key 'ops_per_mc'; did you mean 'ops_per_mac'"),
        ('[axes]\nbatch = [1]\n[derived]\n"hardware.arry.rows" = "batch"', "unknown key 'arry'; did you mean 'array'"),
        ('[axes]\nhardware = ["edge_8x8", "no_such"]', "hardware 'no_such' is neither a preset nor a file"),
        ('energy = "nosuch.toml"\n[axes]\nbatch = [1]', "nosuch.toml: no such file"),
        ('quantization = "nosuch"\n[axes]\nquantization = ["int8"]', None),
    ],
)
def test_what_no_point_can_have_is_refused_before_any_is_measured(tmp_path, text, message):
    file = load(tmp_path, HEAD + text)
    if message is None:
        Space(file, "f.toml")
    else:
        with pytest.raises(InputError, match=message):
            Space(file, "f.toml")


def test_a_file_that_changed_is_read_again_by_the_next_sweep(tmp_path):
    machine = tmp_path / "machine.toml"
    preset = (preset_folder("hardware") / "edge_8x8.toml").read_text()
    found = []
    for bandwidth in (2, 7):
        machine.write_text(re.sub(r"(bandwidth_bytes_per_cycle) = \d+", rf"\1 = {bandwidth}", preset))
        file = load(tmp_path, HEAD + f'hardware = "{machine}"\n[axes]\nbatch = [1]')
        (setting,) = Space(file, "f.toml").points()
        found.append(Inputs(file, setting).hardware.dram.bandwidth_bytes_per_cycle)
    assert found == [2, 7]


def test_steps_are_those_of_the_decimals_in_the_file(tmp_path):
    text = '[axes]\n"hardware.clock_mhz" = { from = 0.1, to = 0.7, step = 0.1 }'
    assert [*(point["hardware.clock_mhz"] for point in points(tmp_path, HEAD + text))] == [
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "ends", ["from = nan, to = 1, step = 1", "from = 0, to = inf, step = 1", "low = 1, high = inf"]
)
def test_numbers_that_are_none_are_refused(tmp_path, ends):
    with pytest.raises(InputError, match=r"finite|integer"):
        load(tmp_path, HEAD + f'sampling = {{ method = "random", samples = 2 }}\naxes = {{ batch = {{ {ends} }} }}')


def test_derived_keys_read_axes_only(tmp_path):
    file = load(tmp_path, HEAD + '[axes]\nbatch = [1]\n[derived]\n"hardware.array.rows" = "bach * 8"')
    with pytest.raises(InputError, match="reads 'bach', which is no axis"):
        Space(file, "f.toml")


def test_a_sweep_of_too_many_points_is_refused_before_they_are_made(tmp_path):
    axes = "\n".join(
        f'"hardware.{key}.memory_bytes" = {{ from = 1, to = 999, step = 1 }}' for key in ("table", "dram", "weight")
    )
    with pytest.raises(InputError, match="997,002,999 points are more than 1,000,000; sample them"):
        points(tmp_path, HEAD + "[axes]\n" + axes)
