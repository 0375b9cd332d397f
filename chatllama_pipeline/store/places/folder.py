"""What one process can try of a folder: each probe works in a folder of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chatllama_pipeline.records import Finding
from chatllama_pipeline.store.disk import DISK_ERRORS
from chatllama_pipeline.store.manifests import sync_file

# Less free disk than this is told.
LOW_DISK_BYTES = 5 * 10**9
# Seconds between two clocks beyond which the order of what they date can't be trusted.
CLOCK_BOUND = 5.0
Probe = Callable[[Path], Finding]


def tried(what: str, probe: Probe, scratch: Path) -> Finding:
    """The finding of a `probe` in a folder of its own; what the place can't do is a fault.

    A disk that is full or broken says nothing of the place: its OSError passes.
    """
    folder = scratch / what.replace(" ", "_")
    try:
        folder.mkdir()
        return probe(folder)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        return Finding("fault", what, f"{error.strerror or error}: no store can stand here")


def renamed_file(folder: Path) -> Finding:
    """Whether a rename puts a file in another's place in one step.

    Whoever has opened the old one must go on reading it: where a rename is a copy, it changes.
    """
    what = "renamed files"
    old, new = folder / "old", folder / "new"
    old.write_text("old")
    new.write_text("new")
    with old.open() as reader:
        new.replace(old)
        found = (old.read_text(), reader.read(), new.exists())
    if found == ("new", "old", False):
        return Finding("ok", what, "take another's place in one step")
    return Finding("fault", what, _NOT_ATOMIC)


def renamed_folder(folder: Path) -> Finding:
    """Whether a folder gets its name in one step, and never that of one that holds something."""
    what = "renamed folders"
    made, name, other = folder / "made", folder / "name", folder / "other"
    for each in (made, other):
        each.mkdir()
        (each / "file").write_text(each.name)
    name.mkdir()
    before = made.stat()
    made.rename(name)
    # A copy would be another folder.
    whole = os.path.samestat(before, name.stat())
    try:
        other.rename(name)
        replaced = True
    except OSError:
        replaced = False
    if whole and not replaced and not made.exists() and (name / "file").read_text() == "made":
        return Finding("ok", what, "get their name in one step, and none that is taken")
    return Finding("fault", what, _NOT_ATOMIC)


_NOT_ATOMIC = (
    "a rename isn't one step here: a version could be read half. No store can stand here; take a "
    "file system whose renames are atomic, or a bucket"
)


def synced(folder: Path) -> Finding:
    """Whether the disk takes the order to hold a file, and the folder that names it."""
    what = "fsync"
    file = folder / "file"
    file.write_text("held")
    try:
        sync_file(file)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        told = f"{error.strerror}: what was published last may be lost with the machine's power"
        return Finding("warning", what, told)
    return Finding("ok", what, "is taken, of files and folders")


def linked(folder: Path) -> Finding:
    """Whether a file can have two names."""
    what = "hard links"
    first, second = folder / "first", folder / "second"
    first.write_text("once")
    try:
        os.link(first, second)
    except OSError as error:
        told = f"{error.strerror}: copies stand in their place, and the same bytes take room again"
        return Finding("warning", what, told)
    if first.samefile(second) and first.stat().st_nlink == 2:
        return Finding("ok", what, "the same bytes stand once")
    told = "a link is a copy here, so that what is removed can't be told from what is in use"
    return Finding("fault", what, told)


def locked(folder: Path) -> Finding:
    """Whether a lock keeps a second holder out."""
    what = "locks"
    name = folder / "lock"
    try:
        with name.open("w") as first, name.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Finding("ok", what, "keep a second holder out")
    except OSError as error:
        return Finding("fault", what, f"{error.strerror}: {NO_LOCKS}")
    return Finding("fault", what, f"two hold one lock: {NO_LOCKS}")


NO_LOCKS = (
    "two runs could make one asset at once and tear down each other's work. Mount it with locks "
    "(flock on Lustre; NFS 4, or 3 with lockd), or take a bucket"
)


def cased(folder: Path) -> Finding:
    """Whether `Poet` and `poet` are two names."""
    what = "names"
    (folder / "poet").touch()
    if (folder / "POET").exists():
        told = "capitals don't count: give no two assistants names that differ in them alone"
        return Finding("warning", what, told)
    return Finding("ok", what, "capitals count")


def room(folder: Path) -> Finding:
    """How much may still be written."""
    free = shutil.disk_usage(folder).free
    return Finding(
        "ok" if free >= LOW_DISK_BYTES else "warning", "room", f"{free / 1e9:.1f} GB free"
    )


def seconds_apart(folder: Path) -> float:
    """How far the clock that dates files in `folder` is ahead of this machine's.

    A file system may date in whole seconds, or two: that much is no difference.
    """
    file = folder / ".clock"
    before = time.time()
    file.write_bytes(b"dated")
    after = time.time()
    dated = file.stat().st_mtime
    file.unlink()
    # The kernel dates by its last tick, and some disks in steps of two seconds.
    if before - 2.0 <= dated <= after:
        return 0.0
    return dated - (before + after) / 2


def clock(folder: Path) -> Finding:
    """Whether files are dated as this machine would date them."""
    apart = seconds_apart(folder)
    if abs(apart) <= CLOCK_BOUND:
        return Finding("ok", "clock", f"within {CLOCK_BOUND:g} s of this machine's")
    return Finding("warning", "clock", clocks_apart("that of the place", apart))


def clocks_apart(whose: str, seconds: float) -> str:
    """What follows of clocks that are apart by so many seconds."""
    how = "ahead of" if seconds > 0 else "behind"
    return (
        f"{whose} is {abs(seconds):.0f} s {how} this machine's: which run began later, what is "
        "newest and what is old enough to go are told wrong; set the clocks by NTP"
    )


QUICK: tuple[tuple[str, Probe], ...] = (
    ("renamed files", renamed_file),
    ("renamed folders", renamed_folder),
    ("locks", locked),
    ("hard links", linked),
)
ALONE: tuple[tuple[str, Probe], ...] = (
    *QUICK,
    ("fsync", synced),
    ("names", cased),
    ("clock", clock),
    ("room", room),
)


def findings(scratch: Path, probes: tuple[tuple[str, Probe], ...]) -> Iterator[Finding]:
    """The finding of each probe; a disk that is full or broken is a fault, and the last."""
    for what, probe in probes:
        try:
            yield tried(what, probe, scratch)
        except OSError as error:
            yield Finding("fault", what, f"{error.strerror}: free space, or mend the disk")
            return
