"""Columns of numbers that grow without bound in bounded memory.

What exceeds a few megabytes goes to a file without a name, which is gone with the process that
opened it, however that ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chatllama_pipeline.data.spill.budget import part

Values = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

# Each of these by the memory that is set (`budget`). Of one column, before it goes to disk.
MOST_BYTES = 4 << 20
# What is looked at together; a value or two of each, and their order, are in memory then.
VALUES_AT_ONCE = 1 << 20
# Values at random places may each bring a page of the file into memory.
_TAKEN_AT_ONCE = 1 << 16


class Column:
    """Values of one type, `width` numbers each, in the order in which they were appended.

    Beyond `most_bytes` (None: their part of what is set) they stand in a file in `folder`. Where
    the disk is full an OSError says so.
    """

    def __init__(
        self, dtype: npt.DTypeLike, folder: Path, width: int = 1, most_bytes: int | None = None
    ) -> None:
        self._dtype, self._folder, self._width = np.dtype(dtype), folder, width
        self._most_bytes = part(MOST_BYTES) if most_bytes is None else most_bytes
        self._waiting: list[Values] = []
        self._waiting_bytes = 0
        self._file: int | None = None
        self._written = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, values: Values) -> None:
        """Add values behind the others."""
        if not len(values):
            return
        made = np.ascontiguousarray(values, self._dtype)
        self._count += len(made)
        self._waiting.append(made)
        self._waiting_bytes += made.nbytes
        if self._waiting_bytes > self._most_bytes:
            self._flush()

    def read(self, start: int, stop: int) -> Values:
        """The values from `start` to before `stop`; they aren't to be changed."""
        if self._file is None:
            return self._memory()[start:stop]
        self._flush()
        size = self._dtype.itemsize * self._width
        raw = bytearray(max(0, min(stop, self._count) - start) * size)
        view, done = memoryview(raw), 0
        # A single read gives two gigabytes at most.
        while done < len(raw):
            done += os.preadv(self._file, [view[done:]], start * size + done)
        return self._shaped(np.frombuffer(raw, self._dtype))

    def take(self, places: Indices) -> Values:
        """The values at those places."""
        if self._file is None:
            return self._memory()[places]
        self._flush()
        shape = (len(places),) if self._width == 1 else (len(places), self._width)
        found = np.empty(shape, self._dtype)
        at_once = part(_TAKEN_AT_ONCE)
        for start in range(0, len(places), at_once):
            here = slice(start, start + at_once)
            # Mapped anew each time, so that what was read leaves this process's memory.
            with mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) as mapped:
                values = self._shaped(np.frombuffer(mapped, self._dtype))
                found[here] = values[places[here]]
                del values
        return found

    def chunks(self) -> Iterator[tuple[slice, Values]]:
        """All values in their order, some at a time, with the places that they stand at."""
        at_once = part(VALUES_AT_ONCE)
        for start in range(0, self._count, at_once):
            here = slice(start, min(start + at_once, self._count))
            yield here, self.read(here.start, here.stop)

    def _memory(self) -> Values:
        if len(self._waiting) != 1:
            empty = self._shaped(np.zeros(0, self._dtype))
            self._waiting = [np.concatenate(self._waiting) if self._waiting else empty]
        return self._waiting[0]

    def _shaped(self, values: Values) -> Values:
        return values if self._width == 1 else values.reshape(-1, self._width)

    def _flush(self) -> None:
        if self._file is None:
            with tempfile.TemporaryFile(dir=self._folder) as unnamed:
                self._file = os.dup(unnamed.fileno())
            weakref.finalize(self, os.close, self._file)
        for values in self._waiting:
            raw = memoryview(values.tobytes())
            while raw:
                done = os.pwrite(self._file, raw, self._written)
                raw, self._written = raw[done:], self._written + done
        self._waiting, self._waiting_bytes = [], 0


def groups(
    keys: Column, wanted: npt.NDArray[np.bool_] | None = None
) -> Iterator[tuple[Indices, Values]]:
    """The places of hashes and the hashes, equal ones together, a bounded number at a time: those
    that are `wanted` (None: all), in the order of their places."""
    count = len(keys) if wanted is None else int(np.count_nonzero(wanted))
    parts = np.uint64(max(1, -(-count // part(VALUES_AT_ONCE))))
    for number in range(int(parts)):
        places, values = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        for here, found in keys.chunks():
            fits = found % parts == number if parts > 1 else np.ones(len(found), np.bool_)
            if wanted is not None:
                fits &= wanted[here]
            at = np.flatnonzero(fits)
            places.append(at + here.start)
            values.append(found[at])
        yield np.concatenate(places), np.concatenate(values)
