"""Where points are measured: in this process, in others on this machine, or on a Dask cluster.

All three give the same answers, in any order; who asks puts them in order again.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from accelsim.errors import InputError, optional
from accelsim.explore.bench import Answer, Prepared, Task, answer
from accelsim.explore.parts import code_digest

MOST_BREAKS = 3
"""A point in whose measurement so many worker processes died is failed; one that only ran beside a culprit is not."""
PATIENCE_SECONDS = 60.0
"""How long a cluster may be away at the start, or without a worker."""


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
                    with _no_interrupt():
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


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Let Ctrl-C wait while a process may be started, which inherits that and so dies of no Ctrl-C while it imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End when the sweep is killed: a process that waits for work would wait forever."""
    import multiprocessing
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
    """A Dask cluster, by its scheduler's address: tcp://HOST:PORT.

    A workload travels as the result of a task of its own, not as data put on one worker: the scheduler makes it again
    when a worker that holds it dies, and no worker needs the user's files.
    """

    def __init__(self, address: str, patience: float = PATIENCE_SECONDS):
        """Name a cluster; nothing is connected yet.

        Args:
            patience: seconds that the scheduler may be away at the start, and that there may be no worker.
        """
        self.address = address
        self.patience = patience

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Keep twice as many jobs under way as there are threads.

        Raises:
            InputError: no scheduler answers in time, it went away, it has had no worker for too long, or a worker runs
                another accelsim; answers that came are the caller's.
        """
        distributed = optional("distributed", "clusters", "dask")

        _hush()
        try:
            client = distributed.Client(self.address, timeout=self.patience, set_as_default=False)
        except (TimeoutError, OSError, ValueError) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"--scheduler {self.address}: no scheduler answers ({told}); start one with `dask scheduler`, or use "
                "--jobs"
            ) from None
        try:
            yield from _Sending(self, client).run(jobs)
        finally:
            # What is under way is not wanted any more; a scheduler that is gone cannot be told.
            with contextlib.suppress(Exception):
                client.close(timeout=2)


class _Sending:
    """One sweep's jobs on one connection."""

    def __init__(self, cluster: Cluster, client: Any):
        self.cluster = cluster
        self.client = client
        self.code = code_digest()
        self._workloads: dict[Path, Any] = {}
        self._running: dict[Any, Job] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._well = time.monotonic()
        self._asked = -math.inf
        self._threads = 0

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """As `Cluster.run`."""
        waiting = iter(jobs)
        suspects: list[Job] = []
        tried: Job | None = None
        while True:
            for job in islice(waiting, max(2 * max(self._look(), 1) - len(self._running), 0)):
                self._submit(job)
            if not self._running:
                if not suspects:
                    return
                tried = suspects.pop()  # alone: its workers may have died of what ran beside it
                self._submit(tried, "-alone")
            try:
                future = self._ended.get(timeout=0.5)
            except queue.Empty:
                continue
            job = self._running.pop(future)
            answer = self._result(future, job)
            if answer is not None:
                yield answer
            elif job is tried:
                reason = "every worker that measured it was killed; is memory short?"
                yield Answer(job.task.key, "failed", {}, reason, 0.0)
            else:
                suspects.append(job)

    def _submit(self, job: Job, suffix: str = "") -> None:
        # The suffix makes another task of it: one that is known to have failed is not tried again.
        workload = self._workloads.get(job.folder)
        if workload is None or workload.status == "error":
            key = f"accelsim-workload-{job.folder.name}-{self.code.hex()[:16]}{suffix}"
            workload = self._workloads[job.folder] = self.client.submit(_same, job.prepared, key=key)
        key = f"accelsim-point-{job.task.key}{suffix}"
        future = self.client.submit(_work_there, job.task, workload, self.code, key=key)
        self._running[future] = job
        future.add_done_callback(self._ended.put)

    def _result(self, future: Any, job: Job) -> Answer | None:
        """What came of a job; None where the workers that had it died."""
        import distributed

        if future.status == "cancelled":
            raise self._lost()
        try:
            answer: Answer = future.result(timeout=self.cluster.patience)
        except distributed.scheduler.KilledWorker:
            return None
        except TimeoutError:
            raise self._no_worker() from None
        except (CancelledError, distributed.client.FutureCancelledError):
            raise self._lost() from None
        except Exception as error:  # `answer` raises nothing: the worker could not even begin
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise InputError(
                f"--scheduler {self.cluster.address}: a worker cannot measure ({told}); install this accelsim, with "
                "its extra sweep, on every worker"
            ) from None
        return answer

    def _look(self) -> int:
        """Threads of all workers, looked up once a second.

        Raises:
            InputError: there has been none for too long, or the scheduler is gone.
        """
        now = time.monotonic()
        if now - self._asked < 1:
            return self._threads
        self._asked = now
        if self.client.status != "running":
            raise self._lost()
        try:
            found = self.client.sync(self.client.scheduler.ncores, callback_timeout=5)
        except (OSError, TimeoutError, CancelledError):
            found = {}  # slow, or gone: then the status says so a second later
        self._threads = sum(found.values())
        if self._threads:
            self._well = now
        elif now - self._well > self.cluster.patience:
            raise self._no_worker()
        return self._threads

    def _no_worker(self) -> InputError:
        return InputError(
            f"--scheduler {self.cluster.address}: there has been no worker for {self.cluster.patience:g} seconds; "
            "every finished point is kept: start workers with `dask worker` and repeat the command"
        )

    def _lost(self) -> InputError:
        return InputError(
            f"--scheduler {self.cluster.address}: the scheduler was lost; every finished point is kept: start it and "
            "repeat the command"
        )


def _same(prepared: Prepared) -> Prepared:
    return prepared


def _work_there(task: Task, prepared: Prepared, code: bytes) -> Answer:
    """Measure on another machine, which must run the same code."""
    if _own_code() != code:
        raise InputError("its accelsim has other code than the sweep's")
    return answer(task, prepared)


@lru_cache(maxsize=1)
def _own_code() -> bytes:
    return code_digest()


def _hush() -> None:
    """Keep Dask's own messages off the terminal: what matters of them is said in one line."""
    import logging

    for name in ("distributed", "tornado", "asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
