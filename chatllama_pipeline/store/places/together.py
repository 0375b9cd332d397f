"""What only several processes can try of a folder: renames under a reader's eyes, locks, makers."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatllama_pipeline.records import Finding
from chatllama_pipeline.store.locks.held import by_leases, mark
from chatllama_pipeline.store.manifests import write_atomically
from chatllama_pipeline.store.places.folder import NO_LOCKS, Probe
from chatllama_pipeline.store.places.peer import PARTS, POINTER, STOP, pointer_record
from chatllama_pipeline.store.versions import Store

# How often a pointer is replaced, and a folder named, under a reader's eyes; how long at least.
RENAMES, RENAMING_SECONDS = 30, 0.5
# Processes that make files, and versions, at once; how many of each.
MAKERS = 3
FILES, VERSIONS = 50, 3
# Until processes must have done their task, on a machine that has much else to do.
PATIENCE_SECONDS = 120.0
# Until the lock of a process that was killed must be free.
RELEASE_SECONDS = 10.0


class Peer:
    """Another process, at a task of `peer`."""

    def __init__(self, task: str, *arguments: object) -> None:
        module = "chatllama_pipeline.store.places.peer"
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, task, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self) -> None:
        """Let it go on once it is ready."""
        self.heard()
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def heard(self) -> Any:
        """What it says next; raises OSError where it ended without a word."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise OSError(f"a process that tried it ended with {self.process.wait()}")
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def peers(task: str, *arguments: tuple[object, ...]) -> Iterator[list[Peer]]:
    """A process for each of `arguments`; none of them outlives the block, or their time."""
    at_work = [Peer(task, *each) for each in arguments]

    # Whoever waits for a word of theirs then gets none: a lock may be waited for without end.
    def give_up() -> None:
        for peer in at_work:
            peer.process.kill()

    watch = threading.Timer(PATIENCE_SECONDS, give_up)
    watch.daemon = True
    watch.start()
    try:
        yield at_work
    finally:
        watch.cancel()
        for peer in at_work:
            peer.kill()


def seen_by_reader(folder: Path) -> Finding:
    """Whether another process ever finds a pointer or folder missing or half."""
    what = "renames seen by another process"
    versions, staging = folder / "versions", folder / "staging"
    versions.mkdir()
    staging.mkdir()
    write_atomically(folder / POINTER, pointer_record(0))
    with peers("read", (folder,)) as (reader,):
        reader.begin()
        until = time.monotonic() + RENAMING_SECONDS
        for number in itertools.count(1):
            if number > RENAMES and time.monotonic() > until:
                break
            write_atomically(folder / POINTER, pointer_record(number))
            made = staging / str(number)
            made.mkdir()
            for part in range(PARTS):
                (made / str(part)).touch()
            made.rename(versions / made.name)
        (folder / STOP).touch()
        seen = reader.heard()
    reads = seen.pop("reads")
    wrong = ", ".join(f"{count} {how}" for how, count in seen.items() if count)
    if wrong:
        told = f"of {reads} reads {wrong}: a version could be read half; no store can stand here"
        return Finding("fault", what, told)
    return Finding("ok", what, f"{reads} reads, always whole")


def locked_between(folder: Path) -> Finding:
    """Whether a lock keeps another process out, and is free once its holder is killed."""
    what = "locks between processes"
    file = folder / "lock"
    file.touch()
    with peers("try_lock", (file,)) as (other,), file.open("r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        other.begin()
        found = other.heard()["lock"]
    if found != "refused":
        return Finding("fault", what, f"another process' lock: {found}; {NO_LOCKS}")
    with peers("hold_lock", (file,)) as (holder,):
        holder.begin()
        holder.heard()
        if _free(file, 0.0):
            return Finding("fault", what, f"this process has what another holds: {NO_LOCKS}")
        holder.kill()
        if not _free(file, RELEASE_SECONDS):
            told = f"the lock of a process that was killed isn't free after {RELEASE_SECONDS:g} s: "
            return Finding("fault", what, told + "whoever is next would wait for ever")
    return Finding("ok", what, "keep others out, and end with their holder")


def _free(file: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    with file.open("r+") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
            time.sleep(0.05)


def created_once(folder: Path) -> Finding:
    """Whether of several processes that make one file exactly one does."""
    what = "files made once"
    with peers("create", *[(folder, FILES)] * MAKERS) as makers:
        for maker in makers:
            maker.begin()
        made = sum(maker.heard()["made"] for maker in makers)
    if made != FILES:
        told = f"{MAKERS} processes made {FILES} files {made} times: two could win at once here"
        return Finding("fault", what, told)
    return Finding("ok", what, f"{MAKERS} processes, {FILES} files, one maker each")


def published_together(folder: Path) -> Finding:
    """Whether several processes publish versions of one asset side by side and none is lost."""
    what = "several makers"
    root = folder / "store"
    if by_leases(folder.parents[1]):
        root.mkdir()
        mark(root, "the store's own are")
    with peers("publish", *[(root, number, VERSIONS) for number in range(MAKERS)]) as makers:
        for maker in makers:
            maker.begin()
        for maker in makers:
            maker.heard()
    store, wanted = Store(root), MAKERS * VERSIONS
    versions = store.versions("checked", None)
    whole = [version.id for version in versions if not list(version.damaged())]
    current = store.current("checked", None)
    uses = len(store.uses("checked", None))
    if (len(whole), uses) == (wanted, wanted) and current and current.version in whole:
        return Finding("ok", what, f"{MAKERS} processes published {wanted} versions, all whole")
    told = (
        f"{MAKERS} processes published {wanted} versions: {len(whole)} are whole, {uses} in the "
        "history; make one assistant on one machine at a time"
    )
    return Finding("fault", what, told)


TOGETHER: tuple[tuple[str, Probe], ...] = (
    ("renames seen by another process", seen_by_reader),
    ("locks between processes", locked_between),
    ("files made once", created_once),
    ("several makers", published_together),
)
