"""The documentation as a web site: Sphinx builds it with warnings as errors, so every link between pages is checked."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from command_page import leaves
from notebook_cells import run_cells

import accelsim
from accelsim.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs" / "site"


def need_sphinx() -> None:
    """Skip with what is missing; fail where CI has asked for it."""
    if any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")):
        lacking = "Sphinx is not installed; install accelsim[docs]"
        if os.environ.get("ACCELSIM_SITE") == "sphinx":
            pytest.fail(lacking)
        pytest.skip(lacking)


def test_the_site_builds_without_a_warning_and_holds_every_name_option_and_page(tmp_path):
    """One test, so that the workers of pytest-xdist do not each build it. The notebooks are run by their own test."""
    need_sphinx()
    site = tmp_path / "site"
    options = ["--fail-on-warning", "--keep-going", "--quiet", "-D", "notebooks_run=0"]
    words = ["-m", "sphinx", *options, "-c", str(SITE), "-d", str(tmp_path / "trees"), str(ROOT), str(site)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    python = {name for kind in ("py:function", "py:class", "py:exception") for name in inventory.get(kind, ())}
    assert {f"accelsim.{name}" for name in accelsim.__all__ if name != "__version__"} <= python

    said = set(inventory["std:cmdoption"])
    for parser, _ in leaves(build_parser()):
        for action in parser._actions:
            for option in action.option_strings:
                assert action.dest == "help" or f"{parser.prog.replace(' ', '-')}.{option}" in said, (
                    parser.prog,
                    option,
                )

    start = (site / "docs" / "index.html").read_text(encoding="utf-8")
    reached = {unescape(link).split("#")[0] for link in re.findall(r'href="([^"]+\.html[^"]*)"', start)}
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f"{page.stem}.html" in reached, page.name
    for page in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"../notebooks/{page.stem}.html" in reached, page.name
    assert (site / "index.html").exists()


def test_a_notebooks_page_holds_its_text_its_code_and_what_each_cell_shows():
    need_sphinx()
    from notebook_pages import output_html, page_text

    class Picture:
        def _repr_png_(self):
            return b"PNG"

    def cell(kind, name, text):
        return {"cell_type": kind, "id": name, "source": text.splitlines(keepends=True)}

    notebook = {
        "cells": [
            cell("markdown", "title", "# Sums\n\nOne and two."),
            cell("code", "add", "x = 1\nprint('<sum>')\nx + 2"),
            cell("code", "draw", "picture"),
            cell("code", "silent", "x += 1"),
        ]
    }
    shown = list(run_cells(notebook, "sums.ipynb", {"picture": Picture()}))
    assert [output_html(one) for one in shown] == [
        "<pre>&lt;sum&gt;</pre><pre>3</pre>",
        '<img alt="what cell draw draws" src="data:image/png;base64,UE5H">',
        "",
    ]
    assert page_text(notebook).startswith(
        "# Sums\n\nOne and two.\n\n```python\nx = 1\nprint('<sum>')\nx + 2\n```\n\n% output of add\n\n"
        "```python\npicture\n```\n\n% output of draw\n"
    )
