"""The README: its commands run, its output is what they print, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from accelsim.rtl import missing

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)]


FILES = dict(
    zip(
        re.findall(r"`([a-z]+\.(?:py|toml))`", README),
        re.findall(r"^```(?:python\nimport|toml\n)(.*?)^```", README, re.MULTILINE | re.DOTALL),
        strict=True,
    )
)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_commands_run(tmp_path, block):
    for name, content in FILES.items():
        (tmp_path / name).write_text(("import" if name.endswith(".py") else "") + content)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    lacking = missing("verilator") if any(line.startswith("accelsim cosim") for line in BLOCKS[block]) else None
    if lacking and os.environ.get("ACCELSIM_SIMULATORS") != "all":
        pytest.skip(lacking)
    for command in BLOCKS[block]:
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout, command


def test_there_are_commands_and_make_targets():
    assert sum(map(len, BLOCKS)) >= 8
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_shown_output_is_what_make_run_prints(capsys):
    from accelsim.cli import main

    assert main(["run", "lenet5_digits"]) == 0
    printed = iter(capsys.readouterr().out.splitlines())
    (shown,) = re.findall(r"^```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in shown.splitlines():  # in order; the README leaves lines out, and changes none
        assert line in printed, line


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
