"""Scheme studies: every figure against another way to it, seeds, the best of an axis, and parts that are used again."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from accelsim.config import load_hardware, load_quantization, load_study
from accelsim.errors import InputError
from accelsim.sources import find_network, find_workload, load_images, training_images

torch = pytest.importorskip("torch")

from accelsim.explore import SchemeStudy, scheme_study  # noqa: E402
from accelsim.explore.parts import Parts  # noqa: E402
from accelsim.pipeline import evaluate  # noqa: E402
from accelsim.quantization import quantize  # noqa: E402
from accelsim.report import scheme_study_csv, scheme_study_figure, show_scheme_study  # noqa: E402
from accelsim.training import QatModule, fine_tune  # noqa: E402

IMAGES = 40
STUDY = """
title = "digits, a few ways"
workload = "lenet5_digits"
images = 40
calibration_images = 8
seeds = [0, 5]

[[rows]]
label = "float"
float = true

[[rows]]
label = "weights"
weights_only = true
quantization_set = ["weight.bits=2"]

[[rows]]
label = "integers"
quantization = "affine"
quantization_set = ["weight.bits=3", "activation.bits=2"]

[[rows]]
label = "narrow"
quantization_set = ["weight.bits=3"]
hardware_set = ["accumulator.width_bits=14", "array.dataflow=os"]

[[rows]]
label = "another network"
workload = "mlp_digits"
axes = { rounding = ["floor", "half_even", "toward_zero"], bits = [2, 3] }
best_of = "rounding"
quantization_set = ["requantization.rounding={rounding}", "weight.bits={bits}"]

[[rows]]
label = "no such layer"
quantization_set = ["accumulator_width_bits.c9=16"]
"""


def make(folder: Path, text: str = STUDY, seeds=None, **options) -> tuple[dict, SchemeStudy]:
    path = folder / "mine.toml"
    path.write_text(text)
    study = SchemeStudy(load_study(path, seeds), folder / "out", threads=1, **options)
    return study.run(), study


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def found(folder) -> dict:
    result, study = make(folder)
    assert study.parts.reused == []
    return result


def row(found: dict, label: str) -> dict:
    (one,) = [row for row in found["rows"] if row["label"] == label]
    return one


def test_seed_0_of_an_integer_row_is_what_evaluate_finds(found, tmp_path):
    """`evaluate` compiles the graph and has its own way to images; calibration is the first training images."""
    network = find_network("lenet5_digits")
    np.save(tmp_path / "few.npy", training_images(network, None, 8).images)
    for label, hardware, scheme in [
        ("integers", load_hardware(), load_quantization("affine", ["weight.bits=3", "activation.bits=2"])),
        (
            "narrow",
            load_hardware("default_16x16", ["accumulator.width_bits=14", "array.dataflow=os"]),
            load_quantization("int8", ["weight.bits=3"]),
        ),
    ]:
        source = find_workload("lenet5_digits", quantization=scheme, calibration=tmp_path / "few.npy")
        test = load_images(source, None, IMAGES)
        expected = evaluate(source.graph, test.images, test.labels, hardware, threads=1)
        (first, _) = row(found, label)["seeds"]
        assert (first["seed"], first["correct"], first["accuracy"]) == (
            *(0, round(expected.accuracy * IMAGES)),
            expected.accuracy,
        )


def test_another_seed_calibrates_on_images_drawn_with_it(found):
    """Drawn here with the generator itself; the first eight would give another accuracy."""
    network = find_network("lenet5_digits")
    everything = training_images(network, None, 1438)
    drawn = np.random.default_rng(5).choice(1438, 8, replace=False)
    sample = training_images(network, None, 8, seed=5)
    assert np.array_equal(sample.images, everything.images[drawn])
    assert np.array_equal(sample.labels, everything.labels[drawn])
    test = load_images(network, None, IMAGES)
    scheme = load_quantization("affine", ["weight.bits=3", "activation.bits=2"])
    graph = quantize(network.graph, everything.images[drawn], scheme)
    expected = evaluate(graph, test.images, test.labels, threads=1)
    first, second = row(found, "integers")["seeds"]
    assert (second["seed"], second["accuracy"]) == (5, expected.accuracy)
    assert first["predictions_changed"] != second["predictions_changed"]


def test_weights_alone_are_the_float_network_with_rounded_weights(found):
    """PyTorch's own forward pass in float32, weights rounded here by the rule of docs/numerics.md, section 5."""
    network = find_network("lenet5_digits")
    test = load_images(network, None, IMAGES)
    module = network.module
    with torch.no_grad():
        before = module(torch.from_numpy(test.images)).argmax(dim=1).numpy()
        for name, parameter in module.named_parameters():
            assert name.endswith("weight")
            rows = parameter.double().reshape(len(parameter), -1)
            scale = rows.abs().amax(dim=1, keepdim=True)  # over 2**(2 - 1) - 1 = 1
            parameter.copy_((torch.round(rows / scale) * scale).reshape(parameter.shape))
        after = module(torch.from_numpy(test.images)).argmax(dim=1).numpy()
    judged = row(found, "weights")
    for one in judged["seeds"]:
        assert one["correct"] == np.sum(after == test.labels)
        assert one["predictions_changed"] == np.sum(after != before)
    reference = found["workloads"]["lenet5_digits"]
    assert reference["correct"] == row(found, "float")["seeds"][0]["correct"] == np.sum(before == test.labels)
    assert judged["minus_float"] == pytest.approx(100 * (judged["accuracy"] - reference["accuracy"]))
    assert judged["predictions_changed"] > 0


def test_means_are_those_of_the_seeds(found):
    for one in found["rows"]:
        if one["accuracy"] is not None:
            assert one["accuracy"] == pytest.approx(np.mean([seed["accuracy"] for seed in one["seeds"]]))
            changed = [seed["predictions_changed"] for seed in one["seeds"]]
            assert one["predictions_changed"] == np.mean(changed)


def test_the_best_is_chosen_on_calibration_images_and_judged_on_test_images(found):
    network = find_network("mlp_digits")
    test = load_images(network, None, IMAGES)
    for bits in (2, 3):
        shares = {}
        for rounding in ("floor", "half_even", "toward_zero"):
            scheme = load_quantization("int8", [f"requantization.rounding={rounding}", f"weight.bits={bits}"])
            on_calibration, on_test = [], []
            for seed in (0, 5):
                images = training_images(network, None, 8, seed)
                graph = quantize(network.graph, images.images, scheme)
                on_calibration.append(evaluate(graph, images.images, images.labels, threads=1).accuracy)
                on_test.append(evaluate(graph, test.images, test.labels, threads=1).accuracy)
            shares[rounding] = (np.mean(on_calibration), np.mean(on_test))
        judged = row(found, f"another network, bits = {bits}")
        tried = {one["value"]: one["calibration_accuracy"] for one in judged["best"]["tried"]}
        assert tried == {name: pytest.approx(share) for name, (share, _) in shares.items()}
        best = max(shares, key=lambda name: shares[name][0])  # of equal ones the first
        assert (judged["best"]["axis"], judged["best"]["value"]) == ("rounding", best)
        assert judged["accuracy"] == pytest.approx(shares[best][1])
        assert judged["quantization"]["requantization"]["rounding"] == best


def test_what_cannot_be_quantised_is_a_row_with_its_reason(found):
    judged = row(found, "no such layer")
    assert (judged["accuracy"], judged["minus_float"], judged["predictions_changed"]) == (None, None, None)
    assert "accumulator_width_bits names 'c9'" in judged["seeds"][0]["refused"]
    text = show_scheme_study(found)
    (line,) = [line for line in text.splitlines() if line.startswith("no such layer  ")]
    assert line.split()[3:] == ["-"] * 5
    assert "no such layer: lenet5_digits: accumulator_width_bits names 'c9'" in text


def test_a_second_run_takes_every_part_and_gives_the_same(found, folder):
    again, study = make(folder)
    assert again == found
    # 2 float networks; 3 rows, 2 bits and the refused row, with 2 seeds; 3 roundings of 2 bits, with 2 seeds.
    assert len(set(study.parts.reused)) == len(study.parts.reused) == 2 + 2 * 6 + 2 * 6


def test_one_more_row_and_another_name_make_only_what_is_new(found, folder):
    more = STUDY.replace('label = "integers"', 'label = "renamed"') + '\n[[rows]]\nlabel = "new"\n'
    before = {path.name for path in (folder / "out" / "parts").glob("*.json")}
    again, _ = make(folder, more)
    after = {path.name for path in (folder / "out" / "parts").glob("*.json")}
    assert before < after
    assert len(after - before) == 2  # its two seeds
    assert row(again, "renamed") == {**row(found, "integers"), "label": "renamed", "series": "renamed"}


@pytest.mark.parametrize(
    "change, options",
    [
        (('quantization = "affine"', 'quantization = "uint8"'), {}),
        (("calibration_images = 8", "calibration_images = 9"), {}),
        (('"array.dataflow=os"', '"array.dataflow=ws"'), {}),
        (("seeds = [0, 5]", "seeds = [0, 6]"), {}),
        (("images = 40", "images = 41"), {}),
        (('workload = "mlp_digits"', 'workload = "lenet5_digits"'), {}),
        (("", ""), {"images": 41}),
        (("", ""), {"seeds": [5, 7]}),
    ],
)
def test_what_a_figure_depends_on_is_in_the_name_of_its_part(found, tmp_path, monkeypatch, change, options):
    """Nothing is evaluated here: a part that is not there is one that would be made."""
    asked: set[str] = set()

    def note(parts, name, make):
        asked.add(name)
        return {"refused": "not made"}

    monkeypatch.setattr(Parts, "finished", note)
    monkeypatch.setattr(scheme_study, "find_network", captured)
    monkeypatch.setattr(SchemeStudy, "_float", lambda study, name: [0] * len(study._loaded[name].labels))
    names = []
    for text, given in [(STUDY, {}), (STUDY.replace(*change), options)]:
        asked.clear()
        make(tmp_path, text, **given)
        names.append(set(asked))
    assert names[1] - names[0]


@functools.cache
def captured(workload: str, data: str | None = None):
    """A network and its graph, captured once."""
    return find_network(workload, data=data)


def test_images_and_seeds_may_be_given_instead_of_the_files(found, folder):
    again, _ = make(folder, images=20, seeds=[5])
    assert again["seeds"] == [5]
    assert again["workloads"]["lenet5_digits"]["images"] == 20
    assert [one["seed"] for one in row(again, "integers")["seeds"]] == [5]


def test_a_row_that_trains_is_the_trained_modules_graph_and_its_seed_matters(tmp_path):
    head = STUDY[: STUDY.index("[[rows]]")]
    scheme = 'quantization_set = ["weight.bits=2", "activation.bits=3"]\n'
    tuned = "train = { images = 64, epochs = 1, learning_rate = 3e-3, batch = 16 }"
    found, _ = make(
        tmp_path, f'{head}[[rows]]\nlabel = "plain"\n{scheme}\n[[rows]]\nlabel = "tuned"\n{scheme}{tuned}\n'
    )
    network = captured("lenet5_digits")
    test = load_images(network, None, IMAGES)
    shown = training_images(network, None, 64)
    for one, seed in zip(row(found, "tuned")["seeds"], (0, 5), strict=True):
        calibration = training_images(network, None, 8, seed).images
        module = QatModule.from_module(
            network.module, calibration, load_quantization("int8", ["weight.bits=2", "activation.bits=3"])
        )
        fine_tune(
            module, torch.from_numpy(shown.images), torch.from_numpy(shown.labels),
            epochs=1, rate=3e-3, batch=16, seed=seed,
        )  # fmt: skip
        predictions = module(torch.from_numpy(test.images)).argmax(dim=1).numpy()
        assert one["correct"] == int((predictions == test.labels).sum())
    assert row(found, "tuned")["accuracy"] > row(found, "plain")["accuracy"]


def test_table_and_csv_hold_the_studys_figures(found):
    json.dumps(found, allow_nan=False)
    text = show_scheme_study(found)
    assert "mean of 2 seeds, calibrated on 8 training images" in text
    assert "lenet5_digits: float accuracy 100.00 % (40 of 40 images of digits test)" in text
    rows = list(csv.DictReader(io.StringIO(scheme_study_csv(found))))
    assert [one["label"] for one in rows] == [one["label"] for one in found["rows"]]
    for written, one in zip(rows, found["rows"], strict=True):
        if one["accuracy"] is None:
            assert written["accuracy"] == ""
            continue
        assert float(written["accuracy"]) == one["accuracy"]
        assert float(written["accuracy.seed_5"]) == one["seeds"][-1]["accuracy"]
        assert written["axis.bits"] == str(one["axes"].get("bits", ""))
        assert f"{100 * one['accuracy']:.2f} %" in text
    assert rows[4]["best.axis"] == "rounding"


def test_the_figure_has_a_line_for_each_row_with_every_seed(found):
    pytest.importorskip("matplotlib")
    (axes,) = scheme_study_figure(found).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == ["float", "weights", "integers"]
    drawn = {(float(x), float(y)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
    for place, one in enumerate(found["rows"]):
        assert (100 * found["workloads"][one["workload"]]["accuracy"], place) in drawn
        for seed in one["seeds"]:
            assert "refused" in seed or (100 * seed["accuracy"], place) in drawn


def test_the_figure_against_an_axis_has_a_line_for_each_series(tmp_path):
    pytest.importorskip("matplotlib")
    text = (
        'title = "t"\nworkload = "mlp_digits"\nimages = 20\ncalibration_images = 8\nagainst = "bits"\n'
        '[[rows]]\nlabel = "float"\nfloat = true\n'
        '[[rows]]\nlabel = "int"\naxes = { bits = [2, 8], granularity = ["tensor", "channel"] }\n'
        'quantization_set = ["weight.bits={bits}", "weight.granularity={granularity}"]\n'
    )
    found, _ = make(tmp_path, text)
    (axes,) = scheme_study_figure(found).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["float", "int, tensor", "int, channel"]
    for granularity in ("tensor", "channel"):
        line = lines[f"int, {granularity}"]
        assert list(line.get_xdata()) == [2, 8]
        rows = [row(found, f"int, bits = {bits}, {granularity}") for bits in (2, 8)]
        assert list(line.get_ydata()) == [100 * one["accuracy"] for one in rows]
    assert set(lines["float"].get_ydata()) == {100 * found["workloads"]["mlp_digits"]["accuracy"]}


def test_a_network_of_ones_own_needs_a_data_set_with_labels(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\ndef make():\n    torch.manual_seed(1)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), torch.rand(2, 1, 32, 32)\n"
        "def image():\n    return nn.Conv2d(1, 2, 3), torch.rand(2, 1, 32, 32)\n"
    )
    text = 'title = "t"\nworkload = "net.py:make"\nimages = 10\ncalibration_images = 8\n[[rows]]\nlabel = "int8"\n'
    with pytest.raises(InputError, match=r"net\.py:make: its images have no labels; give --data NAME of a data set"):
        make(tmp_path, text)
    found, _ = make(tmp_path, text, data="digits")
    assert row(found, "int8")["predictions_changed"] <= 2
    with pytest.raises(InputError, match=r"net\.py:image: its output has shape \(2, 30, 30\); a study needs a class"):
        make(tmp_path, text.replace(":make", ":image"), data="digits")


def test_keys_of_a_study_are_those_of_the_page(found):
    page = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    chapter = page[page.index("Scheme study\n") :].split("\n## ")[0]
    written = {*found, *found["workloads"]["mlp_digits"]}
    for one in found["rows"]:
        written |= {*one, *(one["best"] or {}), *(one["arithmetic"] or {})}
        written |= {key for seed in one["seeds"] for key in seed}
    written |= {key for one in found["rows"] for tried in (one["best"] or {"tried": []})["tried"] for key in tried}
    said = set(re.findall(r"`([\w.]+)`", chapter))
    assert written == said - {"study.json", "study.csv", "float", "weights_only", "integer", "best.axis", "best.value"}
