"""A real Dask cluster on loopback: a scheduler and workers as processes of their own, on ports that are free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PRELOAD = """
import os
from accelsim.explore import bench, workers

answer = getattr(workers.answer, "real", workers.answer)

def logged(task, prepared):
    with open({log!r}, "a") as log:
        log.write(task.key + "\\n")
    if task.hardware["array"]["rows"] == {poison}:
        os.kill(os.getpid(), 9)
    return answer(task, prepared)

def refuse(*_):
    raise RuntimeError("a worker must not read the user's files")

logged.real = answer  # Dask may load this file twice
workers.answer = logged
bench.Prepared.load = refuse
"""
"""Tells each point that is begun, dies of a machine with so many rows, and reads no workload from the disk."""


class LocalCluster:
    """A scheduler and its workers; all end with the block."""

    def __init__(self, folder: Path, workers: int = 2, poison: int = 0, allowed_failures: int = 3):
        self.folder, self.log = folder, folder / "begun.log"
        self.log.touch()
        self.preload = folder / "preload.py"
        self.preload.write_text(PRELOAD.format(log=str(self.log), poison=poison))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ACCELSIM_")},
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures),
            "OMP_NUM_THREADS": "1",
        }
        self._count = workers
        self._started = 0
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> LocalCluster:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                process.kill()
                process.wait()

    def start(self) -> None:
        """A scheduler on a free port, and its workers."""
        self._started += 1
        where = self.folder / f"scheduler{self._started}.json"
        self.scheduler = self._run(
            "dask_scheduler",
            "--port",
            "0",
            "--scheduler-file",
            where,
            "--no-dashboard",
            "--no-jupyter",
            "--dashboard-address",
            ":0",
        )
        deadline = time.monotonic() + 120
        while True:
            assert self.scheduler.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            try:
                self.address = json.loads(where.read_text())["address"]
                break
            except (OSError, ValueError):  # not there, or not whole
                time.sleep(0.02)
        self.workers = [self.worker() for _ in range(self._count)]

    def worker(self) -> subprocess.Popen[bytes]:
        """One more worker, of one thread, without a nanny that would start it anew."""
        words = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", self.folder)
        return self._run("dask_worker", self.address, *words, "--preload", self.preload)

    def restart(self) -> None:
        """Everything anew, on another port, after the scheduler was killed."""
        self.__exit__()
        self.start()

    def begun(self) -> list[str]:
        """Hashes of points that workers began to measure, one for each time."""
        return self.log.read_text().split()

    def told(self) -> str:
        """What its processes wrote."""
        return (self.folder / "dask.log").read_text()[-3000:]

    def _run(self, module: str, *words: object) -> subprocess.Popen[bytes]:
        with (self.folder / "dask.log").open("ab") as log:
            command = [sys.executable, "-m", f"distributed.cli.{module}", "--host", "127.0.0.1"]
            return subprocess.Popen(
                [*command, *map(str, words)], stdout=log, stderr=log, cwd=self.folder, env=self._environment
            )
