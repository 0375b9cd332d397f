from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from chatllama_pipeline.errors import DataError, StoreError
from chatllama_pipeline.store.feedback import Entry, FeedbackLog
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]
# Adds numbered entries for ever, each told once it is acknowledged.
WRITER = """
import sys
from pathlib import Path
from chatllama_pipeline.store.feedback import Entry, FeedbackLog
log, number = FeedbackLog(Path(sys.argv[1]), "tea"), int(sys.argv[2])
while True:
    log.add([Entry(f"{number:016}", "", "now", '{"number": %d}' % number)])
    print(number, flush=True)
    number += 1
"""


def entry(number: int, visit: str = "", content: str = "{}") -> Entry:
    return Entry(f"entry-{number:010}", visit, "2026-11-27T12:00:00", content)


def test_what_was_added_is_read_in_its_order_and_is_the_owner_s_alone(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, "tea")
    assert log.entries() == []
    added = [entry(2, "visit-a"), entry(1, "visit-b", '{"text": "<script>\u00e9"}')]
    assert log.add(added) == 2
    assert log.entries() == added
    assert log.entries("visit-b") == added[1:]
    assert FeedbackLog(tmp_path, "coffee").entries() == []
    folder = tmp_path / "_feedback"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_adding_again_adds_nothing_and_another_content_is_refused(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, "tea")
    assert [log.add([entry(1)]), log.add([entry(1), entry(2)])] == [1, 1]
    with pytest.raises(DataError, match="stands already with another content"):
        log.add([entry(3), entry(1, content='{"other": 1}')])
    with pytest.raises(DataError, match="another content or visit"):
        log.add([entry(1, "another-visit")])
    assert log.entries() == [entry(1), entry(2)]  # all of it, or nothing
    with (
        closing(sqlite3.connect(tmp_path / "_feedback" / "tea.sqlite3")) as raw,
        pytest.raises(sqlite3.IntegrityError, match="never changed"),
    ):
        raw.execute("UPDATE feedback SET content = '{}'")


def test_what_came_since_an_entry_is_counted_and_no_number_is_given_twice(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, "tea")
    assert log.beyond(0) == (0, 0) and not (tmp_path / "_feedback").exists()
    added = [entry(number) for number in range(5)]
    log.add(added)
    assert log.beyond(0) == (5, 5)
    assert log.beyond(2) == (3, 5)
    assert log.beyond(5) == (0, 5)
    assert log.entries(up_to=2) == added[:2]
    log.delete(ids=[added[1].id, added[4].id])
    assert log.entries(up_to=2) == added[:1]
    log.add([entry(9)])
    assert log.beyond(4) == (1, 6)


def test_a_forgotten_log_leaves_no_file(tmp_path: Path) -> None:
    log, other = FeedbackLog(tmp_path, "tea"), FeedbackLog(tmp_path, "tea2")
    log.add([entry(1), entry(2)])
    other.add([entry(1)])
    assert (log.forget(), log.forget()) == (2, 0)
    assert not list((tmp_path / "_feedback").glob("tea.*"))
    assert len(other.entries()) == 1


def test_what_is_deleted_is_gone_from_the_disk(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, "tea")
    log.add([entry(1, "mine", '{"a": "secret words"}'), entry(2, "mine"), entry(3, "theirs")])
    assert log.delete(ids=[entry(3).id], visit="mine") == 0  # another person's
    assert log.delete(ids=[entry(1).id], visit="mine") == 1
    assert [one.id for one in log.entries()] == [entry(2).id, entry(3).id]
    assert log.delete(visit="mine") == 1
    assert log.delete(ids=[entry(3).id, "no such entry"]) == 1
    assert log.entries() == []
    files = list((tmp_path / "_feedback").iterdir())
    assert not any(b"secret words" in path.read_bytes() for path in files)


def test_two_writers_lose_and_double_nothing(tmp_path: Path) -> None:
    def write(numbers: range) -> int:
        log = FeedbackLog(tmp_path, "tea")
        return sum(log.add([entry(number)]) for number in numbers)

    with ThreadPoolExecutor(3) as pool:  # two apart, and one that repeats a part of both
        counts = list(pool.map(write, [range(0, 25), range(25, 50), range(10, 40)]))
    ids = [one.id for one in FeedbackLog(tmp_path, "tea").entries()]
    assert sum(counts) == len(ids) == len(set(ids)) == 50


def test_a_killed_writer_s_acknowledged_entries_stand_once(tmp_path: Path) -> None:
    number = 0
    for kill in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(number)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert writer.stdout is not None
        with writer.stdout as told:
            for _ in range(3 + 2 * kill):
                number = int(told.readline())
            writer.send_signal(signal.SIGKILL)
            number = max([number, *(int(line) for line in told if line.endswith("\n"))]) + 1
        writer.wait()
    ids = [int(one.id) for one in FeedbackLog(tmp_path, "tea").entries()]
    assert set(range(number)) <= set(ids)
    assert len(ids) == len(set(ids))


def test_a_full_disk_is_told_and_what_stands_there_stays(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, "tea")
    log.add([entry(1)])
    size = sum(path.stat().st_size for path in (tmp_path / "_feedback").iterdir())
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from chatllama_pipeline.store.feedback import Entry, FeedbackLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "FeedbackLog(Path(sys.argv[1]), 'tea').add([Entry('x' * 16, '', 'now', 'y' * 10**6)])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(size + 100_000)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "StoreError" in ended.stderr and "nothing was changed there" in ended.stderr
    assert log.entries() == [entry(1)]
    assert log.add([entry(2)]) == 1


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "_feedback"
    folder.mkdir()
    (folder / "tea.sqlite3").write_bytes(b"no database at all, but long enough to be read " * 9)
    with pytest.raises(StoreError, match=r"tea\.sqlite3: file is not a database"):
        FeedbackLog(tmp_path, "tea").add([entry(1)])
