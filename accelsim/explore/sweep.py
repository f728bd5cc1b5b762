"""A sweep being run: points planned or searched, measured where they are not known yet, and put in a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.config.sweep import SweepFile
from accelsim.energy import AreaTable, load_area
from accelsim.errors import InputError
from accelsim.explore.bench import FIGURES, Answer, Figures, Prepared, Task
from accelsim.explore.expressions import evaluate, names_in
from accelsim.explore.parts import code_digest
from accelsim.explore.space import Inputs, Setting, Space
from accelsim.explore.store import Member, Store
from accelsim.explore.workers import Here, Job, Workers
from accelsim.ir import graph_digest


@dataclass(frozen=True)
class Row:
    """One point as the sweep shows it.

    Attributes:
        status: "done"; "infeasible"; "failed"; "not run", where the sweep was interrupted.
        reason: why it is infeasible or failed.
    """

    position: int
    key: str
    setting: Setting
    status: str
    reason: str | None
    figures: Figures


@dataclass
class Progress:
    """How far a sweep is.

    Attributes:
        total: points of the plan.
        known: points that were in the store.
        measured: points measured now.
        excluded: points that break a rule before anything is measured.
        best: the best feasible value so far of the first objective, or of the first group measured; None before any.
    """

    total: int
    known: int = 0
    measured: int = 0
    excluded: int = 0
    best: str | None = None


@dataclass
class _Asked:
    """A point with everything its measurement needs."""

    member: Member
    inputs: Inputs
    content: dict[str, Any]


class Sweep:
    """One sweep file on one store."""

    def __init__(
        self,
        file: SweepFile,
        store: Store,
        scratch: Path,
        *,
        origin: str = "sweep",
        data: str | None = None,
        workers: Workers | None = None,
        retry_failed: bool = False,
        progress: Callable[[Progress], object] = lambda _: None,
    ):
        """Check a sweep and enter it in the store.

        Args:
            scratch: a folder for quantised workloads; it may be removed afterwards.
            origin: names the file in errors.
            data: as for `sources.find_workload`.
            workers: where points are measured; None is this process.
            retry_failed: measure points again that failed before.
            progress: is told after each point.
        Raises:
            InputError: a constraint or objective names what is neither an axis nor a figure.
        """
        self.file, self.store, self.scratch, self.origin, self.data = file, store, scratch, origin, data
        self.space = Space(file, origin)
        self.workers: Workers = Here() if workers is None else workers
        self.retry_failed = retry_failed
        self.area: AreaTable = load_area(file.area)
        self._report = progress
        self._code = code_digest().hex()
        self._best: int | float | None = None
        self._prepared: dict[str, tuple[Prepared, Path, str]] = {}
        self._constraints = [(text, self._checked(text)) for text in file.constraints]
        if file.search is not None:
            for objective in file.search.objectives:
                self._known_name(objective.split(None, 1)[1], f"{origin} [search]: objectives")
        self.number = store.register(file)
        self.progress = Progress(self.space.count)

    # Names --------------------------------------------------------------------------------------------------------

    def _figure_names(self) -> set[str]:
        names = {name for group in self.file.measure for name in FIGURES[group]}
        if "energy" in self.file.measure:
            from accelsim.energy import PLACES

            names |= {_identifier(f"energy.{place}") for place in PLACES}
        return names

    def _known_name(self, name: str, where: str) -> None:
        of_a_layer = "layers" in self.file.measure and name.startswith("cycles.")
        if name not in self._figure_names() and name not in self.space.keys and not of_a_layer:
            known = ", ".join(sorted({*self._figure_names(), *self.space.keys}))
            raise InputError(f"{where}: {name!r} is neither an axis nor measured here; there are {known}")

    def _checked(self, constraint: str) -> bool:
        """Whether a constraint speaks of axes alone, so that it can be judged before anything is measured."""
        where = f"{self.origin}: constraints"
        names = names_in(constraint, where)
        for name in names:
            self._known_name(name, where)
        return names <= set(self.space.keys)

    def _unmet(self, names: dict[str, Any], *, early: bool) -> str | None:
        asked = [constraint for constraint, on_axes in self._constraints if on_axes == early]
        return unmet(asked, names, f"{self.origin}: constraints")

    # Running ------------------------------------------------------------------------------------------------------

    def run(self) -> list[Row]:
        """Measure what is missing and return every row, in the sweep's order."""
        if self.file.search is not None:
            from accelsim.explore.search import search

            search(self)
        else:
            self.measure(enumerate(self.space.points()))
        return self.rows()

    def measure(self, points: Iterable[tuple[int, Setting]]) -> None:
        """Measure points of this sweep, those that are known excepted."""
        asked: dict[str, _Asked] = {}
        members: list[Member] = []
        for position, setting in points:
            one = self._ask(position, setting)
            if isinstance(one, Member):
                members.append(one)
                self.progress.excluded += 1
            else:
                members.append(one.member)
                asked.setdefault(one.member.key, one)
        self.store.enrol(self.number, members)
        known = self.store.known(asked)
        missing = {
            key: one
            for key, one in asked.items()
            if key not in known or (self.retry_failed and known[key].status == "failed")
        }
        self.progress.known += sum(1 for member in members if member.excluded is None and member.key not in missing)
        self._report(self.progress)
        # Points that share a quantised workload run one after the other.
        ordered = sorted(missing.values(), key=lambda one: one.content["workload"]["quantized"])
        with closing(self._answers(ordered)) as answers:
            for answer in answers:
                one = missing[answer.key]
                self.store.keep(answer, one.content)
                self.progress.measured += 1
                self._note(self._row(one.member, answer))
                self._report(self.progress)

    def _note(self, row: Row) -> None:
        """Keep the best point for who watches: of the first objective, or the least of the first figure."""
        search = self.file.search
        first = next((name for group in self.file.measure for name in FIGURES[group]), "")
        direction, name = (search.objectives[0].split(None, 1)) if search is not None else ("min", first)
        if search is None and name == "accuracy":
            direction = "max"
        value = {**row.setting, **row.figures}.get(name)
        if row.status != "done" or not isinstance(value, int | float):
            return
        better = self._best is None or (value < self._best if direction == "min" else value > self._best)
        if better:
            self._best = value
            self.progress.best = f"{direction} {name} {value:,.6g} at point {row.position}"

    def _answers(self, asked: list[_Asked]) -> Generator[Answer]:
        if asked:
            yield from self.workers.run(self._job(one) for one in asked)

    def _ask(self, position: int, setting: Setting) -> _Asked | Member:
        """A point's inputs and hash, or why it is excluded."""
        reason = self._unmet(dict(setting), early=True)
        if reason is None:
            try:
                inputs = Inputs(self.file, setting)
                workload = self._workload(inputs)
            except InputError as error:
                reason = str(error)
        if reason is not None:
            excluded = json.dumps([self.number, setting], sort_keys=True).encode()
            return Member(position, hashlib.sha256(excluded).hexdigest(), setting, reason)
        content = {
            **inputs.content(),
            "workload": workload,
            "measure": sorted(self.file.measure),
            "area": self.area.model_dump(mode="json") if "area" in self.file.measure else None,
            "code": self._code,
        }
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return _Asked(Member(position, key, setting), inputs, content)

    def _job(self, one: _Asked) -> Job:
        prepared, folder, _ = self._prepare(one.inputs)
        task = Task(
            key=one.member.key,
            hardware=one.content["hardware"],
            energy=one.content["energy"],
            area=self.area.model_dump(mode="json"),
            batch=one.inputs.batch,
            groups=tuple(self.file.measure),
            float_percent=prepared.float_percent,
        )
        return Job(task, prepared, folder)

    # Workloads ----------------------------------------------------------------------------------------------------

    def _workload(self, inputs: Inputs) -> dict[str, Any]:
        """What a point depends on of its workload: the quantised graph, whatever it was made from, and its images."""
        _, _, digest = self._prepare(inputs)
        return {"name": inputs.workload, "quantized": digest}

    def _prepare(self, inputs: Inputs) -> tuple[Prepared, Path, str]:
        """A workload quantised by a point's scheme; made once for all points that agree on both."""
        scheme = json.dumps(inputs.quantization.model_dump(mode="json"), sort_keys=True)
        name = f"{inputs.workload}\n{scheme}"
        if name not in self._prepared:
            from accelsim.explore.workload import prepare

            prepared = prepare(
                inputs.workload,
                inputs.quantization,
                data=self.data,
                images=self.file.images,
            )
            digest = hashlib.sha256(graph_digest(prepared.graph).encode())
            for array in (prepared.codes, prepared.labels):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
            digest.update(repr(prepared.float_percent).encode())
            folder = self.scratch / digest.hexdigest()[:32]
            prepared.save(folder)
            self._prepared[name] = (prepared, folder, digest.hexdigest())
        return self._prepared[name]

    # Rows ---------------------------------------------------------------------------------------------------------

    def rows(self, first: int = 0) -> list[Row]:
        """The points of the sweep in its own order, from a position on."""
        return [self._row(member, answer) for member, answer in self.store.rows(self.number, first)]

    def _row(self, member: Member, answer: Answer | None) -> Row:
        return judged(member, answer, lambda names: self._unmet(names, early=False))


def unmet(constraints: Iterable[str], names: Mapping[str, Any], where: str) -> str | None:
    """The first constraint that does not hold, as a reason; None where all do.

    Raises:
        InputError: one is neither true nor false.
    """
    for constraint in constraints:
        met = evaluate(constraint, names, where)
        if not isinstance(met, bool):
            raise InputError(
                f"{where}: {constraint!r} is {met!r}, neither true nor false; compare it, as in 'area <= 200000'"
            )
        if not met:
            return f"constraint not met: {constraint}"
    return None


def judged(member: Member, answer: Answer | None, unmet: Callable[[dict[str, Any]], str | None]) -> Row:
    """A point as a row: excluded, not run, or what came of it, judged by constraints on its figures."""
    setting = dict(member.setting)
    if member.excluded is not None:
        return Row(member.position, member.key, setting, "infeasible", member.excluded, {})
    if answer is None:
        return Row(member.position, member.key, setting, "not run", None, {})
    status, reason = answer.status, answer.reason
    if status == "done":
        names = {**setting, **{_identifier(name): value for name, value in answer.figures.items()}}
        if (reason := unmet(names)) is not None:
            status = "infeasible"
    return Row(member.position, member.key, setting, status, reason, answer.figures)


def _identifier(name: str) -> str:
    """A figure's name in expressions: ``energy.accumulator memory`` is ``energy.accumulator_memory`` there.

    >>> _identifier("energy.partial-sum registers")
    'energy.partial_sum_registers'
    """
    return name.replace(" ", "_").replace("-", "_")
