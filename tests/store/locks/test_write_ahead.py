from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from chatllama_pipeline.store.locks.write_ahead import use_write_ahead_log


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def test_who_finds_another_at_work_tries_again(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    with contextlib.closing(opened(path)) as other, contextlib.closing(opened(path)) as mine:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            mine.execute("PRAGMA journal_mode = WAL")
        threading.Timer(0.05, other.execute, ["COMMIT"]).start()
        use_write_ahead_log(mine, 60)
        assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_who_never_may_is_told_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    with contextlib.closing(opened(path)) as other, contextlib.closing(opened(path)) as mine:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            use_write_ahead_log(mine, 0.05)


def test_another_refusal_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    path.write_bytes(b"no database" * 100)
    refused = pytest.raises(sqlite3.DatabaseError, match="not a database")
    with contextlib.closing(opened(path)) as mine, refused:
        use_write_ahead_log(mine, 60)
