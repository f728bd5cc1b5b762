"""Where the points of sweeps are kept: one SQLite file, one row for each content hash, nothing ever run twice.

Every change is one transaction: a kill or a power cut leaves the rows that were there before. Any number of sweeps
may share a file, at the same time too.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelsim.config import build
from accelsim.config.sweep import SweepFile
from accelsim.errors import InputError
from accelsim.explore.bench import Answer
from accelsim.files import check_file

MIGRATIONS = (
    """
    CREATE TABLE points (
        hash TEXT PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('done', 'infeasible', 'failed')),
        reason TEXT,
        figures TEXT NOT NULL,
        inputs TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sweeps (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        file TEXT NOT NULL UNIQUE
    );
    CREATE TABLE members (
        sweep INTEGER NOT NULL REFERENCES sweeps (id),
        position INTEGER NOT NULL,
        hash TEXT NOT NULL,
        setting TEXT NOT NULL,
        excluded TEXT,
        PRIMARY KEY (sweep, position)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE points ADD COLUMN seconds REAL;
    CREATE INDEX members_by_hash ON members (hash);
    """,
)
"""What makes each version of the schema out of the one before it; a new file goes through all of them."""
VERSION = len(MIGRATIONS)
APPLICATION = 0x61636373
"""SQLite's application id of our files: "accs"."""
PATIENCE_SECONDS = 60
"""How long a writer waits for another one."""


def _defining(file: SweepFile) -> str:
    return json.dumps(file.model_dump(mode="json", by_alias=True), sort_keys=True)


@dataclass(frozen=True)
class Member:
    """One point's place in one sweep.

    Attributes:
        position: 0, 1, ... in the sweep's own order.
        key: the point's content hash.
        setting: what the axes say there.
        excluded: why this sweep does not run it; None where it does.
    """

    position: int
    key: str
    setting: Mapping[str, Any]
    excluded: str | None = None


class Store:
    """An open file of points."""

    def __init__(self, path: Path, *, make: bool = True):
        """Open a store, and make it where it is not there and may be.

        Raises:
            InputError: it is no store, damaged, of a newer version, or cannot be read or written.
        """
        self.path = path
        if not path.exists():
            if not make:
                raise InputError(f"{path}: no such file; name a store that `accelsim sweep` wrote")
            check_file(path)
        with self._told():
            # Absolute: to SQLite ":memory:" is no file.
            self._connection = sqlite3.connect(path.absolute(), timeout=PATIENCE_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = FULL")
            self._open()

    def _open(self) -> None:
        run = self._connection.execute
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = run("PRAGMA application_id").fetchone()
        if tables and application != APPLICATION:
            raise InputError(f"{self.path}: is a database, but none of sweeps; name another file")
        (damage,) = run("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise InputError(f"{self.path}: is damaged ({damage}); restore a copy, or name another file")
        (version,) = run("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise InputError(
                f"{self.path}: was written by a newer accelsim (store version {version}, this one knows {VERSION}); "
                "update accelsim, or name another file"
            )
        if version < VERSION:
            self._migrate()

    def _migrate(self) -> None:
        """Bring the schema to `VERSION`, in one transaction; another process may have done it meanwhile."""
        with self._transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            for script in MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
            self._connection.execute(f"PRAGMA application_id = {APPLICATION}")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing ------------------------------------------------------------------------------------------------------

    def register(self, file: SweepFile) -> int:
        """The number of a sweep, new where its file says something new."""
        text = _defining(file)
        with self._told():
            with self._transaction():
                self._connection.execute("INSERT OR IGNORE INTO sweeps (name, file) VALUES (?, ?)", (file.name, text))
            return int(self._connection.execute("SELECT id FROM sweeps WHERE file = ?", (text,)).fetchone()[0])

    def has_sweep(self, file: SweepFile) -> bool:
        """Whether a sweep of exactly this file was begun here."""
        with self._told():
            found = self._connection.execute("SELECT 1 FROM sweeps WHERE file = ?", (_defining(file),)).fetchone()
        return found is not None

    def enrol(self, sweep: int, members: Iterable[Member]) -> None:
        """Say which point stands where in a sweep."""
        with self._told(), self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO members (sweep, position, hash, setting, excluded) VALUES (?, ?, ?, ?, ?)",
                ((sweep, one.position, one.key, json.dumps(one.setting), one.excluded) for one in members),
            )

    def keep(self, found: Answer, inputs: Mapping[str, Any]) -> None:
        """Keep a point. One that is there stays, unless it had failed."""
        with self._told(), self._transaction():
            self._connection.execute(
                "INSERT INTO points (hash, status, reason, figures, inputs, seconds) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (hash) DO UPDATE SET status = excluded.status, reason = excluded.reason, "
                "figures = excluded.figures, inputs = excluded.inputs, seconds = excluded.seconds "
                "WHERE points.status = 'failed'",
                (
                    *(found.key, found.status, found.reason),
                    *(json.dumps(found.figures), json.dumps(inputs, sort_keys=True), found.seconds),
                ),
            )

    # Reading ------------------------------------------------------------------------------------------------------

    def known(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The points that are there, by hash."""
        found = {}
        with self._told():
            for key in keys:
                row = self._connection.execute(
                    "SELECT status, figures, reason, seconds FROM points WHERE hash = ?", (key,)
                ).fetchone()
                if row is not None:
                    status, figures, reason, seconds = row
                    found[key] = Answer(key, status, json.loads(figures), reason, seconds or 0.0)
        return found

    def sweeps(self) -> list[tuple[int, SweepFile]]:
        """(number, file) of every sweep, oldest first."""
        with self._told():
            rows = self._connection.execute("SELECT id, file FROM sweeps ORDER BY id").fetchall()
            return [
                (number, build(SweepFile, json.loads(text), f"{self.path}: sweep {number}")) for number, text in rows
            ]

    def rows(self, sweep: int, first: int = 0) -> list[tuple[Member, Answer | None]]:
        """A sweep's points in its order, from a position on, each with what came of it; None where it was not run."""
        with self._told():
            found = self._connection.execute(
                "SELECT position, members.hash, setting, excluded, status, figures, reason, seconds FROM members "
                "LEFT JOIN points ON points.hash = members.hash WHERE sweep = ? AND position >= ? ORDER BY position",
                (sweep, first),
            ).fetchall()
            return [
                (
                    Member(position, key, json.loads(setting), excluded),
                    None if status is None else Answer(key, status, json.loads(figures), reason, seconds or 0.0),
                )
                for position, key, setting, excluded, status, figures, reason, seconds in found
            ]

    def inputs(self, sweep: int) -> dict[str, dict[str, Any]]:
        """What each measured point of a sweep was made from, by hash."""
        with self._told():
            found = self._connection.execute(
                "SELECT DISTINCT points.hash, inputs FROM members JOIN points ON points.hash = members.hash "
                "WHERE sweep = ?",
                (sweep,),
            ).fetchall()
            return {key: json.loads(text) for key, text in found}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as one line."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            remedy = {
                "SQLITE_NOTADB": "name another file",
                "SQLITE_CORRUPT": "restore a copy, or name another file",
                "SQLITE_FULL": "free some space and repeat the command: every finished point is kept",
                "SQLITE_READONLY": "choose a file in a writable folder",
                "SQLITE_CANTOPEN": "choose a file in a writable folder",
                "SQLITE_BUSY": "another process has held it for a minute; repeat the command",
            }.get("_".join(name.split("_")[:2]), "check the file and its folder")
            raise InputError(f"{self.path}: {error}; {remedy}") from None
        except ValueError as error:  # JSON that we did not write
            raise InputError(
                f"{self.path}: holds a row that is not as it was written ({error}); restore a copy"
            ) from None
