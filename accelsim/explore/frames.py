"""Sweeps from Python: a sweep is run, a store is read, and both come as pandas data frames."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.config import build
from accelsim.config.sweep import SweepFile, load_sweep
from accelsim.errors import InputError, did_you_mean, optional
from accelsim.explore import pareto
from accelsim.explore.records import records
from accelsim.explore.store import Store
from accelsim.explore.sweep import Progress, Row, Sweep, judged, unmet
from accelsim.explore.workers import Cluster, Here, Processes, Workers

if TYPE_CHECKING:
    import pandas

Source = str | os.PathLike[str] | Mapping[str, Any]


def run_sweep(
    file: Source,
    store: str | os.PathLike[str] | None = None,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    data: str | None = None,
    retry_failed: bool = False,
    progress: Callable[[Progress], object] = lambda _: None,
) -> pandas.DataFrame:
    """Run a sweep, as `accelsim sweep` does.

    Args:
        file: a shipped sweep's name, a TOML file, or the keys of one as a dictionary (docs/sweeps.md).
        store: SQLite file that keeps the points; what it holds is not measured again. None: kept nowhere.
        jobs: processes on this machine. A script that asks for more than one must be importable, as Python's
            multiprocessing wants it: its statements under ``if __name__ == "__main__":``.
        scheduler: address of a Dask scheduler, ``tcp://HOST:PORT``, instead.
        data: data set by name, or the folder that holds it.
        retry_failed: measure points again that failed.
        progress: is told after each point.
    Returns:
        One row a point in the sweep's order. Columns: ``point``, ``status`` ("done", "infeasible", "failed"),
        ``reason``, one for each axis and figure, ``hash``. Figures are NaN where there are none. An axis
        `energy`, which names tables, is the column ``energy_table``.
    Raises:
        InputError: the file breaks a rule; the store cannot be used; pandas is not installed.
    """
    optional("pandas", "data frames", "sweep")
    if isinstance(file, Mapping):
        sweep, origin = build(SweepFile, dict(file), "sweep"), "sweep"
    else:
        sweep, origin = load_sweep(os.fspath(file)), os.fspath(file)
    workers = _workers(jobs, scheduler)
    with tempfile.TemporaryDirectory(prefix="accelsim-") as scratch:
        place = Path(scratch) / "sweep.db" if store is None else Path(store)
        with Store(place) as opened:
            rows = Sweep(
                sweep,
                opened,
                Path(scratch),
                origin=origin,
                data=data,
                workers=workers,
                retry_failed=retry_failed,
                progress=progress,
            ).run()
    return _frame(rows)


def read_store(path: str | os.PathLike[str], sweep: str | None = None) -> pandas.DataFrame:
    """Every point of the sweeps in a store; nothing is measured.

    Args:
        path: the SQLite file.
        sweep: a sweep's name, for its points alone.
    Returns:
        As `run_sweep`, behind a column ``sweep`` with the name; points not measured yet have the status "not run".
        Several sweeps may have one name: those of a file that was changed are all there, oldest first.
    Raises:
        InputError: there is no such file, it is no store, or it has no such sweep.
    """
    pandas = optional("pandas", "data frames", "sweep")
    frames = []
    with Store(Path(path), make=False) as store:
        there = store.sweeps()
        for number, file in there:
            if sweep is None or file.name == sweep:
                where = f"{file.name}: constraints"
                meets = partial(unmet, file.constraints, where=where)  # those on axes alone were asked before
                rows = [judged(member, answer, meets) for member, answer in store.rows(number)]
                frame = _frame(rows)
                frame.insert(0, "sweep", file.name)
                frames.append(frame)
    if not frames:
        names = list(dict.fromkeys(file.name for _, file in there))
        hint = did_you_mean(sweep or "", names) or f"; it has {', '.join(names) or 'none'}"
        raise InputError(f"{os.fspath(path)}: has no sweep {sweep or ''!r}{hint}")
    return pandas.concat(frames, ignore_index=True)


def front(frame: pandas.DataFrame, objectives: Sequence[str]) -> pandas.DataFrame:
    """The points that no other one beats: at least as good in every objective, and better in one.

    Args:
        frame: from `run_sweep` or `read_store`; where it has a column ``status``, only points that are "done" count.
        objectives: each ``min COLUMN`` or ``max COLUMN``, of numbers; points without a figure are left out.
    Returns:
        Those rows, in the frame's order and with its index.
    Raises:
        InputError: an objective is neither, or names no column of numbers.
    """
    if not objectives or isinstance(objectives, str):
        raise InputError(f"objectives = {objectives!r} must be a list such as ['min cycles', 'min energy']")
    good = frame[frame["status"] == "done"] if "status" in frame else frame
    values = []
    for objective in objectives:
        direction, _, name = objective.partition(" ")
        if direction not in ("min", "max"):
            raise InputError(f"objectives: {objective!r} is not 'min COLUMN' or 'max COLUMN'; use 'min energy'")
        if name not in good:
            hint = did_you_mean(name, map(str, good.columns)) or f"; columns are {', '.join(map(str, good.columns))}"
            raise InputError(f"objectives: {objective!r}: there is no column {name!r}{hint}")
        if good[name].dtype.kind not in "iuf":
            raise InputError(f"objectives: {objective!r}: column {name!r} holds no numbers; choose another")
        values.append(good[name] if direction == "min" else -good[name])
    numbers = optional("pandas", "data frames", "sweep").concat(values, axis=1)
    there = numbers.notna().all(axis=1)
    return good[there].iloc[pareto.front(numbers[there].to_numpy())]


def _frame(rows: Sequence[Row]) -> pandas.DataFrame:
    return optional("pandas", "data frames", "sweep").DataFrame(records(rows))


def _workers(jobs: int, scheduler: str | None) -> Workers:
    if jobs < 1:
        raise InputError(f"jobs = {jobs} must be at least 1")
    if scheduler is not None:
        if jobs != 1:
            raise InputError(f"jobs = {jobs} and scheduler = {scheduler!r}: keep one of them")
        return Cluster(scheduler)
    return Here() if jobs == 1 else Processes(jobs)
