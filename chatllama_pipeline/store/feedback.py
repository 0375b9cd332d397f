"""What people said of replies: an append-only log for each assistant, beside the store's versions.

    <store>/_feedback/<assistant>.sqlite3       readable by its owner alone

An entry that `add` has returned stands on the disk: a kill, a second writer or a full disk lose
none and double none. Entries are never changed; they go when somebody asks for it, and then their
bytes are overwritten.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.errors import DataError, StoreError
from chatllama_pipeline.store.locks.write_ahead import use_write_ahead_log

FOLDER = "_feedback"
# Votes of a blind trial hold its id; of other ratings this is "".
_TRIAL = "COALESCE(json_extract(content, '$.trial'), '')"
# How long a writer waits for another one.
_BUSY_SECONDS = 30.0
_TABLE = """
CREATE TABLE IF NOT EXISTS feedback (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    visit TEXT NOT NULL,
    at TEXT NOT NULL,
    content TEXT NOT NULL
) STRICT
"""
_NEVER_CHANGED = """
CREATE TRIGGER IF NOT EXISTS never_changed BEFORE UPDATE ON feedback
BEGIN SELECT RAISE(ABORT, 'feedback is never changed'); END
"""


class Entry(NamedTuple):
    """`content`: JSON text; `visit`: the random id that tells whose it is, "" where nobody said."""

    id: str
    visit: str
    at: str
    content: str


class Beyond(NamedTuple):
    """How many entries, and the number of the last; no number is given twice."""

    added: int
    last: int


class FeedbackLog:
    """The log of one assistant under `store_root`."""

    def __init__(self, store_root: Path, assistant: str) -> None:
        self._path = store_root / FOLDER / f"{assistant}.sqlite3"

    def add(self, entries: Sequence[Entry]) -> int:
        """Append all entries or none; returns how many are new.

        An entry whose id stands there already with the same visit and content is passed over, so
        that adding again is harmless. Raises DataError where they are others, StoreError where
        nothing could be written.
        """
        with self._open(write=True) as log:
            before = log.total_changes
            for entry in entries:
                known = log.execute(
                    "SELECT visit, content FROM feedback WHERE id = ?", (entry.id,)
                ).fetchone()
                if known is None:
                    log.execute(
                        "INSERT INTO feedback (id, visit, at, content) VALUES (?, ?, ?, ?)", entry
                    )
                elif known != (entry.visit, entry.content):
                    raise DataError(
                        f"feedback {entry.id} stands already with another content or visit, and is "
                        "never changed: give this one an id of its own"
                    )
            return log.total_changes - before

    def entries(
        self, visit: str | None = None, up_to: int | None = None, trial: str | None = None
    ) -> list[Entry]:
        """All entries as they were added; those of a visit, those numbered `up_to` at most, those
        of a blind trial ("": of none)."""
        if not self._path.is_file():
            return []
        asked = {"visit = ?": visit, "number <= ?": up_to, f"{_TRIAL} = ?": trial}
        chosen = {condition: value for condition, value in asked.items() if value is not None}
        where = " AND ".join(chosen) or "TRUE"
        query = f"SELECT id, visit, at, content FROM feedback WHERE {where} ORDER BY number"
        with self._open() as log:
            return [Entry(*row) for row in log.execute(query, tuple(chosen.values()))]

    def beyond(self, number: int, trial: str | None = None) -> Beyond:
        """What was added after the entry of that number, and stands; 0: after none. Of a blind
        trial alone, or of none ("")."""
        if not self._path.is_file():
            return Beyond(0, number)
        query = "SELECT COUNT(*), COALESCE(MAX(number), ?) FROM feedback WHERE number > ?"
        whose, of = ("", ()) if trial is None else (f" AND {_TRIAL} = ?", (trial,))
        with self._open() as log:
            return Beyond(*log.execute(query + whose, (number, number, *of)).fetchone())

    def delete(self, *, ids: Sequence[str] = (), visit: str = "") -> int:
        """Remove the entries of these ids and of a visit; returns how many there were.

        With both, those of the ids that are the visit's.
        """
        if not self._path.is_file():
            return 0
        with self._open(write=True) as log:
            if not ids:
                return log.execute("DELETE FROM feedback WHERE visit = ?", (visit,)).rowcount
            whose, of = (" AND visit = ?", (visit,)) if visit else ("", ())
            query = f"DELETE FROM feedback WHERE id = ?{whose}"
            return sum(log.execute(query, (one, *of)).rowcount for one in ids)

    def forget(self) -> int:
        """Remove the log with its files; returns how many entries it held."""
        count = self.beyond(0).added
        for file in self._path.parent.glob(f"{self._path.name}*"):
            file.unlink()
        return count

    @contextlib.contextmanager
    def _open(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """The log, in a transaction if `write`: all that is done in the block, or nothing."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made by us: SQLite would let everybody read it, and its other files are made alike.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            log = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._unwritten(error) from error
        with contextlib.closing(log):
            try:
                use_write_ahead_log(log, _BUSY_SECONDS)
                for pragma in ("synchronous = FULL", "secure_delete = ON"):
                    log.execute(f"PRAGMA {pragma}")
                log.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                log.execute(_TABLE)
                log.execute(_NEVER_CHANGED)
                yield log
                log.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._unwritten(error) from error
            finally:
                if log.in_transaction:
                    log.execute("ROLLBACK")

    def _unwritten(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._path}: {error}; nothing was changed there. Free space, or mend the folder's "
            "rights, and try again"
        )
