"""The glossary: every name it gives is one that a user meets, and no name says a thing by another word."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from command_page import leaves
from pydantic import BaseModel

import accelsim
from accelsim.cli import build_parser
from accelsim.config import Hardware, QuantizationScheme
from accelsim.config.study import StudySection
from accelsim.config.sweep import SweepFile

DOCS = Path(__file__).parents[1] / "docs"
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
ROWS = [
    row
    for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*?) ?\|$", GLOSSARY, re.MULTILINE)
    if row != ("word", "means", "names")
]


def options() -> set[str]:
    """Options without their dashes, and what commands call their other arguments."""
    found = set()
    for parser, _ in leaves(build_parser()):
        for action in parser._actions:
            found |= {name.lstrip("-").replace("-", "_") for name in action.option_strings if name.startswith("--")}
            if not action.option_strings:
                found |= set(re.split(r"\W+", str(action.metavar or action.dest)))
    return found


def keys(kind: Any) -> Iterator[str]:
    """Keys of a file, sections and what is in them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield field.alias or name
            yield from keys(field.annotation)
    for inner in get_args(kind):
        yield from keys(inner)


def parameters() -> set[str]:
    """Parameters of everything in `import accelsim`."""
    pytest.importorskip("torch")
    found = set()
    for name in accelsim.__all__:
        if callable(value := getattr(accelsim, name)):
            found |= set(inspect.signature(value).parameters)
    return found


def files() -> set[str]:
    """Keys of the four kinds of TOML files a user writes."""
    return {key for model in (Hardware, QuantizationScheme, SweepFile, StudySection) for key in keys(model)}


def documented(*pages: str) -> set[str]:
    """Whatever stands in backquotes on pages that other tests hold to what is written."""
    text = "\n".join((DOCS / f"{page}.md").read_text(encoding="utf-8") for page in pages)
    return {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w-]+", quoted)}


def test_every_name_of_the_glossary_is_one_that_a_user_meets():
    said = {name for _, _, names in ROWS for name in re.findall(r"`([\w-]+)`", names)}
    assert len(said) > 50
    met = options() | files() | parameters() | set(accelsim.__all__)
    assert said <= met | documented("formats", "vectors", "microarchitecture", "api"), said - met


def test_a_word_is_explained_once():
    words = [word.strip() for first, _, _ in ROWS for word in first.split(",")]
    assert len(words) == len(set(words))


OTHER_WORDS = {
    "rows and columns in full": r"cols?|num|nr",
    "spelling of the field's libraries": r"\w*(?:quantis|utilis|equalis|normalis)\w*",
    "bits, bytes, cycles": r"bitwidth|nbits|kb|mb",
    "buffers are memories": r"sram|scratchpad|spad|gbuf|glb|cache",
    "activation and weight": r"ifmaps?|ofmaps?|filters?|feature|features",
    "accumulator, psum": r"acc|accum|partial",
    "images": r"inputs|examples|batchsize",
    "a chunk, a tile": r"folds|slice|slices",
}
"""Why, and parts of names that would say the same by another word."""


def test_no_name_says_a_thing_by_another_word():
    names = options() | files() | parameters()
    assert len(names) > 150
    for why, pattern in OTHER_WORDS.items():
        for name in sorted(names):
            for part in name.split("_"):
                assert not re.fullmatch(pattern, part), f"{name}: {why}"


def test_every_key_of_hardware_and_scheme_stands_in_the_reference():
    met = documented("formats")
    for model in (Hardware, QuantizationScheme):
        assert set(keys(model)) <= met, set(keys(model)) - met
    assert set(keys(SweepFile)) <= documented("sweeps"), set(keys(SweepFile)) - documented("sweeps")
    assert set(keys(StudySection)) <= documented("studies"), set(keys(StudySection)) - documented("studies")
