"""Debian's PostgreSQL, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.ui.service import free_port

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The address of a database in a cluster of the test's own, on a loopback port."""
    assert PROGRAMS is not None
    # PostgreSQL refuses root, and its own user can't enter root's temporary folders.
    user = "postgres" if os.geteuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="chatllama_pg_")), free_port()
    if user:
        shutil.chown(folder, user)

    def call(program: str, *words: str) -> None:
        subprocess.run(
            [str(PROGRAMS / program), *words], check=True, user=user, cwd=folder, timeout=120,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    call("initdb", "-D", str(folder / "data"), "-U", "dagster", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -h 127.0.0.1 -F"
    call(
        "pg_ctl",
        "-D",
        str(folder / "data"),
        "-l",
        str(folder / "log"),
        "-o",
        options,
        "-w",
        "start",
    )
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster")
        yield f"postgresql+psycopg2://dagster:none@127.0.0.1:{port}/dagster"
    finally:
        call("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)
