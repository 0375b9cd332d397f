"""A data file must stay as it is while it is read: else the rows were never its content.

What its name stands for is looked at before and after: device, inode, size, time of change. Who
also knows its hash from before compares that, for what was changed back or within a clock's tick.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.errors import DataError


class ChangedFileError(DataError):
    """A file is not what it was; the message names it, what became of it, and the cure."""


class _Stamp(NamedTuple):
    device: int
    inode: int
    size: int
    modified: int


@contextlib.contextmanager
def unchanged(path: Path, name: str | Path = "") -> Iterator[Callable[[], None]]:
    """Raise ChangedFileError if `path` changes while the block runs, whatever else went wrong for
    it: half of a row, the missing end of a Parquet file. What it gives looks in between, so that a
    file that grows as fast as it is read has an end. `name` is what the error calls it."""
    before = _stamp(path)

    def require() -> None:
        if (after := _stamp(path)) != before:
            raise changed_file(name or path, _told(before, after))

    try:
        yield require
    except ChangedFileError:
        raise
    except Exception as error:
        try:
            require()
        except ChangedFileError as changed:
            raise changed from error
        raise
    require()


def changed_file(name: str | Path, how: str = "") -> ChangedFileError:
    """The error for a file that is called `name`; `how` it changed, where that is known."""
    return ChangedFileError(
        f"{name} changed while it was read{f' ({how})' if how else ''}: its rows are of no one "
        "state, and none was taken; wait until nothing writes it, or name a copy, and run again"
    )


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    # Who reads it tells of it better.
    except OSError:
        return None
    return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _told(before: _Stamp | None, after: _Stamp | None) -> str:
    if after is None:
        return "it is gone"
    if before is None or before[:2] != after[:2]:
        return "another file stands in its place"
    if before.size != after.size:
        verb = "grew" if after.size > before.size else "shrank"
        return f"it {verb} from {before.size:,} to {after.size:,} bytes"
    return "it was written to"
