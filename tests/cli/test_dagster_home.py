"""Dagster's home: whole whoever opens it first, and refused where it is of another Dagster."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import threading
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.cli.dagster_runs import module_command
from chatllama_pipeline.errors import StoreError
from resources.dagster_home import open_home
from tests.pipeline.place import TINY_CONFIG, Place

VERSION_TABLE = "alembic_version"
OLD, COMING = "567bc23fd1ac", "ffffffffffff"


def revisions(home: Path) -> dict[str, list[str]]:
    """What each of Dagster's databases says that it is of."""
    found = {}
    for path in home.rglob("*.db"):
        with sqlite3.connect(path) as database:
            rows = database.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall()
        database.close()
        found[path.name] = [revision for (revision,) in rows]
    return found


def made_by(home: Path, revision: str) -> None:
    """A home whose runs are of another version."""
    open_home(home)
    with sqlite3.connect(home / "history" / "runs.db") as database:
        database.execute(f"UPDATE {VERSION_TABLE} SET version_num = ?", [revision])
    database.close()


def test_a_home_that_many_open_at_once_for_the_first_time_is_whole(tmp_path: Path) -> None:
    at_once = threading.Barrier(4)

    def open_it() -> None:
        at_once.wait()
        open_home(tmp_path)

    threads = [threading.Thread(target=open_it) for _ in range(at_once.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = revisions(tmp_path)
    assert found.keys() == {"runs.db", "index.db", "schedules.db"}
    assert [len(rows) for rows in found.values()] == [1, 1, 1]
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_runs() == []


@pytest.mark.parametrize(
    ("revision", "cure"),
    [
        (OLD, r"an older Dagster than [\d.]+, .*: back it up, then run `dagster instance migrate`"),
        (COMING, r"a newer Dagster than [\d.]+, .*: install that one, or restore the backup"),
    ],
)
def test_a_home_of_another_dagster_is_refused_with_the_cure(
    tmp_path: Path, revision: str, cure: str
) -> None:
    made_by(tmp_path, revision)
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path} is of ") + cure):
        open_home(tmp_path)


def test_a_home_that_does_not_open_says_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / "runs.db").write_text("no database, as after a disk's fault")
    with pytest.raises(StoreError, match=r"doesn't open: .*file is not a database"):
        open_home(tmp_path)


def test_a_home_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent, which can't be written \(No such file.*: make"):
        open_home(tmp_path / "absent")


def test_a_run_in_a_home_of_another_dagster_ends_by_that_line(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.add_assistant("mine", TINY_CONFIG)
    made_by(Path(place.environment()["DAGSTER_HOME"]), COMING)
    refused = place.chatllama("make", "mine")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'dagster_home'} is of")
    assert "Traceback" not in refused.stderr


def test_a_module_s_exit_code_and_arguments_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "says.py").write_text("import sys; print(sys.argv[1:], __name__); sys.exit(9)")
    said = subprocess.run(
        module_command("says", "a", "b"), cwd=tmp_path, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (9, "['a', 'b'] __main__\n")
