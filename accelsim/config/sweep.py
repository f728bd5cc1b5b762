"""A sweep file: which keys take which values, what is measured at each point, and how points are chosen."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from accelsim.config._model import Section, build, read_toml, whole_keys
from accelsim.config.hardware import Hardware
from accelsim.config.presets import find_preset
from accelsim.config.quantization import QuantizationScheme
from accelsim.errors import did_you_mean, one_of

Value = bool | int | float | str
"""What an axis may take: a TOML scalar."""
Number = int | Annotated[float, Field(allow_inf_nan=False)]
Measure = Literal["cycles", "layers", "energy", "area", "accuracy", "safe_width"]
Method = Literal["grid", "zip", "random", "sobol", "halton"]

CHOICES = ("workload", "hardware", "quantization", "energy")
"""Axes that name a whole workload, preset or file; ``batch`` is one of its own, and the rest start with a section."""
SECTIONS = ("hardware.", "quantization.", "energy.")
MOST_POINTS = 1_000_000


class Steps(Section):
    """Values first, first + step, ..., up to and including `to`: ``{ from = 12, to = 32, step = 2 }``."""

    first: Number = Field(alias="from")
    to: Number
    step: Number = Field(gt=0)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.to < self.first:
            raise ValueError(f"from = {self.first} is above to = {self.to}; write the smaller one first")
        if self._count > MOST_POINTS:
            raise ValueError(f"step = {self.step} makes more than {MOST_POINTS:,} values; use a larger step")
        return self

    @property
    def _count(self) -> int:
        return int((_exact(self.to) - _exact(self.first)) / _exact(self.step)) + 1

    def values(self) -> list[Value]:
        """All of them, of the decimals in the file; integers where first and step are."""
        first, step = _exact(self.first), _exact(self.step)
        kind = int if isinstance(self.first, int) and isinstance(self.step, int) else float
        return [kind(first + number * step) for number in range(self._count)]


def _exact(number: int | float) -> Fraction:
    """The decimal number that was written in the file: three steps of 0.1 are 0.3."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


class Span(Section):
    """Everything between two ends, for sampled sweeps and searches: ``{ low = 1024, high = 65536, log = true }``.

    Integers where both ends are; with `log`, evenly spread in the logarithm.
    """

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low} must be above 0 where log = true")
        return self

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def _kind(given: Any) -> str:
    """Which of the three forms of an axis a TOML value means to be."""
    if isinstance(given, Steps) or (isinstance(given, dict) and {"from", "to", "step"} & given.keys()):
        return "steps"
    return "span" if isinstance(given, dict | Span) else "values"


Axis = Annotated[
    Annotated[Steps, Tag("steps")] | Annotated[Span, Tag("span")] | Annotated[list[Value | list[Value]], Tag("values")],
    Discriminator(_kind),
]


class Sampling(Section):
    """How points are chosen from the axes.

    Attributes:
        method: "grid", every combination; "zip", the first values of all axes, the second ones, ...; "random";
            "sobol" and "halton", low-discrepancy sequences (scrambled).
        samples: points of the sampled methods.
        seed: of the sampled methods.
    """

    method: Method = "grid"
    samples: int | None = Field(None, ge=1, le=MOST_POINTS)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sampled = self.method not in ("grid", "zip")
        if sampled and self.samples is None:
            raise ValueError(f"method = {self.method!r} needs samples, the number of points; add it")
        if not sampled and self.samples is not None:
            raise ValueError(f"samples = {self.samples} means nothing to method = {self.method!r}; leave it out")
        return self


class Search(Section):
    """Multi-objective optimisation over the axes instead of a plan made beforehand.

    Attributes:
        objectives: one to four, each ``min NAME`` or ``max NAME`` of a measured figure.
        evaluations: points in all.
        sampler: Optuna's: "tpe", tree-structured Parzen estimator; "nsga2", a genetic algorithm.
        together: points proposed at a time, before any of their results is known; what may run in parallel.
        seed: of the sampler.
    """

    objectives: list[str] = Field(min_length=1, max_length=4)
    evaluations: int = Field(ge=1, le=MOST_POINTS)
    sampler: Literal["tpe", "nsga2"] = "tpe"
    together: int = Field(4, ge=1, le=1024)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for objective in self.objectives:
            direction, _, figure = objective.partition(" ")
            if direction not in ("min", "max") or not figure.strip():
                raise ValueError(f"objectives: {objective!r} is not 'min NAME' or 'max NAME'; use 'min energy'")
        return self


class SweepFile(Section):
    """A whole sweep.

    Attributes:
        name: shown in tables; absent, the file's name.
        title: one line on what is asked.
        workload, hardware, quantization, energy, area, batch: what no axis says otherwise; as on the command line.
        images: test images that "accuracy" and "safe_width" are found on.
        measure: groups of figures (docs/sweeps.md lists those of each); only the last two compute values.
        axes: key -> values. Keys: ``workload``, ``hardware``, ``quantization``, ``energy``, ``batch``,
            ``hardware.KEY``, ``quantization.KEY``, ``energy.KEY``; several keys with commas take rows of values.
        derived: key -> expression of axes, for keys that follow from others.
        constraints: expressions of axes and figures that a point must meet to be feasible.
    """

    name: str = Field("sweep", min_length=1, max_length=200)
    title: str = ""
    workload: str = "lenet5_digits"
    hardware: str = "default_16x16"
    quantization: str = "int8"
    energy: str = "horowitz_45nm"
    area: str = "generic_cells"
    batch: int = Field(1, ge=1, le=4096)
    images: int | None = Field(None, ge=1)
    measure: list[Measure] = Field(min_length=1)
    axes: dict[str, Axis] = Field(min_length=1)
    derived: dict[str, str] = Field({})
    constraints: list[str] = Field([])
    sampling: Sampling = Sampling()
    search: Search | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        taken: dict[str, str] = {}
        for said in [*self.axes, *self.derived]:
            for key in keys_of(said):
                if key not in (*CHOICES, "batch") and not key.startswith(SECTIONS):
                    meant = [f"hardware.{one}" for one in whole_keys(Hardware, key)]
                    meant += [f"quantization.{one}" for one in whole_keys(QuantizationScheme, key)]
                    hint = (
                        did_you_mean(key, (*CHOICES, "batch"))
                        or one_of(meant)
                        or (
                            f"; keys are {', '.join(CHOICES)}, batch, or start with hardware., quantization. or energy."
                        )
                    )
                    raise ValueError(f"axes: unknown key {key!r}{hint}")
                if key in taken:
                    raise ValueError(f"axes: {key!r} is both in {taken[key]!r} and in {said!r}; keep one of them")
                taken[key] = said
        sampled = self.search is not None or self.sampling.method not in ("grid", "zip")
        for said, axis in self.axes.items():
            self._check_axis(said, axis, sampled=sampled)
        values = {"accuracy", "safe_width"} & set(self.measure)
        if values and self.images is None:
            raise ValueError(f"images is missing: measure = {sorted(values)} needs test images; add images = 500")
        if not values and self.images is not None:
            raise ValueError(f"images = {self.images}: nothing measured here looks at images; leave it out")
        if len(set(self.measure)) != len(self.measure):
            raise ValueError(f"measure = {self.measure} names a group twice")
        if self.search is not None and self.sampling != Sampling():
            raise ValueError("search and sampling: a search chooses its own points; keep one of the two sections")
        return self

    @staticmethod
    def _check_axis(said: str, axis: Axis, *, sampled: bool) -> None:
        keys = keys_of(said)
        if isinstance(axis, Span):
            if not sampled:
                raise ValueError(
                    f"axes: {said}: low and high name no values for a grid; use from, to and step, or a sampled method"
                )
            if len(keys) > 1:
                raise ValueError(f"axes: {said}: several keys need rows of values")
        elif isinstance(axis, Steps):
            if len(keys) > 1:
                raise ValueError(f"axes: {said}: several keys need rows of values")
        else:
            if not axis:
                raise ValueError(f"axes: {said} = [] has no value; add one")
            for entry in axis:
                row = entry if isinstance(entry, list) else [entry]
                if len(row) != len(keys) or isinstance(entry, list) != (len(keys) > 1):
                    raise ValueError(f"axes: {said}: {entry!r} is not {len(keys)} value(s), one for each key")


def keys_of(said: str) -> list[str]:
    """The keys an axis sets: ``"hardware.array.rows, hardware.array.columns"`` sets two."""
    return [key.strip() for key in said.split(",")]


def load_sweep(name_or_path: str | Path) -> SweepFile:
    """Load a shipped sweep by name (`accelsim list`) or a TOML file.

    Raises:
        InputError: one line with file, key, value, rule and remedy.
    """
    path = find_preset("sweeps", name_or_path)
    data: dict[str, Any] = read_toml(path)
    data.setdefault("name", path.stem)
    return build(SweepFile, data, str(name_or_path))
