"""`accelsim accumulator`: table, files, and a study that was killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accelsim.cli import main

pytest.importorskip("torch")

COMMAND = ["accumulator", "lenet5_digits", "--images", "30", "--widths", "12:20:4", "--per-layer", "--tolerance", "3"]
RUN = [sys.executable, "-c", "import sys; from accelsim.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("study")
    assert main([*COMMAND, "-o", str(place)]) == 0
    return place


def test_the_table_names_modes_widths_layers_and_the_first_overflows(capsys, folder):
    capsys.readouterr()
    assert main([*COMMAND, "-o", str(folder)]) == 0
    printed = capsys.readouterr()
    assert f"finished parts taken from {folder}" in printed.err
    text = printed.out
    assert "16x16 ws, accumulators saturating at every add" in text
    assert "30 images; zero points folded, bias in the ppu" in text
    study = json.loads((folder / "study.json").read_text())
    for row in study["widths"]:
        line = next(line for line in text.splitlines() if line.startswith(f"{row['width_bits']} "))
        assert f"{100 * row['accuracy']:.2f} %" in line
        assert f"{row['cycles']:,}" in line
    assert "12 bits: c1, image 0, (y, x, channel) = " in text
    assert "smallest width in all layers at which accuracy loses at most 3 points: " in text
    assert "verified by a second evaluation" in text


def test_csv_and_json_hold_the_same_figures(folder):
    study = json.loads((folder / "study.json").read_text())
    assert (study["format"], study["version"]) == ("accelsim-accumulator-study", 1)
    with open(folder / "study.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["width_bits"]) for row in rows] == [12, 16, 20]
    for row, found in zip(rows, study["widths"], strict=True):
        assert int(row["cycles"]) == found["cycles"]
        assert float(row["energy.accumulator memory"]) == found["energy_by_place"]["accumulator memory"]
        for name in study["layers"]:
            assert int(row[f"overflows.{name}"]) == found["layers"][name]["overflows"]


def test_the_figure_draws_what_the_study_holds(folder):
    pytest.importorskip("matplotlib")
    from accelsim.report import study_figure

    study = json.loads((folder / "study.json").read_text())
    figure = study_figure(study)
    accuracy, bounds, energy, cycles, area = figure.axes
    (together,) = [line for line in accuracy.lines if line.get_label() == "all layers"]
    assert list(together.get_xdata()) == [12, 16, 20]
    assert list(together.get_ydata()) == [100 * row["accuracy"] for row in study["widths"]]
    assert [label.get_text() for label in bounds.get_yticklabels()] == study["layers"]
    drawn = {float(x) for line in bounds.lines for x in line.get_xdata()}
    for layer in study["exact"]["layers"].values():
        assert set(layer["bounds"].values()) <= drawn
    assert {"adders", "partial-sum registers", "accumulator memory", "buffers"} <= {
        line.get_label() for line in energy.lines
    }
    assert list(cycles.lines[0].get_ydata()) == [row["cycles"] for row in study["widths"]]
    assert list(area.lines[0].get_ydata()) == [row["area_transistors"] / 1000 for row in study["widths"]]
    assert "zero points folded" in figure.get_suptitle()
    for kind in ("png", "svg"):
        assert (folder / f"study.{kind}").stat().st_size > 10_000


def test_a_killed_study_goes_on_and_prints_the_identical_table(tmp_path, folder):
    """SIGKILL while the second width is watched; what was finished then is not written again."""
    place = tmp_path / "killed"
    command = [*RUN, *COMMAND, "-o", str(place)]
    parts = place / "parts"
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (parts / "width-12.json").exists():
        assert started.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert not (place / "study.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    after = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert before.items() <= after.items(), "a finished part was made again"
    assert len(after) > len(before)
    assert "finished parts taken" in again.stderr
    whole = subprocess.run([*RUN, *COMMAND, "-o", str(folder)], capture_output=True, text=True, check=True)
    assert again.stdout.replace(str(place), str(folder)) == whole.stdout
    for name in ("study.json", "study.csv", "study.png", "study.svg"):
        assert (place / name).read_bytes() == (folder / name).read_bytes()


def test_json_alone_for_a_pipe(folder):
    done = subprocess.run(
        [*RUN, *COMMAND, "-o", str(folder), "--json", "/dev/stdout"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads((folder / "study.json").read_text())


@pytest.mark.parametrize(
    "words, message",
    [
        (["--widths", "wide"], "--widths wide: is not FROM:TO:STEP, one width, or widths with commas; use 10:32:2"),
        (["--widths", "12", "--tolerance", "-1"], "--tolerance -1: must be 0..100 percentage points"),
        (["--widths", "12", "--tolerance", "nan"], "--tolerance nan: must be 0..100 percentage points"),
        (["--widths", "12", "--images", "0"], "--images 0: must be at least 1"),
        (["--widths", "12", "--threads", "0"], "--threads 0: must be at least 1"),
        (["--widths", "12", "--images", "999"], "digits test: 999 images asked for, the split has 359"),
        (["--widths", "12", "-o", "/dev/null"], "/dev/null: '/dev/null' is a file, not a folder; choose another"),
    ],
)
def test_bad_input_is_one_line(capsys, words, message):
    assert main(["accumulator", "lenet5_digits", *words]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"accelsim: error: {message}")
    assert text.count("\n") == 1


def test_the_default_folder_is_named_after_the_workload(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["accumulator", "lenet5_digits", "--images", "5", "--widths", "20"]) == 0
    assert (tmp_path / "results" / "accumulator_lenet5_digits" / "study.csv").exists()
