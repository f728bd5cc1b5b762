"""Sweeps on a real Dask cluster of one scheduler and two workers, and 20 kills of whatever takes part in one."""

from __future__ import annotations

import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from local_cluster import LocalCluster

from accelsim.config import load_quantization
from accelsim.config.sweep import load_sweep
from accelsim.errors import InputError
from accelsim.explore import workers as module
from accelsim.explore.store import Store
from accelsim.explore.sweep import Row, Sweep
from accelsim.explore.workers import Cluster
from accelsim.sources import find_workload

pytest.importorskip("distributed")

POINTS = """
workload = "{workload}"
measure = ["cycles", "energy"]
[axes]
"hardware.array.rows" = [4, 8, 16]
"hardware.array.columns" = [8, 16]
"hardware.accumulator.width_bits" = [12, 16, 20, 24, 28]
"hardware.activation.memory_bytes" = [256, 65536]
"""

LOGGED = """
import sys
from accelsim.explore import workers
answer = workers.answer
def logged(task, prepared):
    with open(PLACE, "a") as log:
        log.write(task.key + "\\n")
    return answer(task, prepared)
workers.answer = logged
from accelsim.cli import main
PLACE = sys.argv.pop(1)
sys.exit(main())
"""
"""The command, which tells each point that it begins to measure in its own process."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    find_workload("lenet5_digits", quantization=load_quantization("int8")).graph.save(folder)
    return folder


@pytest.fixture(scope="module")
def sixty(graph, tmp_path_factory) -> tuple[Path, list[Row]]:
    """A sweep of 60 points and its uninterrupted table."""
    folder = tmp_path_factory.mktemp("sixty")
    path = folder / "sixty.toml"
    path.write_text(POINTS.format(workload=graph))
    rows, _ = run(path, folder / "s.db", folder)
    assert len(rows) == 60
    assert {row.status for row in rows} == {"done", "infeasible"}
    return path, rows


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with LocalCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def run(path: Path, store: Path, tmp_path: Path, **options: object) -> tuple[list[Row], Sweep]:
    with Store(store) as opened:
        sweep = Sweep(load_sweep(path), opened, tmp_path / "scratch", origin=path.name, **options)
        return sweep.run(), sweep


def command(*words: object, log: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOGGED, str(log), "sweep", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in background
        **options,
    )


def kept(store: Path) -> set[str]:
    """Hashes of the points that are in a store."""
    if not store.exists():
        return set()
    # Not read-only: what a killed writer left half done has to be rolled back first.
    with closing(sqlite3.connect(f"file:{store}?mode=rw", uri=True, timeout=60)) as database:
        if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'points'").fetchone()[0]:
            return set()
        return {name for (name,) in database.execute("SELECT hash FROM points")}


def test_workers_elsewhere_give_the_same_rows_without_the_users_files(sixty, cluster, tmp_path):
    path, rows = sixty
    found, sweep = run(path, tmp_path / "s.db", tmp_path, workers=Cluster(cluster.address))
    assert found == rows
    begun = cluster.begun()
    assert sorted(begun) == sorted({row.key for row in rows}), "a point was measured twice, or here"
    assert sweep.progress.measured == 60
    again, sweep = run(path, tmp_path / "s.db", tmp_path, workers=Cluster("tcp://127.0.0.1:1", 1))
    assert again == rows, "a sweep of known points needs no cluster"


def test_workers_with_other_code_are_refused(sixty, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_digest", lambda: b"other")
    with pytest.raises(InputError, match=r"a worker cannot measure .*other code.*install this accelsim"):
        run(sixty[0], tmp_path / "s.db", tmp_path, workers=Cluster(cluster.address))
    assert kept(tmp_path / "s.db") == set(), "a worker's fault became a row"


def test_control_c_leaves_no_task_on_the_cluster(sixty, cluster, tmp_path):
    import distributed

    store = tmp_path / "s.db"
    started = command(sixty[0], "-o", store, "--scheduler", cluster.address, log=tmp_path / "log")
    while not kept(store) and started.poll() is None:
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=120)
    assert (started.returncode, told.count("\n")) == (130, 1), told
    assert "repeat the command to go on" in told
    with distributed.Client(cluster.address, set_as_default=False) as client:
        deadline = time.monotonic() + 30
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_no_scheduler_is_one_line_in_the_stated_time(sixty, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(InputError, match=f"--scheduler {address}: no scheduler answers") as caught:
            run(sixty[0], tmp_path / "s.db", tmp_path, workers=Cluster(address, patience=1))
        assert time.monotonic() - began < 30
        assert "\n" not in str(caught.value)
        started = command(sixty[0], "-o", tmp_path / "s.db", "--scheduler", address, "--patience", 1, log=tmp_path)
        _, told = started.communicate(timeout=120)
    assert (started.returncode, told.count("\n")) == (2, 1), told


def test_no_worker_and_a_point_that_kills_workers(sixty, tmp_path):
    path, rows = sixty
    text = path.read_text().replace("[12, 16, 20, 24, 28]", "[12]").replace("[256, 65536]", "[65536]")
    few = tmp_path / "few.toml"
    few.write_text(text.replace("[8, 16]\n", "[8]\n"))  # 3 points: 4, 8 and 16 rows
    with LocalCluster(tmp_path, workers=0, poison=8, allowed_failures=0) as cluster:
        with pytest.raises(
            InputError, match=r"there has been no worker for 0\.5 seconds; every finished point is kept"
        ):
            run(few, tmp_path / "s.db", tmp_path, workers=Cluster(cluster.address, 0.5))
        # One worker dies of it beside others, one of it alone, and the third goes on.
        cluster.workers = [cluster.worker() for _ in range(3)]
        found, _ = run(few, tmp_path / "s.db", tmp_path, workers=Cluster(cluster.address))
    by_key = {row.key: row for row in rows}
    assert [row.status for row in found] == ["done", "failed", "done"]
    assert "every worker that measured it was killed" in found[1].reason
    assert all(row.figures == by_key[row.key].figures for row in (found[0], found[2]))


KILLS = {"sweep": 8, "sweep on a cluster": 4, "worker": 4, "scheduler": 4}
IN_FLIGHT = 4
"""Points under way at most: two for each of two workers' threads."""


def test_killed_20_times_it_is_the_uninterrupted_table(sixty, tmp_path):
    """SIGKILL at random moments: of the sweep, of a Dask worker, of the scheduler; then resumed until it is whole."""
    path, rows = sixty
    moments = random.Random(8)
    victims = moments.sample(list(KILLS), counts=list(KILLS.values()), k=sum(KILLS.values()))
    kills = whole = twice = 0
    with LocalCluster(tmp_path) as cluster:
        while victims:
            store = tmp_path / f"s{whole}.db"
            victim, before, offset = victims[-1], kept(store), len(cluster.begun())
            there = [] if victim == "sweep" else ["--scheduler", cluster.address, "--patience", 10]
            started = command(path, "-o", store, *there, log=cluster.log)
            # After some points; every fifth time after some seconds, whatever it is at then.
            patience = moments.uniform(0.3, 3) if moments.random() < 0.2 else 60
            wait_for(store, len(before) + moments.randrange(1, 6), started, patience)
            time.sleep(moments.uniform(0, 0.05))
            if started.poll() is None:
                target = {"worker": cluster.workers[0], "scheduler": cluster.scheduler}.get(victim, started)
                target.kill()
                target.wait()
                kills += 1
                victims.pop()
                if victim == "worker":  # the other one takes over
                    wait_for(store, len(kept(store)) + 2, started, 60)
                    started.kill()
                    cluster.workers = [*cluster.workers[1:], cluster.worker()]
            _, told = started.communicate(timeout=300)
            if victim == "scheduler" and started.returncode == 2:
                assert told.startswith(f"accelsim: error: --scheduler {cluster.address}: ")
                assert told.count("\n") == 1, told
                cluster.restart()
            begun = cluster.begun()[offset:]
            assert not before & set(begun), "a finished point was measured again"
            assert before <= kept(store), "a point was lost"
            twice += len(begun) - len(kept(store) - before)
            if started.returncode == 0:  # it was whole before its turn came
                whole += 1
                assert run(path, store, tmp_path)[0] == rows
        found, _ = run(path, store, tmp_path)
    assert found == rows
    assert kills == 20
    assert twice <= IN_FLIGHT * kills


def wait_for(store: Path, count: int, started: subprocess.Popen[str], seconds: float) -> None:
    """Until a store holds so many points, the command has ended or the time is up."""
    deadline = time.monotonic() + seconds
    while len(kept(store)) < count and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
