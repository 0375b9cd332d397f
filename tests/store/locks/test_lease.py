"""Leases between processes that can't look at each other: killed, stopped, apart, and junk."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.locks import lease
from chatllama_pipeline.store.locks.lease import HeldError, Lease, Terms, holder, take
from tests.waiting import PATIENCE

PEER = Path(__file__).with_name("peer.py")
SHORT = Terms(beat=0.02, lasts=0.5, look=0.01)
LONG = Terms(beat=0.02, lasts=3600.0, look=0.01)


class Peer:
    """A process that takes the lease, as on another machine."""

    def __init__(self, folder: Path, lasts: float) -> None:
        inside = folder.with_name("inside")
        self.process = subprocess.Popen(
            [sys.executable, str(PEER), str(folder), str(lasts), str(inside)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def give_up(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.heard()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[float], Peer]]:
    made: list[Peer] = []

    def start(lasts: float) -> Peer:
        made.append(Peer(tmp_path / "leases", lasts))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "leases"


def test_a_lease_keeps_others_out_until_it_is_given_up(folder: Path) -> None:
    first = take(folder, terms=LONG)
    with pytest.raises(HeldError, match=f"process {os.getpid()} on "):
        take(folder, wait=False, terms=LONG)
    assert holder(folder) is not None
    first.close()
    assert holder(folder) is None
    take(folder, wait=False, terms=LONG).close()


def test_of_several_that_wait_for_a_killed_holder_exactly_one_is_next(
    peer: Callable[[float], Peer], folder: Path
) -> None:
    dead = peer(1.0)
    assert dead.heard() == "alone"
    waiting = {one.process.stdout: one for one in (peer(600.0), peer(600.0), peer(600.0))}
    dead.process.kill()
    folder.with_name("inside").unlink()
    while waiting:
        [heard], _, _ = select.select(list(waiting), [], [], PATIENCE)
        next_one = waiting.pop(heard)
        assert next_one.heard() == "alone"
        assert select.select(list(waiting), [], [], 0.3)[0] == []
        assert next_one.give_up() == "held"


def test_a_holder_that_was_stopped_finds_that_another_has_it(
    peer: Callable[[float], Peer], folder: Path
) -> None:
    first = peer(1.0)
    assert first.heard() == "alone"
    first.process.send_signal(signal.SIGSTOP)
    folder.with_name("inside").unlink()
    with_it = take(folder, terms=LONG)
    first.process.send_signal(signal.SIGCONT)
    assert first.give_up().startswith("lost: ")
    with_it.require()
    # What the first one wrote meanwhile and gives up now is its own file, not the second one's.
    with pytest.raises(HeldError):
        take(folder, wait=False, terms=LONG)
    with_it.close()


def test_a_holder_of_this_machine_that_was_killed_is_not_waited_for(folder: Path) -> None:
    program = (
        "from pathlib import Path; from chatllama_pipeline.store.locks.lease import Terms, take;"
        f"take(Path({str(folder)!r}), terms=Terms(1, 3600, 1)); print('held', flush=True);"
        "import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        first.kill()
    assert holder(folder) is None
    take(folder, wait=False, terms=LONG).close()


@pytest.mark.parametrize("minutes", [-90, 90])
def test_clocks_that_are_apart_by_minutes_do_not_matter(
    peer: Callable[[float], Peer], folder: Path, minutes: int
) -> None:
    lives = peer(60.0)
    assert lives.heard() == "alone"
    [file] = folder.glob("[0-9]*")
    then = time.time() + 60 * minutes
    os.utime(file, (then, then))
    with pytest.raises(HeldError):
        take(folder, wait=False, terms=SHORT)


@pytest.mark.parametrize("junk", [b"", b"\0" * 1024, b"{", b"[1]", b'{"lasts": "x"}', b"\xff\xfe"])
def test_a_file_of_junk_is_a_holder_that_says_nothing(folder: Path, junk: bytes) -> None:
    folder.mkdir()
    (folder / "00000007.json").write_bytes(junk)
    (folder / "notes.txt").write_text("not ours")
    assert holder(folder) == "somebody whose file can't be read"
    began = time.monotonic()
    held = take(folder, terms=SHORT)
    assert time.monotonic() - began > SHORT.lasts
    assert (folder / "00000008.json").exists()
    held.close()


def test_who_saw_the_folder_as_it_was_long_ago_gets_nothing(folder: Path) -> None:
    for _ in range(9):
        take(folder, terms=LONG).close()
    newest = take(folder, terms=LONG)
    (folder / "00000006.json").unlink()
    assert lease._make(folder, 6, LONG) is None
    assert lease._make(folder, 10, LONG) is None
    newest.require()
    assert not (folder / "00000006.json").exists()
    newest.close()


def test_old_files_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "KEPT", 3)
    for _ in range(6):
        take(folder, terms=LONG).close()
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["00000004.json", "00000005.json", "00000006.json"]


def test_where_nothing_links_a_lease_is_made_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first = take(folder, terms=LONG)
    with pytest.raises(HeldError):
        take(folder, wait=False, terms=LONG)
    first.require()
    first.close()
    take(folder, terms=LONG).close()


def lost(held: Lease) -> str:
    with pytest.raises(StoreError) as told:
        held.require()
    held.close()
    return str(told.value)


def test_a_holder_whose_folder_is_gone_is_told(folder: Path) -> None:
    held = take(folder, terms=LONG)
    for file in folder.iterdir():
        file.unlink()
    assert "its file is gone" in lost(held)


def test_a_holder_that_could_not_write_for_long_counts_as_lost(folder: Path) -> None:
    held = take(folder, terms=Terms(beat=3600.0, lasts=0.2, look=0.01))
    time.sleep(0.2)
    assert "wasn't changed for" in lost(held)
