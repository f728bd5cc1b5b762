"""The command `accelsim sweep`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.cli.arguments import positive
from accelsim.errors import InputError

if TYPE_CHECKING:
    from accelsim.explore.sweep import Progress
    from accelsim.explore.workers import Workers


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim sweep`."""
    parser.add_argument("file", metavar="NAME|F.toml", help="a sweep file, or the name of a shipped sweep")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="measure on a Dask cluster: tcp://HOST:PORT")
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="with --scheduler: how long it may take to answer, or be without a worker (default: 60)",
    )
    parser.add_argument(
        "-o",
        "--store",
        type=Path,
        metavar="DB",
        help="where points are kept, for any number of sweeps: what it holds is not run again (default: "
        "results/sweeps.db)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a sweep that was interrupted; refuses to begin a new one"
    )
    parser.add_argument("--retry-failed", action="store_true", help="measure points again that failed")
    parser.add_argument("--data", metavar="NAME|DIR", help="data set by name, or the folder that holds it")
    parser.add_argument("--csv", type=Path, metavar="F", help="write all points as CSV")
    parser.add_argument("--parquet", type=Path, metavar="F", help="write all points as Apache Parquet")
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write all points as JSON; /dev/stdout: in place of the text"
    )


def sweep(arguments: argparse.Namespace) -> int:
    """Run a sweep; what was measured is kept whatever happens."""
    import tempfile

    from accelsim.config.sweep import load_sweep
    from accelsim.explore.store import Store
    from accelsim.explore.sweep import Sweep
    from accelsim.files import check_file, check_folder, is_standard_output, write_json, write_whole
    from accelsim.report.sweep import show_sweep, sweep_csv, sweep_json, sweep_parquet

    workers = _workers(arguments)
    for path in (arguments.csv, arguments.parquet, arguments.json):
        if path is not None and not is_standard_output(path):
            check_file(path)
    file = load_sweep(arguments.file)
    place = Path("results") / "sweeps.db" if arguments.store is None else arguments.store
    if arguments.resume and not place.exists():
        raise InputError(f"--resume: there is no store {place}; leave --resume out to begin")
    if arguments.store is None:
        check_folder(place.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
    with Store(place) as store, tempfile.TemporaryDirectory(prefix="accelsim-") as scratch, _Bar() as progress:
        if arguments.resume and not store.has_sweep(file):
            raise InputError(
                f"--resume: {place} holds no sweep as {arguments.file} now says; leave --resume out to begin"
            )
        run = Sweep(
            file,
            store,
            Path(scratch),
            origin=arguments.file,
            data=arguments.data,
            workers=workers,
            retry_failed=arguments.retry_failed,
            progress=progress,
        )
        try:
            rows = run.run()
        except KeyboardInterrupt:
            left = run.progress.total - run.progress.known - run.progress.measured - run.progress.excluded
            print(
                f"accelsim: interrupted with {left:,} of {run.progress.total:,} points left; {place} keeps the others: "
                "repeat the command to go on",
                file=sys.stderr,
            )
            return 130
    reasons = {row.reason for row in rows if row.status == "infeasible"}
    if len(reasons) == 1 and all(row.status == "infeasible" for row in rows):
        (reason,) = reasons
        if reason is not None and not reason.startswith("constraint not met"):  # a mistake, not a corner of a grid
            raise InputError(f"{arguments.file}: no point can be measured: {reason}")
    if arguments.csv is not None:
        write_whole(arguments.csv, sweep_csv(rows))
    if arguments.parquet is not None:
        write_whole(arguments.parquet, sweep_parquet(rows))
    if arguments.json is not None:
        write_json(arguments.json, sweep_json(file, rows))
        if is_standard_output(arguments.json):
            return 0
    if run.progress.known:
        print(f"accelsim: {run.progress.known:,} points were in {place} already", file=sys.stderr)
    print(show_sweep(file, rows))
    return 1 if any(row.status == "failed" for row in rows) else 0


def _workers(arguments: argparse.Namespace) -> Workers:
    from accelsim.explore.workers import PATIENCE_SECONDS, Cluster, Here, Processes

    if arguments.scheduler is not None:
        if not re.fullmatch(r"(tcp|tls|ws|wss|ucx|inproc)://\S+", arguments.scheduler):
            raise InputError(f"--scheduler {arguments.scheduler}: is no address; write tcp://HOST:PORT")
        patience = PATIENCE_SECONDS if arguments.patience is None else arguments.patience
        if not 0 < patience <= 86400:
            raise InputError(f"--patience {patience:g}: must be above 0 and at most 86400 seconds")
        return Cluster(arguments.scheduler, patience)
    if arguments.patience is not None:
        raise InputError(f"--patience {arguments.patience:g}: needs --scheduler; leave it out")
    jobs = positive("--jobs", arguments.jobs)
    return Here() if jobs == 1 else Processes(jobs)


class _Bar:
    """A progress bar with rate, remaining time and the best point on a terminal, and nothing in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        return self._update if sys.stderr.isatty() else lambda _: None

    def _update(self, progress: Progress) -> None:
        from tqdm import tqdm

        ended = progress.known + progress.measured + progress.excluded
        if self._bar is None:
            # What was there at the start took no time, and says nothing of the rate.
            self._bar = tqdm(total=progress.total, initial=ended, unit="point", leave=False)
        self._bar.set_postfix_str(progress.best or "", refresh=False)
        self._bar.update(ended - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
