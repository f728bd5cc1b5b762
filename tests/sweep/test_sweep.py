"""Sweeps as a whole: every row against a direct run, whoever measured it and however often it was interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from accelsim.accounting import cost
from accelsim.config import load_hardware, load_quantization
from accelsim.config.sweep import load_sweep
from accelsim.energy import load_energy
from accelsim.errors import InputError
from accelsim.explore.pareto import hypervolume
from accelsim.explore.store import Store
from accelsim.explore.sweep import Row, Sweep
from accelsim.explore.workers import Processes
from accelsim.pipeline import evaluate
from accelsim.sources import find_workload, load_images

RUN = [sys.executable, "-c", "import sys; from accelsim.cli import main; sys.exit(main())"]

SMALL = """
title = "rows and accumulators"
workload = "{workload}"
measure = ["cycles", "layers", "energy"]
constraints = ["hardware.array.rows + hardware.array.columns <= 20", "cycles < 60000"]
[axes]
"hardware.array.rows" = [1, 8, 16]
"hardware.array.columns" = [4, 8]
"hardware.accumulator.width_bits" = [16, 24]
"hardware.activation.memory_bytes" = [256, 65536]
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """A quantised network on the disk, so that a sweep of it needs no torch."""
    folder = tmp_path_factory.mktemp("graph")
    find_workload("lenet5_digits", quantization=load_quantization("int8")).graph.save(folder)
    return folder


def write(tmp_path: Path, text: str, **fields: object) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(text.format(**fields))
    return path


def run(path: Path, store: Path, tmp_path: Path, **options: object) -> tuple[list[Row], Sweep]:
    with Store(store) as opened:
        sweep = Sweep(load_sweep(path), opened, tmp_path / "scratch", origin="small.toml", **options)
        return sweep.run(), sweep


@pytest.fixture(scope="module")
def small(graph, tmp_path_factory) -> tuple[Path, Path, list[Row]]:
    folder = tmp_path_factory.mktemp("small")
    path = write(folder, SMALL, workload=graph)
    rows, _ = run(path, folder / "s.db", folder)
    return path, folder / "s.db", rows


def test_rows_are_direct_runs_of_their_points(small, graph):
    _, _, rows = small
    from accelsim.ir import load_graph

    network, table = load_graph(graph), load_energy("horowitz_45nm")
    assert [row.position for row in rows] == list(range(24))
    done = [row for row in rows if row.status == "done"]
    assert len(done) >= 4
    for row in done:
        sets = [f"{key.removeprefix('hardware.')}={value}" for key, value in row.setting.items()]
        found = cost(network, load_hardware("default_16x16", sets), table)
        assert row.figures["cycles"] == found.cycles
        assert {name: row.figures[f"cycles.{name}"] for name in found.layers} == found.layers
        assert row.figures["energy"] == pytest.approx(float(found.energy.energy), rel=1e-12)
        assert sum(value for name, value in row.figures.items() if name.startswith("energy.")) == pytest.approx(
            row.figures["energy"], rel=1e-9
        )


def test_every_point_without_figures_says_why(small):
    _, _, rows = small
    for row in rows:
        setting = row.setting
        if setting["hardware.array.rows"] + setting["hardware.array.columns"] > 20:
            assert row.reason.startswith("constraint not met: hardware.array.rows")
        elif setting["hardware.activation.memory_bytes"] == 256:
            assert "need" in row.reason
            assert "activation buffer" in row.reason
        elif row.status != "done":
            assert row.reason == "constraint not met: cycles < 60000"
            assert row.figures["cycles"] >= 60000
        assert (row.status == "done") == (row.reason is None)
    assert {row.status for row in rows} == {"done", "infeasible"}


def test_a_second_run_measures_nothing_and_another_sweep_takes_what_is_there(small, tmp_path, graph):
    path, store, rows = small
    again, sweep = run(path, store, tmp_path)
    assert again == rows
    assert sweep.progress.measured == 0
    fewer = write(tmp_path, SMALL.replace('"small"', '"fewer"').replace("[1, 8, 16]", "[4, 8]"), workload=graph)
    _, sweep = run(fewer, store, tmp_path)
    assert sweep.progress.known == 8  # those of 8 rows
    assert sweep.progress.measured == 8
    with sqlite3.connect(store) as database:
        (points,) = database.execute("SELECT count(*) FROM points").fetchone()
    assert points == sum("constraint not met: hardware" not in (row.reason or "") for row in rows) + 8


def test_processes_give_the_same_rows(small, tmp_path):
    path, _, rows = small
    assert run(path, tmp_path / "p.db", tmp_path, workers=Processes(2))[0] == rows


def test_a_worker_that_is_killed_costs_no_point(small, tmp_path, monkeypatch):
    path, _, rows = small
    killed = []

    def murder(progress):
        if progress.measured in (1, 3) and progress.measured not in killed:
            killed.append(progress.measured)
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            victims = [pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(victims[0], signal.SIGKILL)

    found, _ = run(path, tmp_path / "k.db", tmp_path, workers=Processes(2), progress=murder)
    assert killed
    assert found == rows


def test_accuracy_and_safe_width_are_those_of_the_other_commands(tmp_path):
    path = write(
        tmp_path,
        """
        workload = "lenet5_digits"
        measure = ["accuracy", "safe_width", "area"]
        images = 40
        constraints = ["accuracy >= float - 30", "safe_width > 8"]
        [axes]
        "hardware.accumulator.width_bits" = [12, 20]
        quantization = ["coursework"]
        """,
    )
    rows, _ = run(path, tmp_path / "s.db", tmp_path)
    source = find_workload("lenet5_digits", quantization=load_quantization("coursework"))
    images = load_images(source, None, 40)
    for row in rows:
        width = row.setting["hardware.accumulator.width_bits"]
        hardware = load_hardware("default_16x16", [f"accumulator.width_bits={width}"])
        expected = evaluate(source.graph, images.images, images.labels, hardware).accuracy
        assert row.figures["accuracy"] == pytest.approx(100 * expected)
    assert rows[0].figures["accuracy"] < rows[1].figures["accuracy"]
    assert rows[0].figures["area"] < rows[1].figures["area"]
    assert rows[1].figures["safe_width"] <= rows[1].figures["proved_width"]
    wide = load_hardware("default_16x16", [f"accumulator.width_bits={rows[1].figures['safe_width']}"])
    exact = evaluate(source.graph, images.images, images.labels, load_hardware("default_16x16"))
    assert (evaluate(source.graph, images.images, images.labels, wide).predictions == exact.predictions).all()


def test_figures_the_sweep_does_not_measure_are_refused(tmp_path, graph):
    path = write(tmp_path, SMALL.replace("cycles < 60000", "accuracy > 3"), workload=graph)
    with pytest.raises(InputError, match="'accuracy' is neither an axis nor measured here"):
        run(path, tmp_path / "s.db", tmp_path)


def test_a_defect_at_one_point_is_a_row_and_can_be_tried_again(small, tmp_path, monkeypatch):
    path, _, rows = small
    from accelsim.explore import bench

    real = bench.measure

    def broken(prepared, hardware, *rest):
        if hardware.array.rows == 8:
            raise RuntimeError("a defect\nin two lines")
        return real(prepared, hardware, *rest)

    monkeypatch.setattr(bench, "measure", broken)
    found, _ = run(path, tmp_path / "s.db", tmp_path)
    failed = [row for row in found if row.status == "failed"]
    assert failed
    assert all(row.reason == "RuntimeError: a defect in two lines" for row in failed)
    monkeypatch.setattr(bench, "measure", real)
    assert run(path, tmp_path / "s.db", tmp_path)[0] == found, "a failure is an answer"
    assert run(path, tmp_path / "s.db", tmp_path, retry_failed=True)[0] == rows


SEARCH = """
workload = "{workload}"
measure = ["cycles", "area"]
[axes]
"hardware.array.rows" = [4, 8, 16, 32]
"hardware.array.columns" = [4, 8, 16, 32]
[search]
objectives = ["min cycles", "min area"]
evaluations = {evaluations}
sampler = "{sampler}"
"""


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_does_not_depend_on_workers_and_goes_on_where_it_was(tmp_path, graph, sampler):
    path = write(tmp_path, SEARCH, workload=graph, evaluations=10, sampler=sampler)
    rows, _ = run(path, tmp_path / "a.db", tmp_path)
    assert len({tuple(row.setting.values()) for row in rows}) == len(rows) == 10, "a point was proposed twice"
    assert run(path, tmp_path / "b.db", tmp_path, workers=Processes(2))[0] == rows
    again, sweep = run(path, tmp_path / "a.db", tmp_path)
    assert again == rows
    assert sweep.progress.measured == 0


def test_a_search_of_a_small_space_ends_when_it_is_used_up(tmp_path, graph):
    path = write(tmp_path, SEARCH.replace(", 16, 32]", "]"), workload=graph, evaluations=50, sampler="tpe")
    rows, _ = run(path, tmp_path / "s.db", tmp_path)
    assert len(rows) == 4


STUDY = """
workload = "{workload}"
measure = ["cycles", "energy", "area"]
[axes]
"hardware.accumulator.width_bits" = {{ from = 12, to = 26, step = 2 }}
"hardware.array.rows, hardware.array.columns" = [
    [4, 4], [8, 8], [8, 16], [16, 8], [16, 16], [8, 32], [32, 8], [12, 12], [32, 32], [64, 64], [16, 32], [32, 16],
]
[derived]
"hardware.accumulator.memory_bytes" = "1024 * hardware.array.columns"
"hardware.weight.memory_bytes" = "max(4096, 64 * hardware.array.rows * hardware.array.columns)"
"""
OBJECTIVES = ("cycles", "energy", "area")


def test_a_search_finds_the_grids_front_with_a_fifth_of_its_points(tmp_path, graph):
    """Five seeds on 96 points; benchmarks/sweep.py has the study of 336."""
    store = tmp_path / "s.db"
    grid, _ = run(write(tmp_path, STUDY, workload=graph), store, tmp_path)
    assert len(grid) == 96
    count = len(grid) // 5
    everything = scaled(grid, grid)
    whole = hypervolume(everything, [1.1] * 3)
    shares = []
    for seed in range(5):
        said = (
            f'[search]\nobjectives = ["min cycles", "min energy", "min area"]\nevaluations = {count}\nseed = {seed}\n'
        )
        rows, sweep = run(write(tmp_path, STUDY + said, workload=graph), store, tmp_path)
        assert len(rows) == len({row.key for row in rows}) == count
        assert sweep.progress.measured == 0, "a search measured again what the grid had"
        shares.append(hypervolume(scaled(rows, grid), [1.1] * 3) / whole)
    chance = np.random.default_rng(0)
    drawn = [hypervolume(chance.permutation(everything)[:count], [1.1] * 3) / whole for _ in range(50)]
    assert median(shares) >= 0.95, shares
    assert median(shares) > median(drawn), (shares, median(drawn))


def scaled(rows: list[Row], grid: list[Row]) -> np.ndarray:
    """Objectives of feasible rows, 0 being the grid's best and 1 its worst."""
    of = [np.array([[row.figures[name] for name in OBJECTIVES] for row in some]) for some in (rows, grid)]
    return (of[0] - of[1].min(axis=0)) / np.ptp(of[1], axis=0)


# The command --------------------------------------------------------------------------------------------------------


def command(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, "sweep", *map(str, words)], capture_output=True, text=True, **options)


def test_the_command_writes_what_it_shows(small, tmp_path):
    import pandas

    path, store, rows = small
    files = {kind: tmp_path / f"all.{kind}" for kind in ("csv", "parquet", "json")}
    ran = command(path, "-o", store, *(word for kind, file in files.items() for word in (f"--{kind}", file)))
    assert ran.returncode == 0, ran.stderr
    assert "small: rows and accumulators\n24 points: " in ran.stdout
    assert "were in" in ran.stderr
    table, columns = pandas.read_csv(files["csv"]), pandas.read_parquet(files["parquet"])
    assert list(table.columns) == list(columns.columns)
    for row, one, other in zip(rows, table.itertuples(), columns.itertuples(), strict=True):
        assert (one.status, one.hash) == (other.status, other.hash) == (row.status, row.key)
        if row.figures:
            assert one.cycles == other.cycles == row.figures["cycles"]
    points = json.loads(files["json"].read_text())["points"]
    assert [point["figures"] for point in points] == [row.figures for row in rows]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('workload = "{workload}"', 'workload = "lenet55"', "no point can be measured: workload 'lenet55' is neither"),
        ('"cycles < 60000"', '"cycles"', "neither true nor false; compare it, as in 'area <= 200000'"),
    ],
)
def test_a_mistake_that_holds_for_every_point_is_one_line(tmp_path, graph, old, new, message):
    assert old in SMALL
    early = '"hardware.array.rows + hardware.array.columns <= 20", '
    path = write(tmp_path, SMALL.replace(old, new).replace(early, ""), workload=graph)
    ran = command(path, "-o", tmp_path / "s.db")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--scheduler", "localhost:1"], "--scheduler localhost:1: is no address; write tcp://HOST:PORT"),
        (["--resume", "-o", "no.db"], "--resume: there is no store no.db"),
        (["--csv", "no/where.csv"], "no/where.csv: there is no folder no"),
        (["-o", "no/where.db"], "no/where.db: there is no folder no"),
    ],
)
def test_bad_options_are_one_line(small, tmp_path, words, message):
    ran = command(small[0], *words, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"accelsim: error: {message}")
    assert ran.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_resume_refuses_to_begin(small, tmp_path, graph):
    other = write(tmp_path, SMALL.replace("[16, 24]", "[16, 23]"), workload=graph)
    ran = command(other, "-o", small[1], "--resume")
    assert ran.returncode == 2
    assert "holds no sweep as" in ran.stderr
    assert command(small[0], "-o", small[1], "--resume").returncode == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_control_c_keeps_what_is_done_and_leaves_no_process(tmp_path, graph, jobs):
    axes = SMALL.replace("[16, 24]", "{{ from = 12, to = 40, step = 1 }}")
    path = write(tmp_path, axes, workload=graph)
    store = tmp_path / "s.db"
    command = [*RUN, "sweep", str(path), "-o", str(store), "--jobs", str(jobs)]
    started = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in background
    )
    wait_for_points(store, 3)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, told = started.communicate(timeout=60)
    assert (started.returncode, told.count("\n")) == (130, 1), told
    assert "interrupted with" in told
    assert "repeat the command to go on" in told
    deadline = time.monotonic() + 30
    while left := session(started.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def session(leader: int) -> list[str]:
    """The processes of a session that have not ended."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, number = place.read_text().rpartition(")")[2].split()[:4]
            if int(number) == leader and state != "Z":
                found.append(place.parent.name)
    return found


def test_a_terminal_sees_rate_remaining_time_and_the_best_point(small, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    command = [*RUN, "sweep", str(small[0]), "-o", str(tmp_path / "s.db")]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end was closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert started.wait() == 0
    best = min(row.figures["cycles"] for row in small[2] if row.status == "done")
    bars = re.findall(r"(\d+)/24 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(?:point/s|s/point)(.*?)\]", shown.decode())
    assert len(bars) > 2, shown
    assert any(f"min cycles {best:,} at point" in told for _, told in bars), shown
    assert [int(ended) for ended, _ in bars] == sorted(int(ended) for ended, _ in bars)


def test_a_pipe_sees_no_bar(small, tmp_path):
    ran = command(small[0], "-o", tmp_path / "s.db")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_two_sweeps_at_once_on_one_store(small, tmp_path):
    path, _, rows = small
    store, files = tmp_path / "s.db", [tmp_path / "a.json", tmp_path / "b.json"]
    started = [
        subprocess.Popen([*RUN, "sweep", str(path), "-o", str(store), "--json", str(file)], stdout=subprocess.DEVNULL)
        for file in files
    ]
    assert [one.wait(timeout=300) for one in started] == [0, 0]
    first, second = (json.loads(file.read_text())["points"] for file in files)
    assert first == second
    assert [point["figures"] for point in first] == [row.figures for row in rows]


def test_a_full_disk_is_one_line_and_rows_stay(small, tmp_path):
    """On a file system of its own, of 80 KB."""
    path, _, rows = small
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        ran = command(path, "-o", disk / "s.db")
        assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
        assert "free some space and repeat the command: every finished point is kept" in ran.stderr
        assert ran.stderr.count("\n") == 1
        with contextlib.closing(sqlite3.connect(disk / "s.db")) as database:
            before = database.execute("SELECT hash, seconds FROM points").fetchall()
        assert 0 < len(before) < sum(bool(row.figures) for row in rows)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert run(path, disk / "s.db", tmp_path)[0] == rows
        with contextlib.closing(sqlite3.connect(disk / "s.db")) as database:
            assert set(before) <= set(database.execute("SELECT hash, seconds FROM points").fetchall())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_damaged_store_is_one_line(small, tmp_path):
    store = tmp_path / "s.db"
    store.write_bytes(small[1].read_bytes()[:8192] + b"\x2a" * 8192)
    before = store.read_bytes()
    ran = command(small[0], "-o", store)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran.stderr
    assert store.read_bytes() == before


def count_points(store: Path) -> int:
    if not store.exists():
        return 0
    # Not read-only: what a killed writer left half done has to be rolled back first.
    with closing(sqlite3.connect(f"file:{store}?mode=rw", uri=True, timeout=60)) as database:
        if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'points'").fetchone()[0]:
            return 0
        return int(database.execute("SELECT count(*) FROM points").fetchone()[0])


def wait_for_points(store: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while count_points(store) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
