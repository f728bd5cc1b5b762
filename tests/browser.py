"""A browser for tests: where it is missing they skip, and with ACCELSIM_BROWSER=chromium, as in CI, they fail."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
"""Debian's own; a browser that a package downloads for itself is not used."""
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@contextmanager
def browser(profile: Path, **options: Any) -> Iterator[Any]:
    """A headless Chromium with a fresh profile, as a Playwright context; skips or fails where there is none."""
    lacking = None
    if not CHROMIUM.exists():
        lacking = f"{CHROMIUM} is not there; install it with apt-get install chromium"
    elif importlib.util.find_spec("playwright") is None:
        lacking = "the package playwright is not installed; install accelsim[dev]"
    if lacking is not None:
        if os.environ.get("ACCELSIM_BROWSER") == "chromium":
            pytest.fail(lacking)
        pytest.skip(lacking)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=120_000, **options
        )
        context.set_default_timeout(60_000)
        try:
            yield context
        finally:
            context.close()
