"""Study files: every shipped one loads, and a bad one is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refusal

from accelsim.config import load_hardware, load_quantization, load_study, preset_folder, preset_names

GOOD = """
title = "a study"
workload = "lenet5_digits"
against = "bits"

[[rows]]
label = "float"
float = true

[[rows]]
label = "grid"
axes = { bits = [4, 8], granularity = ["tensor", "channel"], full = [true, false] }
best_of = "full"
quantization_set = ["weight.bits={bits}", "weight.granularity={granularity}", "weight.full_range={full}"]

[[rows]]
label = "tuned"
train = { epochs = 1, learning_rate = 1e-4, batch = 4 }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", preset_names("studies"))
def test_a_shipped_study_loads_and_says_above_it_what_it_asks(name):
    plan = load_study(name)
    assert plan.name == name
    assert plan.rows
    assert (preset_folder("studies") / f"{name}.toml").read_text().startswith("# ")


def test_axes_make_a_row_for_each_combination_and_trials_along_the_best_of(tmp_path):
    plan = load_study(write(tmp_path, GOOD))
    assert [row.label for row in plan.rows] == [
        *("float", "grid, bits = 4, tensor", "grid, bits = 4, channel", "grid, bits = 8, tensor"),
        *("grid, bits = 8, channel", "tuned"),
    ]
    assert [row.series for row in plan.rows[1:3]] == ["grid, tensor", "grid, channel"]
    assert [row.kind for row in plan.rows] == ["float"] + 5 * ["integer"]
    assert [len(row.trials) for row in plan.rows] == [0, 2, 2, 2, 2, 1]
    first, second = plan.rows[2].trials
    assert (first.axes["full"], first.schemes[0].weight.full_range, second.schemes[0].weight.full_range) == (
        True,
        True,
        False,
    )
    assert (first.schemes[0].weight.bits, first.schemes[0].weight.granularity) == (4, "channel")


def test_a_float_row_may_run_along_networks(tmp_path):
    text = GOOD.replace("float = true", 'float = true\naxes = { net = ["lenet5", "mlp"] }\nworkload = "{net}_digits"')
    rows = load_study(write(tmp_path, text)).rows
    assert [(row.label, row.workload) for row in rows[:2]] == [
        *(("float, lenet5", "lenet5_digits"), ("float, mlp", "mlp_digits"))
    ]


def test_overrides_of_the_study_come_before_those_of_the_row_and_files_lie_beside_it(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "scheme.toml").write_text("[activation]\nsymmetric = false\n")
    (tmp_path / "own" / "machine.toml").write_text((preset_folder("hardware") / "edge_8x8.toml").read_text())
    plan = load_study(
        write(
            tmp_path,
            'title = "t"\nworkload = "models/net.py:make"\nquantization = "own/scheme.toml"\n'
            'quantization_set = ["weight.bits=5", "weight.full_range=true"]\nhardware = "own/machine.toml"\n'
            'hardware_set = ["accumulator.width_bits=20"]\n'
            '[[rows]]\nlabel = "a"\nquantization_set = ["weight.bits=4"]\nhardware_set = ["array.dataflow=os"]\n'
            '[[rows]]\nlabel = "b"\nquantization = "int8"\nworkload = "lenet5"\n',
        )
    )
    (a,), (b,) = (row.trials for row in plan.rows)
    assert a.schemes[0] == load_quantization(
        tmp_path / "own" / "scheme.toml", ["weight.bits=4", "weight.full_range=true"]
    )
    assert b.schemes[0] == load_quantization("int8", ["weight.bits=5", "weight.full_range=true"])
    changes = ["accumulator.width_bits=20"]
    assert plan.hardware == b.hardware == load_hardware(tmp_path / "own" / "machine.toml", changes)
    assert a.hardware == load_hardware(tmp_path / "own" / "machine.toml", [*changes, "array.dataflow=os"])
    assert [row.workload for row in plan.rows] == [f"{tmp_path}/models/net.py:make", "lenet5"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('label = "tuned"', 'labl = "tuned"', " [rows[2]]: unknown key 'labl'; did you mean 'label'?"),
        ("epochs = 1", "epoch = 1", " [rows[2].train]: unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs = 1", "epochs = 0", " [rows[2].train]: epochs = 0 must be at least 1"),
        ("learning_rate = 1e-4", "learning_rate = inf", " [rows[2].train]: learning_rate = inf: input should be a"),
        ("float = true", "float = 1", " [rows[0]]: float = 1 must be true or false, written without quotes"),
        (
            "float = true",
            'float = true\nquantization_set = ["weight.bits=3"]',
            " [rows[0]]: quantization_set changes nothing of a float network; leave quantization_set out, or float",
        ),
        (
            "float = true",
            "float = true\nweights_only = true",
            " [rows[0]]: float and weights_only exclude each other; leave one out",
        ),
        (
            "float = true",
            'weights_only = true\nquantization_set = ["activation.bits=4"]',
            " [rows[0]]: quantization_set 'activation.bits=4' changes nothing where only weights are integers; "
            "leave it out",
        ),
        (
            "float = true",
            'weights_only = true\nquantization_set = ["layers.c1.activation_bits=2"]',
            " [rows[0]]: quantization_set 'layers.c1.activation_bits=2' changes nothing where only weights are",
        ),
        (
            "float = true",
            'weights_only = true\nhardware_set = ["array.dataflow=os"]',
            " [rows[0]]: hardware_set changes nothing where only weights are integers; leave hardware_set out",
        ),
        ("bits = [4, 8]", "bits = [4, 4]", " [rows[1]]: axes.bits holds a value twice; leave one out"),
        ("bits = [4, 8]", "bits = []", " [rows[1].axes]: bits = [] must hold at least 1"),
        ("bits = [4, 8]", "bits = [4, 9]", " [rows[1]] 'grid': int8 [weight]: bits = 9 must be at most 8"),
        (
            "weight.bits={bits}",
            "weight.bitz={bits}",
            " [rows[1]] 'grid': quantization_set weight.bitz=4: unknown key 'weight.bitz'; did you mean 'bits'?",
        ),
        (
            "weight.bits={bits}",
            "weight.bits=4",
            " [rows[1]]: axes.bits changes nothing; write {bits} into quantization_set,",
        ),
        ("weight.full_range={full}", "weight.full_range={fll}", " [rows[1]]: axes.full changes nothing; write {full}"),
        ('best_of = "full"', 'best_of = "ful"', " [rows[1]]: best_of = 'ful' is not one of axes; add axes.ful"),
        (
            'best_of = "full"',
            'best_of = "full"\nworkload = "net_{full}"',
            " [rows[1]]: workload has {full}, which best_of chooses; compare workloads in rows of their own",
        ),
        (
            'quantization_set = ["weight.bits',
            'quantization_set = [7, "weight.bits',
            " [rows[1]]: quantization_set[0] = 7 must be text in quotes",
        ),
        (
            'label = "tuned"',
            'label = "{x}"\nquantization_set = ["weight.bits={x}"]',
            " [rows[2]]: {x} names no axis; add axes.x",
        ),
        ('label = "tuned"', 'label = "float"', ": two rows have the label 'float'; give each its own"),
        ('label = "tuned"', 'label = "t"\nquantization = "int9"', " [rows[2]] 't': quantization 'int9' is neither a"),
        (
            'label = "tuned"',
            'label = "t"\nhardware_set = ["array.rows={seed}"]',
            " [rows[2]]: {seed} stands in quantization_set alone; the same network and machine serve every seed",
        ),
        (
            'label = "tuned"',
            'label = "t"\naxes = { seed = [1] }\nquantization_set = ["weight.bits={seed}"]',
            " [rows[2]]: axes.seed: a name holds letters, digits and underscores only, and is not 'seed'",
        ),
        ('against = "bits"', 'against = "bit"', ": against = 'bit' is no row's axis; use one of bits, granularity"),
        (
            'against = "bits"',
            'against = "granularity"',
            ": against = 'granularity' needs numbers; axes.granularity has 'tensor'",
        ),
        ('against = "bits"', "seeds = [1, 1]", ": seeds holds a seed twice; leave one out"),
        ('against = "bits"', "seeds = [-1]", ": seeds: -1 is outside 0..2147483647"),
        ('against = "bits"', "seeds = []", ": seeds = [] must hold at least 1"),
        ('against = "bits"', "images = 0", ": images = 0 must be at least 1"),
        ('against = "bits"', 'hardware_set = ["array.x=1"]', ": hardware_set array.x=1: unknown key 'array.x'; known"),
        ('title = "a study"\n', "", ": key 'title' is missing; add it"),
        ("bits = [4, 8]", f"bits = {list(range(6000))}", ": rows ask for 24002 evaluations; at most 10000 are made"),
        (GOOD, 'title = "t"\nworkload = "lenet5"\n', ": key 'rows' is missing; add it"),
        (GOOD, 'title = "t"\nworkload = "lenet5"\nrows = []\n', ": rows = [] must hold at least 1"),
        (GOOD, "title = \n", ": not valid TOML: "),
    ],
)
def test_a_bad_study_file_is_refused_in_one_line(tmp_path, old, new, message):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    assert refusal(load_study, path).startswith(f"{path}{message}")


def test_a_seed_has_its_place_in_the_scheme(tmp_path):
    """No key of a scheme takes a seed of its own here; any integer key shows that the seed arrives."""
    text = GOOD.replace('label = "tuned"', 'label = "t"\nquantization_set = ["weight.bits={seed}"]')
    plan = load_study(write(tmp_path, text), seeds=[4, 6])
    assert plan.seeds == (4, 6)
    (trial,) = plan.rows[-1].trials
    assert {seed: scheme.weight.bits for seed, scheme in trial.schemes.items()} == {4: 4, 6: 6}
    assert {seed: scheme.weight.bits for seed, scheme in plan.rows[1].trials[0].schemes.items()} == {4: 4, 6: 4}


def test_an_unknown_study_lists_those_there_are():
    found = refusal(load_study, "lenet5_step")
    assert found.startswith("studies 'lenet5_step' is neither a preset nor a file; did you mean 'lenet5_steps'?")


def test_weights_alone_take_every_key_that_changes_a_weight(tmp_path):
    keys = ("weight.bits=4", "layers.c1.weight_bits=2", "equalization.weights=true", "scale_format=float32",
            "requantization.scheme=power_of_two")  # fmt: skip
    text = 'title = "t"\nworkload = "lenet5"\n[[rows]]\nlabel = "w"\nweights_only = true\n'
    text += f"quantization_set = {list(keys)}\n"
    (tmp_path / "mine.toml").write_text(text)
    (row,) = load_study(tmp_path / "mine.toml").rows
    scheme = row.trials[0].schemes[0]
    assert (scheme.weight.bits, scheme.equalization.weights, scheme.scale_format) == (4, True, "float32")
