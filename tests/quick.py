"""Dagster's storage on SQLite, opened once, and without waits for the disk."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import dagster as dg
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

# What every run writes into; each has a file of its own beside them.
SHARED = ("index.db", "runs.db", "schedules.db")
STORAGES = (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)


def _wait_for_no_disk(connection: sqlite3.Connection, record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


class _Kept(sqlalchemy.Engine):
    """An engine whose connections stay open when its user has done."""

    def dispose(self, close: bool = True) -> None:
        pass


@contextlib.contextmanager
def quick_storage() -> Iterator[None]:
    """Of what is asked of it, in a year or in many short runs, more than half would be waits."""
    engines: dict[str, sqlalchemy.Engine] = {}
    scripts: dict[str | None, ScriptDirectory] = {}
    read_scripts = ScriptDirectory.from_config

    def create(url: str, **options: Any) -> sqlalchemy.Engine:
        if url not in engines:
            shared = url.endswith(SHARED)
            if shared:
                options["poolclass"] = sqlalchemy.QueuePool
            engines[url] = sqlalchemy.create_engine(url, **options)
            sqlalchemy.event.listen(engines[url], "connect", _wait_for_no_disk)
            if shared:
                engines[url].__class__ = _Kept
        return engines[url]

    def from_config(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in scripts:
            scripts[place] = read_scripts(config)
        return scripts[place]

    with contextlib.ExitStack() as patches:
        for storage in STORAGES:
            patches.enter_context(patch.object(storage, "create_engine", create))
        patches.enter_context(patch.object(ScriptDirectory, "from_config", from_config))
        try:
            yield
        finally:
            for engine in engines.values():
                sqlalchemy.Engine.dispose(engine)


@contextlib.contextmanager
def quick_instance(**options: Any) -> Iterator[dg.DagsterInstance]:
    """`dg.instance_for_test(**options)` on such a storage."""
    with quick_storage(), dg.instance_for_test(**options) as instance:
        yield instance
