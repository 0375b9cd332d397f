"""Opening a SQLite database that others may open at the same moment."""

from __future__ import annotations

import sqlite3
import time

_PAUSE_SECONDS = 0.01
# Of an error's code: what is above tells more of the same.
_PLAIN = 0xFF


def use_write_ahead_log(database: sqlite3.Connection, seconds: float) -> None:
    """Have readers and a writer of `database` not wait for each other; so it stays in its file.

    Of two connections that switch at once SQLite refuses one, however long it may wait, since each
    would wait for the other (https://sqlite.org/c3ref/busy_handler.html). That one tries again for
    `seconds`, and then raises sqlite3.OperationalError.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & _PLAIN == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > until:
                raise
        time.sleep(_PAUSE_SECONDS)
