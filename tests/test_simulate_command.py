"""`accelsim simulate`: checked, with values alone, and with time alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import save_compiled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program directory with its graph."""
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
    made = GraphMaker(np.random.default_rng(1), how)
    made.linear(made.conv(made.input(8, 8, 3), 6, (3, 3)), 5)
    path = tmp_path_factory.mktemp("simulate") / "program"
    save_compiled(compile_graph(made.graph(), load_hardware("edge_8x8")), made.graph(), made.codes(1), path)
    return path


def report(folder: Path, place: Path, *options: str) -> dict:
    assert main(["simulate", str(folder), *options, "--json", str(place / "report.json")]) == 0
    return json.loads((place / "report.json").read_text())


def test_without_a_check_or_values_the_cycles_counts_and_energy_are_the_same(folder, tmp_path):
    checked = report(folder, tmp_path)
    values = report(folder, tmp_path, "--no-check")
    time = report(folder, tmp_path, "--timing-only")
    assert (checked["bit_exact"], values["bit_exact"], time["bit_exact"]) == (True, None, None)
    assert (checked["images_checked"], values["images_checked"], time["images_checked"]) == (1, 0, 0)
    assert checked["outputs"] == values["outputs"] is not None
    assert time["outputs"] is None
    assert checked["totals"] == values["totals"] == time["totals"]
    assert checked["energy_by_op"] == values["energy_by_op"] == time["energy_by_op"]


def test_the_text_says_what_was_not_checked(folder, capsys):
    assert main(["simulate", str(folder), "--no-check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "bit_exact: not checked"


@pytest.mark.parametrize(
    "options, line",
    [
        (["--timing-only", "--telemetry"], "--telemetry: --timing-only computes no values; leave --telemetry out"),
        (["--timing-only", "--input", "x.npy"], "--input: --timing-only computes no values; leave --input out"),
    ],
)
def test_options_that_would_change_nothing_are_refused(folder, capsys, options, line):
    assert main(["simulate", str(folder), *options]) == 2
    assert capsys.readouterr().err.strip() == f"accelsim: error: {line}"


def test_time_alone_waits_for_no_large_library(folder):
    """Neither the engine's compiler nor torch: most of a short run would be their loading."""
    script = (
        "import sys\nfrom accelsim.cli import main\n"
        f"assert main(['simulate', {str(folder)!r}, '--timing-only']) == 0\n"
        "print([name for name in ('numba', 'torch', 'matplotlib', 'scipy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
