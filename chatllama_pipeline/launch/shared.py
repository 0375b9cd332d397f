"""Files that processes of this machine share, each locked by who made it for as long as it lives.

The kernel lets go of a lock when the last process with its descriptor has ended, however it ended.
The folder is open to all users, as the temporary folder is, so that theirs count too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "CHATLLAMA_LEASES"
# Never swept while the machine is up, as the temporary folder may be.
SYSTEM_FOLDER = Path("/run/lock")
MOST_BYTES = 4096


def lease_folder(named: str = "") -> Path:
    """`named`, else the variable's folder, else one that every user of this machine shares."""
    if named or (named := os.environ.get(VARIABLE, "")):
        return Path(named)
    writable = SYSTEM_FOLDER.is_dir() and os.access(SYSTEM_FOLDER, os.W_OK)
    return (SYSTEM_FOLDER if writable else Path(tempfile.gettempdir())) / "chatllama_leases"


def make_shared(folder: Path) -> Path:
    """The folder, open to all users where it is made here."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)
    return folder


def try_lock(path: Path) -> tuple[int | None, str]:
    """The descriptor of the file `path`, locked, or None and what its holder wrote into it."""
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = _told(descriptor)
            os.close(descriptor)
            return None, told
        # One that was swept away meanwhile is nobody else's.
        if os.fstat(descriptor).st_nlink:
            return descriptor, ""
        os.close(descriptor)


def write_holder(descriptor: int, text: str) -> None:
    """Say in a locked file who holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode()[:MOST_BYTES], 0)


@contextlib.contextmanager
def standing(folder: Path, text: str) -> Iterator[Path]:
    """A file of one's own in `folder`, later in name than those before, as long as this lasts."""
    make_shared(folder)
    path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex}"
    draft = folder / f".{path.name}"
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        write_holder(descriptor, text)
        # Whoever sees it by its name finds it locked.
        draft.rename(path)
        yield path
    finally:
        path.unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
        os.close(descriptor)


def those_standing(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files whose makers live, in order, with what they wrote; removes those of the dead."""
    for path in sorted(folder.glob("[0-9]*")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield path, _told(descriptor)
        else:
            # Another user's stays: only its maker may remove it.
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _opened(path: Path) -> int:
    while True:
        # First without making it: where all may write, Linux refuses to make what is another's.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        with contextlib.suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o666)
            os.fchmod(descriptor, 0o666)
            return descriptor


def _told(descriptor: int) -> str:
    text = os.pread(descriptor, MOST_BYTES, 0).decode(errors="replace")
    return "".join(letter for letter in text if letter.isprintable())
