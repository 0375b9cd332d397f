"""What a disk refuses, as the store's own error; when something on it was last written."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator
from pathlib import Path

from chatllama_pipeline.errors import StoreError

ROOT_VARIABLE = "CHATLLAMA_STORE"
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
FORBIDDEN = {errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def writing(root: Path, what: str) -> Iterator[None]:
    """Turn what the disk under the store `root` refuses into a StoreError that names the cure.

    Other errors pass: of a file elsewhere that may not be read, say.
    """
    try:
        yield
    except OSError as error:
        named = isinstance(error.filename, str) and Path(error.filename).is_relative_to(root)
        if error.errno not in DISK_ERRORS and not (error.errno in FORBIDDEN and named):
            raise
        raise StoreError(
            f"{what} could not be written to {root}: {error.strerror}. Nothing was published; free "
            f"space there, make it writable, or set {ROOT_VARIABLE}"
        ) from error


def last_written(folder: Path) -> float:
    """When anything in a folder was last written (seconds since 1970); inf while it changes."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # somebody is at work in it
        return math.inf
