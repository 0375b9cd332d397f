"""A lock for each run that goes on, which the kernel opens when the run's process ends, however.

Dagster's launcher doesn't look after a run's process, so a run whose process was killed would stay
as it was for good. A process id would not tell either: others get it again, and a container's are
its own.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

FOLDER = "runs_that_go_on"


def signs_folder(instance: dg.DagsterInstance) -> Path:
    """Where the runs that `instance` knows have their locks, one file each, named by the run."""
    return Path(instance.root_directory) / FOLDER


@contextlib.contextmanager
def sign_of_life(folder: Path, run: str) -> Iterator[None]:
    """Hold the lock of `run` until its steps are over; a process killed before leaves the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / run
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        # Shared: steps of one run may have processes of their own.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def process_of(folder: Path, run: str) -> int | None:
    """The process that gives the sign of `run`; None where it is over, or another machine's.

    The number alone would not do: the kernel gives it to others, too.
    """
    import psutil

    path = folder / run
    try:
        process = psutil.Process(int(path.read_text()))
        held = {Path(file.path) for file in process.open_files()}
    except (OSError, ValueError, psutil.Error):
        return None
    return process.pid if path.resolve() in held else None


def runs_without_life(folder: Path) -> Iterator[str]:
    """Runs whose process is gone though their steps weren't over; each is yielded once.

    It is forgotten when the caller comes back for the next.
    """
    for path in sorted(folder.glob("*")):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Without a name, its steps were over before it was locked here.
            if os.fstat(descriptor).st_nlink:
                yield path.name
                path.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
