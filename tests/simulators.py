"""Simulators that tests need: where one is missing they skip, and with ACCELSIM_SIMULATORS=all, as in CI, they fail."""

from __future__ import annotations

import os

import pytest

from accelsim.rtl import Simulator, missing


def need(simulator: Simulator) -> None:
    """Skip or fail the test where a simulator cannot run here."""
    lacking = missing(simulator)
    if lacking is None:
        return
    if os.environ.get("ACCELSIM_SIMULATORS") == "all":
        pytest.fail(lacking)
    pytest.skip(lacking)
