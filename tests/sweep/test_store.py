"""The store of points: nothing is lost, nothing is altered, and every damage is one line."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from accelsim.config import build
from accelsim.config.sweep import SweepFile
from accelsim.errors import InputError
from accelsim.explore import store as module
from accelsim.explore.bench import Answer
from accelsim.explore.store import MIGRATIONS, VERSION, Member, Store


def sweep_file(name: str = "one") -> SweepFile:
    return build(SweepFile, {"name": name, "measure": ["cycles"], "axes": {"batch": [1, 2]}}, "test")


def done(key: str, cycles: int = 7) -> Answer:
    return Answer(key, "done", {"cycles": cycles}, None, 0.5)


def test_points_come_back_in_the_sweeps_order(tmp_path):
    with Store(tmp_path / "s.db") as store:
        number = store.register(sweep_file())
        store.enrol(number, [Member(1, "b", {"batch": 2}), Member(0, "a", {"batch": 1}), Member(2, "c", {}, "too big")])
        store.keep(done("b"), {"batch": 2})
    with Store(tmp_path / "s.db", make=False) as store:
        assert store.rows(number) == [
            (Member(0, "a", {"batch": 1}), None),
            (Member(1, "b", {"batch": 2}), done("b")),
            (Member(2, "c", {}, "too big"), None),
        ]
        assert store.known(["a", "b"]) == {"b": done("b")}
        assert store.sweeps() == [(number, sweep_file())]
        assert store.register(sweep_file()) == number != store.register(sweep_file("two"))
        assert store.has_sweep(sweep_file("two"))
        assert not store.has_sweep(sweep_file("three"))


def test_a_point_is_kept_once_and_only_a_failure_is_replaced(tmp_path):
    with Store(tmp_path / "s.db") as store:
        store.keep(done("a", 7), {})
        store.keep(done("a", 8), {})
        assert store.known(["a"])["a"].figures == {"cycles": 7}
        store.keep(Answer("b", "failed", {}, "killed", 0.1), {})
        store.keep(done("b", 9), {})
        assert store.known(["b"])["b"] == done("b", 9)


def test_an_older_store_is_brought_up_to_date_with_its_rows(tmp_path):
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as old:
        old.executescript(MIGRATIONS[0])
        old.execute("INSERT INTO points VALUES ('a', 'done', NULL, '{\"cycles\": 3}', '{}')")
        old.execute("PRAGMA user_version = 1")
        old.execute(f"PRAGMA application_id = {module.APPLICATION}")
    with Store(path) as store:
        assert store.known(["a"])["a"] == Answer("a", "done", {"cycles": 3}, None, 0.0)
        store.keep(done("b"), {})
    with sqlite3.connect(path) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert now.execute("SELECT hash, seconds FROM points ORDER BY hash").fetchall() == [("a", None), ("b", 0.5)]


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def refused(path: Path) -> str:
    before = bytes_of(path)
    with pytest.raises(InputError) as caught, Store(path) as store:
        store.keep(done("x"), {})
    assert "\n" not in str(caught.value)
    assert bytes_of(path) == before, "a store that was refused was altered"
    return str(caught.value)


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    text, other, newer = tmp_path / "t.db", tmp_path / "o.db", tmp_path / "n.db"
    text.write_text("not a database at all, but long enough to be looked at " * 40)
    assert "file is not a database; name another file" in refused(text)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    assert "is a database, but none of sweeps" in refused(other)
    with Store(newer) as store:
        store.keep(done("a"), {})
    with sqlite3.connect(newer) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert f"newer accelsim (store version {VERSION + 1}, this one knows {VERSION})" in refused(newer)
    with pytest.raises(InputError, match="no such file"):
        Store(tmp_path / "absent.db", make=False)
    with pytest.raises(InputError, match="there is no folder"):
        Store(tmp_path / "no" / "folder.db")


def test_damage_is_found_before_anything_is_written(tmp_path):
    path = tmp_path / "s.db"
    with Store(path) as store:
        for number in range(300):
            store.keep(done(f"{number:064d}"), {"filler": "x" * 200})
    whole = path.read_bytes()
    for start in range(4096, len(whole) - 4096, len(whole) // 12):
        path.write_bytes(whole[: start // 4096 * 4096] + b"\x2a" * 4096 + whole[start // 4096 * 4096 + 4096 :])
        assert "damaged" in refused(path) or "malformed" in refused(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(path) or "malformed" in refused(path)


READ_ONLY = """
import os, sys
from pathlib import Path
from accelsim.errors import InputError
from accelsim.explore.bench import Answer
from accelsim.explore.store import Store
if os.geteuid() == 0:
    os.seteuid(65534)  # a superuser may write anywhere
try:
    with Store(Path(sys.argv[1])) as store:
        store.keep(Answer("b", "done", {}, None, 0.0), {})
except InputError as error:
    print(error)
    sys.exit(2)
"""


def test_a_read_only_folder_is_one_line():
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "s.db"
        with Store(path) as store:
            store.keep(done("a"), {})
        before = path.read_bytes()
        for place, mode in ((path, 0o444), (folder, 0o555)):
            place.chmod(mode)
        ran = subprocess.run([sys.executable, "-c", READ_ONLY, str(path)], capture_output=True, text=True)
        new = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder / "n.db")], capture_output=True, text=True)
        folder.chmod(0o755)
        assert path.read_bytes() == before
    assert (ran.returncode, new.returncode) == (2, 2), (ran.stderr, new.stderr)
    assert "choose a file in a writable folder" in ran.stdout
    assert "writable folder" in new.stdout


def test_many_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "s.db"
    Store(path).close()

    def write(first: int) -> None:
        with Store(path) as store:
            for number in range(first, first + 20):
                store.keep(done(f"{number}"), {})

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(write, (0, 10, 20, 30, 40)))
    with Store(path) as store:
        assert len(store.known(map(str, range(60)))) == 60


def test_what_is_kept_is_json_a_reader_can_open(tmp_path):
    with Store(tmp_path / "s.db") as store:
        store.keep(done("a"), {"batch": 1})
    with sqlite3.connect(tmp_path / "s.db") as database:
        figures, inputs = database.execute("SELECT figures, inputs FROM points").fetchone()
    assert (json.loads(figures), json.loads(inputs)) == ({"cycles": 7}, {"batch": 1})
