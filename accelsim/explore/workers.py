"""Where points are measured: in this process, in others on this machine, or on a Dask cluster.

All three give the same answers, in any order; who asks puts them in order again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from accelsim.errors import InputError
from accelsim.explore.bench import Answer, Prepared, Task, answer

MOST_BREAKS = 3
"""A point in whose measurement so many worker processes died is failed; one that only ran beside a culprit is not."""
PATIENCE_SECONDS = 60.0
"""How long a cluster may be away, or without a worker."""


@dataclass(frozen=True, eq=False)
class Job:
    """A task and the workload it is about.

    Attributes:
        prepared: in this process.
        folder: the same on the disk.
    """

    task: Task
    prepared: Prepared
    folder: Path


class Workers(Protocol):
    """Takes jobs and gives answers."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Measure every job; answers come in any order. Closing the iterator stops what is under way."""


class Here:
    """One job after the other, in this process."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Measure in the order given."""
        for job in jobs:
            yield answer(job.task, job.prepared)


class Processes:
    """Several processes on this machine."""

    def __init__(self, count: int):
        self.count = count

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Keep every process busy; start them anew where one was killed."""
        waiting = iter(jobs)
        again: list[Job] = []
        breaks: dict[str, int] = {}
        pool = self._pool()
        running: dict[Future[Answer], Job] = {}
        try:
            while True:
                # After a death, what was under way is tried alone, so that the guilty one is known.
                limit = 1 if again else 2 * self.count
                while len(running) < limit:
                    job = again.pop() if again else next(waiting, None)
                    if job is None:
                        break
                    running[pool.submit(_work, job.task, str(job.folder))] = job
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        lost = [job, *running.values()]
                        running.clear()
                        pool.shutdown(wait=False)
                        pool = self._pool()
                        for one in lost:
                            breaks[one.task.key] = breaks.get(one.task.key, 0) + 1
                            if breaks[one.task.key] < MOST_BREAKS:
                                again.append(one)
                            else:
                                reason = f"{MOST_BREAKS} processes that measured it were killed; is memory short?"
                                yield Answer(one.task.key, "failed", {}, reason, 0.0)
                        break
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()

    def _pool(self) -> ProcessPoolExecutor:
        import multiprocessing

        # Neither torch nor Numba's threads survive a fork.
        return ProcessPoolExecutor(self.count, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End when the sweep is killed: a process that waits for work would wait forever."""
    import multiprocessing
    import signal
    from multiprocessing.connection import wait as wait_for

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which stops us
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


@lru_cache(maxsize=8)
def _loaded(folder: str, float_percent: float | None) -> Prepared:
    return Prepared.load(Path(folder), float_percent)


def _work(task: Task, folder: str) -> Answer:
    return answer(task, _loaded(folder, task.float_percent))


class Cluster:
    """A Dask cluster, by its scheduler's address: tcp://HOST:PORT."""

    def __init__(self, address: str):
        self.address = address

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Keep twice as many jobs under way as there are threads.

        Raises:
            InputError: no scheduler answers, or it has no worker, for a minute; answers that came are the caller's.
        """

        import distributed

        try:
            client = distributed.Client(self.address, timeout=PATIENCE_SECONDS, set_as_default=False)
        except (TimeoutError, OSError, ValueError) as error:
            raise InputError(
                f"--scheduler {self.address}: no scheduler answers ({str(error) or type(error).__name__}); "
                "start one with `dask scheduler`, or use --jobs"
            ) from None
        try:
            yield from self._run(client, jobs)
        finally:
            client.close(timeout=2)

    def _run(self, client: Any, jobs: Iterable[Job]) -> Iterator[Answer]:
        import distributed

        waiting = iter(jobs)
        sent: dict[int, Any] = {}
        running: dict[Any, Job] = {}
        watch = _Watch(self.address)
        exhausted = False
        while True:
            threads = watch.threads(client)
            while not exhausted and len(running) < 2 * max(threads, 1):
                job = next(waiting, None)
                if job is None:
                    exhausted = True
                    break
                identity = id(job.prepared)
                if identity not in sent:  # once for all points that share it; kept alive by the job
                    sent[identity] = (client.scatter(job.prepared, hash=False), job.prepared)
                running[client.submit(answer, job.task, sent[identity][0], key=job.task.key, pure=True)] = job
            if not running:
                return
            try:
                finished = distributed.wait(list(running), timeout=1, return_when="FIRST_COMPLETED").done
            except (TimeoutError, distributed.TimeoutError):
                continue
            for future in finished:
                job = running.pop(future)
                if future.status == "finished":
                    yield future.result()
                elif future.status == "error":
                    error = future.exception()
                    yield Answer(job.task.key, "failed", {}, f"{type(error).__name__}: {error}"[:500], 0.0)
                else:  # lost with the scheduler: the watch gives up when it does not come back
                    watch.lost()


class _Watch:
    """Looks whether the cluster is still there."""

    def __init__(self, address: str):
        self.address = address
        self._well = time.monotonic()

    def threads(self, client: Any) -> int:
        """Threads of all workers now.

        Raises:
            InputError: there was none, or no scheduler, for too long.
        """
        try:
            workers = client.scheduler_info(n_workers=-1)["workers"].values() if client.status == "running" else ()
        except OSError:
            workers = ()
        total = sum(worker["nthreads"] for worker in workers)
        if total:
            self._well = time.monotonic()
        elif time.monotonic() - self._well > PATIENCE_SECONDS:
            raise InputError(
                f"--scheduler {self.address}: no scheduler or no worker for {PATIENCE_SECONDS:.0f} seconds; every "
                "finished point is kept: start them and repeat the command"
            )
        return total

    def lost(self) -> None:
        """Raises: InputError, because results under way are gone."""
        raise InputError(
            f"--scheduler {self.address}: the scheduler was lost; every finished point is kept: start it and repeat "
            "the command"
        )
