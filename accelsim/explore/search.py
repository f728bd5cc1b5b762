"""Multi-objective search over the axes of a sweep: Optuna proposes, the sweep measures and keeps."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from accelsim.config.sweep import Search, Span
from accelsim.errors import InputError, optional
from accelsim.explore.space import Setting, Space

if TYPE_CHECKING:
    import optuna

    from accelsim.explore.sweep import Row, Sweep

REPEATS = 200
"""Proposals in a row that were all made before, after which the search ends: small spaces are used up."""


def search(sweep: Sweep) -> None:
    """Propose points and have them measured until the evaluations are used up.

    Proposals are made `together` at a time and their results told in that order, so that the points do not depend on
    how many workers there are or on which of them was first. A point proposed again is answered from memory and does
    not count. Points that are infeasible or failed have no objectives and only teach where not to look.
    """
    wanted = sweep.file.search
    assert wanted is not None
    study = _study(wanted)
    seen: dict[str, tuple[float, ...] | None] = {}
    done = repeats = 0
    while done < wanted.evaluations and repeats < REPEATS:
        batch: list[tuple[optuna.Trial, Setting]] = []
        again: list[optuna.Trial] = []
        while len(batch) < min(wanted.together, wanted.evaluations - done) and repeats < REPEATS:
            trial = study.ask()
            setting = sweep.space.setting(_proposed(sweep.space, trial))
            name = repr(sorted(setting.items()))
            if name in seen:
                repeats += 1
                _tell(study, trial, seen[name])
            elif any(setting == other for _, other in batch):
                repeats += 1
                again.append(trial)  # waits for its twin's result
            else:
                repeats = 0
                batch.append((trial, setting))
        sweep.measure((done + number, setting) for number, (_, setting) in enumerate(batch))
        rows = sweep.rows(done)
        for number, (trial, setting) in enumerate(batch):
            values = _objectives(wanted, rows[number])
            seen[repr(sorted(setting.items()))] = values
            _tell(study, trial, values)
        for trial in again:
            name = repr(sorted(sweep.space.setting(_proposed(sweep.space, trial)).items()))
            _tell(study, trial, seen[name])
        done += len(batch)


def _study(wanted: Search) -> Any:
    optuna = optional("optuna", "searches", "sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some options of samplers are experimental
        sampler = (
            optuna.samplers.TPESampler(seed=wanted.seed, multivariate=True, constant_liar=True)
            if wanted.sampler == "tpe"
            else optuna.samplers.NSGAIISampler(seed=wanted.seed, population_size=max(wanted.together, 8))
        )
    directions = [
        optuna.study.StudyDirection.MINIMIZE if objective.startswith("min") else optuna.study.StudyDirection.MAXIMIZE
        for objective in wanted.objectives
    ]
    return optuna.create_study(directions=directions, sampler=sampler)


def _proposed(space: Space, trial: Any) -> dict[str, int | float]:
    """A row of each axis by its number, a span by its value; numbers keep their order, so neighbours are near."""
    chosen: dict[str, int | float] = {}
    for said, axis in space.sweep.axes.items():
        count = space.rows(said)
        if count is not None:
            chosen[said] = trial.suggest_int(said, 0, count - 1)
        else:
            assert isinstance(axis, Span)
            suggest = trial.suggest_int if axis.whole else trial.suggest_float
            chosen[said] = suggest(said, axis.low, axis.high, log=axis.log)
    return chosen


def _objectives(wanted: Search, row: Row) -> tuple[float, ...] | None:
    """What a feasible point reaches."""
    if row.status != "done":
        return None
    names = {**row.setting, **row.figures}  # the figure `energy`, not the axis of that name
    values = []
    for objective in wanted.objectives:
        value = names[objective.split(None, 1)[1].strip()]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"objectives: {objective!r} is {value!r} at a point, which is no number; choose another")
        values.append(float(value))
    return tuple(values)


def _tell(study: Any, trial: Any, values: tuple[float, ...] | None) -> None:
    import optuna

    if values is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, values)
