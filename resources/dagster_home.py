"""Dagster's home, opened by one process at a time: `python -m resources.dagster_home [COMMAND]`.

Whoever opens an empty home makes Dagster's databases in it. Two at once, as a page and a daemon
that start together, would both write what version they are of, and no Dagster opens such a home.
With COMMAND it goes on as `dagster COMMAND`, or as a module where that begins with `-m`.
"""

import fcntl
import os
import runpy
import signal
import sys
from pathlib import Path

import dagster as dg
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from dagster._core.storage import alembic as migrations
from sqlalchemy.exc import SQLAlchemyError

from chatllama_pipeline.errors import ChatllamaError, StoreError

VARIABLE = "DAGSTER_HOME"
LOCK = ".opening"
REFUSED = 2


def open_home(home: Path) -> None:
    """Have all databases of a home stand, made by this process or by one that it waited for.

    Raises StoreError where the home is of another version of Dagster, or doesn't open.
    """
    try:
        lock = (home / LOCK).open("w")
    except OSError as error:
        told = f"{VARIABLE} is {home}, which can't be written ({error.strerror})"
        raise StoreError(f"{told}: make that folder, or name another") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with dg.DagsterInstance.from_config(str(home)) as instance:
                storages = instance.run_storage, instance.event_log_storage
                found = [storage.alembic_version() for storage in storages]
                if instance.schedule_storage:
                    found.append(instance.schedule_storage.alembic_version())
        except (CommandError, SQLAlchemyError) as error:
            raise StoreError(f"{home} doesn't open: {str(error).splitlines()[0]}") from error
    for revision, newest in filter(None, found):
        if revision != newest:
            raise StoreError(f"{home} is of {_whose(revision)}")


def _whose(revision: str | None) -> str:
    """Of which Dagster a database is that isn't of the installed one, and the cure."""
    [folder] = migrations.__path__
    try:
        ScriptDirectory(folder).get_revision(revision or "base")
    except CommandError:
        return (
            f"a newer Dagster than {dg.__version__}, which is installed: install that one, or "
            "restore the backup of before"
        )
    return (
        f"an older Dagster than {dg.__version__}, which is installed: back it up, then run "
        "`dagster instance migrate`"
    )


def main() -> None:
    """Open the home, if there is one, and go on as the command that the arguments name."""
    try:
        if home := os.environ.get(VARIABLE):
            open_home(Path(home))
    except ChatllamaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    if command := sys.argv[1:]:
        if command[0] == "dev" and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            # SIGTERM does to it what SIGINT does: ignored by a script's `&`, neither would end it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = command[1:] if command[0] == "-m" else ["dagster", *command]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
