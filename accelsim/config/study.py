"""A study of quantisation schemes: one file names networks, images, seeds and rows, each row a way to quantise."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from accelsim.config._model import Section, build, read_toml
from accelsim.config.hardware import Hardware, load_hardware
from accelsim.config.presets import find_preset
from accelsim.config.quantization import QuantizationScheme, load_quantization
from accelsim.errors import InputError

MOST_EVALUATIONS = 10_000
"""Of one study, seeds and tried combinations included: a slip in an axis is refused, not begun."""
SEED_LIMIT = 1 << 31
SEED = "seed"
"""Stands for the seed where the axes' names stand for their values."""

Value = bool | int | float | str
Text = Annotated[str, Field(min_length=1, max_length=200)]
# TOML has arrays only; the frozen models hold tuples. Elements stay strict.
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Values = Annotated[tuple[Value, ...], Field(strict=False, min_length=1)]
Kind = Literal["float", "weights_only", "integer"]


class TrainSection(Section):
    """Quantisation-aware training before the row's network is evaluated: on the first `images` for training, or all."""

    images: int | None = Field(None, ge=1)
    epochs: int = Field(ge=1, le=1000)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    batch: int = Field(ge=1, le=65535)


class RowSection(Section):
    """One row, or with `axes` one for each combination of their values.

    Attributes:
        label: what tables and figures call it.
        float: the float network itself.
        weights_only: integer weights, everything else float.
        workload, quantization: instead of the study's.
        quantization_set: overrides of the scheme, after the study's own; ``{axis}`` stands for a value, ``{seed}`` for
            the seed.
        hardware_set: overrides of the hardware, after the study's own.
        axes: values by name.
        best_of: the axis of which only the best value is shown, chosen on the calibration images.
        train: fine-tune first.
    """

    label: Text
    float: bool = False
    weights_only: bool = False
    workload: Text | None = None
    quantization: Text | None = None
    quantization_set: Texts = ()
    hardware_set: Texts = ()
    axes: dict[str, Values] = Field(default_factory=dict)
    best_of: Text | None = None
    train: TrainSection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.float and self.weights_only:
            raise ValueError("float and weights_only exclude each other; leave one out")
        given = [
            key
            for key in ("quantization", "quantization_set", "hardware_set", "best_of", "train")
            if getattr(self, key)
        ]
        if self.float and given:
            raise ValueError(f"{given[0]} changes nothing of a float network; leave {given[0]} out, or float")
        if self.weights_only:
            for key in ("hardware_set", "train"):
                if getattr(self, key):
                    raise ValueError(f"{key} changes nothing where only weights are integers; leave {key} out")
            for change in self.quantization_set:
                if not _changes_weights(change.partition("=")[0].strip()):
                    raise ValueError(
                        f"quantization_set {change!r} changes nothing where only weights are integers; leave it out"
                    )
        if self.best_of is not None and self.best_of not in self.axes:
            raise ValueError(f"best_of = {self.best_of!r} is not one of axes; add axes.{self.best_of}")
        if self.best_of in _PLACE.findall(self.workload or ""):
            raise ValueError(
                f"workload has {{{self.best_of}}}, which best_of chooses; compare workloads in rows of their own"
            )
        others = [self.workload or "", self.quantization or "", *self.hardware_set]
        used = {name for text in (*others, *self.quantization_set) for name in _PLACE.findall(text)}
        if SEED in {name for text in others for name in _PLACE.findall(text)}:
            raise ValueError(
                f"{{{SEED}}} stands in quantization_set alone; the same network and machine serve every seed"
            )
        for name, values in self.axes.items():
            if not re.fullmatch(r"\w+", name) or name == SEED:
                raise ValueError(f"axes.{name}: a name holds letters, digits and underscores only, and is not {SEED!r}")
            if name not in used:
                raise ValueError(
                    f"axes.{name} changes nothing; write {{{name}}} into quantization_set, hardware_set or quantization"
                )
            if len(set(map(repr, values))) < len(values):
                raise ValueError(f"axes.{name} holds a value twice; leave one out")
        if unknown := sorted(used - {*self.axes, SEED}):
            raise ValueError(f"{{{unknown[0]}}} names no axis; add axes.{unknown[0]}")
        return self

    @property
    def combinations(self) -> int:
        """How many networks this row makes."""
        return math.prod(map(len, self.axes.values()))


class StudySection(Section):
    """A whole study file.

    Attributes:
        title: one line.
        workload: name or ``file.py:function``, of rows that name none.
        images: test images, the first of them; absent, all there are.
        calibration_images: training images that ranges are taken from.
        seeds: every row is made once for each. Seed 0 calibrates on the first training images, another on as many
            drawn with it; it also orders what a method does at random.
        hardware, hardware_set: the array, whose order of additions and accumulator decide bits.
        quantization, quantization_set: scheme and overrides of rows that say nothing else.
        against: the axis that the figure has from left to right; absent, it has a bar for each row.
        rows: at least one.
    """

    title: Text
    workload: Text
    images: int | None = Field(None, ge=1)
    calibration_images: int = Field(1024, ge=1)
    seeds: Annotated[tuple[int, ...], Field(strict=False, min_length=1, max_length=100)] = (0,)
    hardware: Text = "default_16x16"
    hardware_set: Texts = ()
    quantization: Text = "int8"
    quantization_set: Texts = ()
    against: Text | None = None
    rows: Annotated[tuple[RowSection, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_seeds(self.seeds, "seeds")
        if self.against is not None:
            known = {name: row.axes[name] for row in self.rows for name in row.axes if name != row.best_of}
            if self.against not in known:
                remedy = f"use one of {', '.join(sorted(known))}" if known else "no row has one: leave it out"
                raise ValueError(f"against = {self.against!r} is no row's axis; {remedy}")
            for row in self.rows:
                for value in row.axes.get(self.against, ()):
                    if isinstance(value, bool | str):
                        raise ValueError(f"against = {self.against!r} needs numbers; axes.{self.against} has {value!r}")
        asked = len(self.seeds) * sum(row.combinations for row in self.rows)
        if asked > MOST_EVALUATIONS:
            raise ValueError(f"rows ask for {asked} evaluations; at most {MOST_EVALUATIONS} are made, use shorter axes")
        return self


@dataclass(frozen=True)
class Trial:
    """One way to quantise: the values of axes that make it, its scheme for each seed, and its machine."""

    axes: dict[str, Value]
    schemes: dict[int, QuantizationScheme]
    hardware: Hardware


@dataclass(frozen=True)
class Row:
    """One row of the result.

    Attributes:
        label, series: its name, and that without the axis the figure is drawn against.
        axes: values that make it, without those of `best_of`.
        workload: name or ``file.py:function``.
        kind: what is integer.
        best_of: the axis in which `trials` differ, or None, and then there is one.
        trials: none of a float row.
        train: fine-tune first.
    """

    label: str
    series: str
    axes: dict[str, Value]
    workload: str
    kind: Kind
    best_of: str | None
    trials: tuple[Trial, ...]
    train: TrainSection | None


@dataclass(frozen=True)
class StudyPlan:
    """A study file with every row written out and every scheme and machine loaded.

    Attributes:
        name: the file's, without its ending.
        source: as the user named it, for messages.
        seeds: of every row.
        hardware: of rows that override nothing.
    """

    name: str
    source: str
    file: StudySection
    seeds: tuple[int, ...]
    hardware: Hardware
    rows: tuple[Row, ...]


def load_study(name_or_path: str | Path, seeds: Sequence[int] | None = None) -> StudyPlan:
    """Load a shipped study by name (`accelsim list`) or a TOML file.

    Files that it names lie relative to its own folder. `seeds` take the place of the file's.

    Raises:
        InputError: one line with file, row, key, value, rule and remedy; every scheme and machine is loaded here, so
            that nothing of the kind is found after hours of work.
    """
    path = find_preset("studies", name_or_path)
    source = str(name_or_path)
    file = build(StudySection, read_toml(path), source)
    try:
        hardware = load_hardware(_near(file.hardware, path), list(file.hardware_set), "hardware_set")
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    chosen = file.seeds if seeds is None else tuple(seeds)
    rows: list[Row] = []
    for index, section in enumerate(file.rows):
        try:
            rows += _rows(file, section, path, chosen)
        except InputError as error:
            raise InputError(f"{source} [rows[{index}]] {section.label!r}: {error}") from None
    labels = [row.label for row in rows]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InputError(f"{source}: two rows have the label {twice[0]!r}; give each its own")
    return StudyPlan(path.stem, source, file, chosen, hardware, tuple(rows))


def check_seeds(seeds: tuple[int, ...], key: str) -> None:
    """Refuse seeds that are out of range or twice there; `ValueError` names `key`."""
    for seed in seeds:
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"{key}: {seed} is outside 0..{SEED_LIMIT - 1}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{key} holds a seed twice; leave one out")


def _changes_weights(key: str) -> bool:
    """Whether a dotted key of a scheme decides what real numbers the integer weights stand for."""
    if key.startswith("layers."):
        return key.rpartition(".")[2].startswith("weight_")
    # Powers of two and float32 are what every scale is rounded to, the weights' among them.
    return key.startswith(("weight.", "equalization.")) or key in ("requantization.scheme", "scale_format")


_PLACE = re.compile(r"\{(\w+)\}")


def _rows(file: StudySection, section: RowSection, path: Path, seeds: tuple[int, ...]) -> Iterator[Row]:
    """The rows of one section: a combination of every axis but that of `best_of`."""
    shown = {name: values for name, values in section.axes.items() if name != section.best_of}
    for values in product(*shown.values()):
        axes: dict[str, Value] = dict(zip(shown, values, strict=True))
        rest = {name: value for name, value in axes.items() if name != file.against}
        inner: list[dict[str, Value]] = [axes]
        if section.best_of is not None:
            inner = [{**axes, section.best_of: value} for value in section.axes[section.best_of]]
        workload = _filled(section.workload or file.workload, axes)
        yield Row(
            label=_labelled(section.label, axes),
            series=_labelled(section.label, rest),
            axes=axes,
            workload=str(_near(workload, path)) if ":" in workload else workload,
            kind="float" if section.float else "weights_only" if section.weights_only else "integer",
            best_of=section.best_of,
            trials=() if section.float else tuple(_trial(file, section, path, one, seeds) for one in inner),
            train=section.train,
        )


def _trial(
    file: StudySection, section: RowSection, path: Path, axes: dict[str, Value], seeds: tuple[int, ...]
) -> Trial:
    quantization = _near(_filled(section.quantization or file.quantization, axes), path)
    changes = (*file.quantization_set, *section.quantization_set)
    hardware_changes = [_filled(change, axes) for change in (*file.hardware_set, *section.hardware_set)]
    schemes = {
        seed: load_quantization(
            quantization, [_filled(change, {**axes, SEED: seed}) for change in changes], "quantization_set"
        )
        for seed in seeds
    }
    return Trial(axes, schemes, load_hardware(_near(file.hardware, path), hardware_changes, "hardware_set"))


def _near(name: str, study: Path) -> str | Path:
    """A preset's name as it is; a file beside the study."""
    return study.parent / name if ".toml" in name or "/" in name or ":" in name else name


def _filled(text: str, axes: dict[str, Value]) -> str:
    """`text` with the values of axes in their places, as TOML writes them."""
    return _PLACE.sub(lambda found: shown(axes[found[1]]) if found[1] in axes else found[0], text)


def shown(value: Value) -> str:
    """A value as TOML writes it, a text without quotes.

    >>> shown(True), shown(4), shown("tensor")
    ('true', '4', 'tensor')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def _labelled(label: str, axes: dict[str, Value]) -> str:
    """The label with the values of axes; a text says by itself what it is."""
    values = (value if isinstance(value, str) else f"{name} = {shown(value)}" for name, value in axes.items())
    return ", ".join([label, *values])
