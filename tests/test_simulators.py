"""Where every simulator is asked for, a test whose simulator is missing fails; else it skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("asked", ["all", ""])
def test_tests_that_need_icarus_fail_without_it_where_all_are_asked_for(tmp_path, asked):
    environment = os.environ | {"PATH": str(tmp_path), "ACCELSIM_SIMULATORS": asked}
    tests = [
        "tests/vectors/test_benches.py::test_a_wrapping_design_on_a_saturating_pack_is_told_that_it_wraps",
        "tests/vectors/test_benches.py::test_a_different_design_consumes_a_pack_and_passes",
        "tests/test_area.py::test_what_is_measured_computes",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if asked:
        assert done.stdout.count("Icarus Verilog (iverilog, vvp) is not installed") >= 3
        assert done.returncode == 1
        assert "passed" not in done.stdout
        assert "skipped" not in done.stdout
    else:
        assert done.stdout.splitlines()[-1].startswith("3 skipped")
