"""A lease that machines which share a folder give each other, without a clock in common.

    <lock>.leases/00000017.json    who holds it: the file of the highest number

A lease is taken by making the file of the next number, which of several one can; the holder changes
its own file every few seconds, and no other. Who waits looks whether it changes, by its own clock,
and takes the next number where it didn't for as long as the holder itself said. So clocks that are
apart don't matter, a file of junk is a holder that says nothing, and what a holder that was stopped
for a while does to its own file hurts nobody: the next number is taken, and it finds that out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import StoreError

# How often a holder changes its file; after how long without a change it has lost its lease.
BEAT_SECONDS, LASTS_SECONDS = 5.0, 60.0
# Who waits looks soon again at first, then this often.
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.02, 1.0
# A holder gives up this much earlier than others take over: it must not publish meanwhile.
MARGIN = 0.75
# A file of a fixed size is changed in one write.
BYTES = 1024
# Older files go. One who was stopped amid the taking must not find the next number free again.
KEPT = 64
BOOT = Path("/proc/sys/kernel/random/boot_id")
PROCESSES = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Terms:
    """Seconds: between two changes, without one until it is lost, between two looks."""

    beat: float = BEAT_SECONDS
    lasts: float = LASTS_SECONDS
    look: float = LOOK_SECONDS


class HeldError(Exception):
    """Somebody else holds it; the message says who."""


class Lease:
    """A lease that is held; `close` gives it up."""

    def __init__(self, folder: Path, number: int, terms: Terms, descriptor: int) -> None:
        self._folder, self._number, self._terms = folder, number, terms
        self._descriptor = descriptor
        self._record = _parsed(os.pread(descriptor, BYTES, 0))
        self._changed = _now()
        self._why_lost = ""
        self._closing = threading.Event()
        self._beats = threading.Thread(target=self._beat, name=f"lease {folder.name}", daemon=True)
        self._beats.start()

    def require(self) -> None:
        """Raises StoreError where it was lost, or may be before long."""
        if why := self._lost():
            raise StoreError(
                f"the lease {self._folder} was lost ({why}): another may have gone on in its "
                "place, so nothing is published; run it again"
            )

    def close(self) -> None:
        """Give it up, so that others needn't wait."""
        self._closing.set()
        self._beats.join()
        with contextlib.suppress(OSError):
            self._write({**self._record, "released": True})
        os.close(self._descriptor)

    def _beat(self) -> None:
        while not self._closing.wait(self._terms.beat) and not self._lost():
            begun = _now()
            self._record["beat"] += 1
            # The place may come back before it is too late.
            with contextlib.suppress(OSError):
                self._write(self._record)
                self._changed = begun

    def _lost(self) -> str:
        """Why it isn't ours any more, and never again; "" as long as it is."""
        silent = _now() - self._changed
        if not self._why_lost and silent > self._terms.lasts * MARGIN:
            self._why_lost = f"its file wasn't changed for {silent:.0f} s"
        if not self._why_lost:
            with contextlib.suppress(OSError):
                self._why_lost = self._replaced()
        return self._why_lost

    def _replaced(self) -> str:
        newest = max(_numbers(self._folder), default=0)
        if newest > self._number:
            return f"{_who(_read(_file(self._folder, newest)))} has taken it"
        return "its file is gone" if newest < self._number else ""

    def _write(self, record: Mapping[str, Any]) -> None:
        os.pwrite(self._descriptor, _bytes(record), 0)
        # To the server: other machines read it there.
        os.fsync(self._descriptor)


def take(folder: Path, *, wait: bool = True, terms: Terms | None = None) -> Lease:
    """Hold the lease whose files stand in `folder`.

    Whoever holds it is waited for until it gives it up, or is silent for as long as it said.
    Without `wait` HeldError is raised as soon as it shows that it lives.
    """
    terms = terms or Terms()
    folder.mkdir(parents=True, exist_ok=True)
    watched, since, changes, pause = (0, b""), _now(), 0, FIRST_LOOK_SECONDS
    while True:
        newest = max(_numbers(folder), default=0)
        content = _content(_file(folder, newest)) if newest else b""
        record = _parsed(content)
        if (newest, content) != watched:
            watched, since, changes = (newest, content), _now(), changes + 1
        free = not newest or record.get("released") is True or _is_dead(record)
        if free or _now() - since > _lasts(record, terms):
            lease = _make(folder, newest + 1, terms)
            if lease is not None:
                return lease
            continue
        # A first look can't tell a holder that lives from one that is silent.
        if not wait and changes > 1:
            raise HeldError(_who(record))
        time.sleep(pause)
        pause = min(terms.look, pause * 2)


def holder(folder: Path) -> str | None:
    """Who holds the lease, as far as one look tells; None where nobody does."""
    newest = max(_numbers(folder), default=0) if folder.is_dir() else 0
    record = _read(_file(folder, newest)) if newest else {"released": True}
    return None if record.get("released") is True or _is_dead(record) else _who(record)


def _make(folder: Path, number: int, terms: Terms) -> Lease | None:
    """The lease of that number; None where another has it."""
    descriptor = _new_file(folder, _file(folder, number), _bytes(_mine(terms)))
    if descriptor is None:
        return None
    # Taken long after it was looked at, it may be one that others have left behind.
    if max(_numbers(folder), default=0) != number:
        os.close(descriptor)
        _file(folder, number).unlink(missing_ok=True)
        return None
    for old in _numbers(folder):
        if old <= number - KEPT:
            _file(folder, old).unlink(missing_ok=True)
    return Lease(folder, number, terms, descriptor)


def _new_file(folder: Path, name: Path, content: bytes) -> int | None:
    """A file that stands with its content at once, opened; None where the name is taken."""
    draft = folder / f".{uuid.uuid4().hex}"
    descriptor = _made(draft, content)
    try:
        os.link(draft, name)
        return descriptor
    except FileExistsError:
        # The answer of a server may be lost where the link was made.
        if os.fstat(descriptor).st_nlink == 2:
            return descriptor
    except OSError:  # a place that doesn't link
        with contextlib.suppress(FileExistsError):
            return _made(name, content)
    finally:
        draft.unlink(missing_ok=True)
    os.close(descriptor)
    return None


def _made(path: Path, content: bytes) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.pwrite(descriptor, content, 0)
    os.fsync(descriptor)
    return descriptor


def _mine(terms: Terms) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "lasts": terms.lasts,
        "token": uuid.uuid4().hex,
        "beat": 0,
        "released": False,
    }


def _machine() -> str:
    """What two processes have in common that see each other by their ids; "" where none tells."""
    try:
        return f"{BOOT.read_text().strip()} {os.readlink(PROCESSES)}"
    except OSError:
        return ""


def _is_dead(record: Mapping[str, Any]) -> bool:
    """Whether the holder was a process of this machine, and is gone."""
    if not record.get("machine") or record["machine"] != _machine():
        return False
    pid = record.get("pid")
    return isinstance(pid, int) and _started(pid) != record.get("started")


def _started(pid: int) -> str:
    """When a process began, in ticks since this machine did; "" where it is gone.

    Ids are given again, and the clock's time of the begin changes when the clock is set.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _lasts(record: Mapping[str, Any], terms: Terms) -> float:
    """How long the holder may be silent, by its own word."""
    lasts = record.get("lasts")
    return float(lasts) if isinstance(lasts, int | float) and lasts > 0 else terms.lasts


def _who(record: Mapping[str, Any]) -> str:
    if "host" not in record:
        return "somebody whose file can't be read"
    return f"process {record.get('pid')} on {record['host']}"


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:08}.json"


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("[0-9]*.json") if path.stem.isdigit()]


def _read(path: Path) -> dict[str, Any]:
    return _parsed(_content(path))


def _content(path: Path) -> bytes:
    """What stands in a file, b"" where it can't be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _parsed(content: bytes) -> dict[str, Any]:
    """The record that it is, {} for anything else."""
    try:
        record = json.loads(content)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _bytes(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode().ljust(BYTES)


def _now() -> float:
    """Seconds that go on while the machine sleeps, where the kernel counts those."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
