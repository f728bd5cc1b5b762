"""`accelsim study`: table, files, and a study that was killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accelsim.cli import main

pytest.importorskip("torch")

RUN = [sys.executable, "-c", "import sys; from accelsim.cli import main; sys.exit(main())"]
STUDY = """
title = "bits of LeNet-5 on the digits"
workload = "lenet5_digits"
calibration_images = 16
seeds = [0, 1]

[[rows]]
label = "float"
float = true

[[rows]]
label = "weights"
axes = { bits = [2, 3, 4, 8] }
quantization_set = ["weight.bits={bits}", "activation.bits=3"]
"""
FILES = ("study.json", "study.csv", "study.png", "study.svg")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A study that is killed after its third evaluation and repeated, and the same without the interruption."""
    place = tmp_path_factory.mktemp("study")
    (place / "bits.toml").write_text(STUDY)
    return place


@pytest.fixture(scope="module")
def command(place) -> list[str]:
    return ["study", str(place / "bits.toml"), "--images", "100", "--threads", "1"]


def test_a_killed_study_goes_on_and_gives_the_identical_files(capsys, place, command):
    parts = place / "killed" / "parts"
    killed = [*RUN, *command, "-o", str(place / "killed")]
    started = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(parts.glob("[0-9a-f]*.json"))) < 3:
        assert started.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert 3 <= len(before) < 9
    assert not (place / "killed" / "study.json").exists()
    again = subprocess.run(killed, capture_output=True, text=True, check=True)
    after = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert before.items() <= after.items(), "a finished part was made again"
    assert len(after) == 9  # the float network, and four rows with two seeds
    assert f"{len(before)} finished parts taken from {place / 'killed'}" in again.stderr
    assert main([*command, "-o", str(place / "whole")]) == 0
    whole = capsys.readouterr()
    assert whole.err == ""
    assert again.stdout.replace("killed", "whole") == whole.out
    for name in FILES:
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()


def test_the_table_has_seeds_means_and_what_was_run(capsys, place, command):
    assert main([*command, "-o", str(place / "whole")]) == 0
    printed = capsys.readouterr()
    assert "9 finished parts taken from" in printed.err
    found = json.loads((place / "whole" / "study.json").read_text())
    assert (found["format"], found["version"], found["name"]) == ("accelsim-scheme-study", 1, "bits")
    lines = printed.out.splitlines()
    assert lines[:2] == [
        "bits of LeNet-5 on the digits",
        "on default_16x16: 16x16 ws, 32-bit accumulator saturating at every add, 500 MHz",
    ]
    for row in found["rows"]:
        (line,) = [line for line in lines if line.startswith(row["label"] + "  ")]
        shares = [row["accuracy"], *(one["accuracy"] for one in row["seeds"] if row["kind"] != "float")]
        assert re.findall(r"[\d.]+ %", line) == [f"{100 * share:.2f} %" for share in shares]
        assert f"{row['minus_float']:.2f}" in line
    assert lines[-1] == f"{place / 'whole'}: study.json, study.csv, study.png, study.svg"


def test_json_alone_for_a_pipe(capfd, place, command):
    assert main([*command, "-o", str(place / "whole"), "--json", "/dev/stdout"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads((place / "whole" / "study.json").read_text())


def test_the_default_folder_is_named_after_the_study(capsys, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", str(place / "bits.toml"), "--images", "5", "--seeds", "3", "--threads", "1"]) == 0
    found = json.loads((tmp_path / "results" / "study_bits" / "study.json").read_text())
    assert found["seeds"] == [3]
    assert "seed 3" not in capsys.readouterr().out  # one seed has no column of its own


@pytest.mark.parametrize(
    "words, message",
    [
        (["--seeds", "a"], "--seeds a: must be integers with commas, such as 0,1,2"),
        (["--seeds", "1,1"], "--seeds 1,1 holds a seed twice; leave one out"),
        (["--seeds=-1"], "--seeds -1: -1 is outside 0..2147483647"),
        (["--images", "0"], "--images 0: must be at least 1"),
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--images", "999"], "digits test: 999 images asked for, the split has 359"),
        (["--data", "nowhere"], "--data nowhere: the digits are embedded and read no folder"),
        (["-o", "/dev/null"], "/dev/null: '/dev/null' is a file, not a folder; choose another"),
    ],
)
def test_bad_input_is_one_line(capsys, place, words, message):
    assert main(["study", str(place / "bits.toml"), *words]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"accelsim: error: {message}")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "calibration_images = 16",
            "calibration_images = 1439",
            "digits train: 1439 images asked for, the split has 1438",
        ),
        (
            "calibration_images = 16\nseeds = [0, 1]",
            "calibration_images = 1439\nseeds = [1]",
            "digits train: 1439 images asked for",
        ),
        ("lenet5_digits", "lenet9", "workload 'lenet9' is neither a name, a graph or program directory, an ONNX file"),
        ("bits={bits}", "bits={bit}", "FILE [rows[1]]: axes.bits changes nothing; write {bits} into quantization_set"),
    ],
)
def test_a_bad_study_is_one_line(capsys, tmp_path, old, new, message):
    assert old in STUDY
    path = tmp_path / "bad.toml"
    path.write_text(STUDY.replace(old, new))
    assert main(["study", str(path), "--images", "5", "-o", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"accelsim: error: {message.replace('FILE', str(path))}")
    assert text.count("\n") == 1
    assert not (tmp_path / "out" / "study.json").exists()


def test_a_shipped_study_is_listed(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "lenet5_steps" in lines[lines.index("studies") + 1]
