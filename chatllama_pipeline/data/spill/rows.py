"""Rows of any kind in their order, in bounded memory: each is made anew when it is asked for."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np

from chatllama_pipeline.data.spill.column import Column

R = TypeVar("R")
_ROWS_AT_ONCE = 1_000


class SpilledRows(Sequence[R], Generic[R]):
    """Rows that go on, beyond some megabytes, in a file without a name in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes, self._ends = Column(np.uint8, folder), Column(np.int64, folder)
        self._waiting: list[bytes] = []
        self._end = 0

    def append(self, row: R) -> None:
        """Add a row behind the others; a change to it later isn't noticed."""
        self._waiting.append(pickle.dumps(row, pickle.HIGHEST_PROTOCOL))
        if len(self._waiting) == _ROWS_AT_ONCE:
            self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ends = self._end + np.cumsum([len(row) for row in self._waiting], dtype=np.int64)
        self._bytes.append(np.frombuffer(b"".join(self._waiting), np.uint8))
        self._ends.append(ends)
        self._end = int(ends[-1])
        self._waiting = []

    def __len__(self) -> int:
        return len(self._ends) + len(self._waiting)

    @overload
    def __getitem__(self, place: int) -> R: ...

    @overload
    def __getitem__(self, place: slice) -> list[R]: ...

    def __getitem__(self, place: int | slice) -> R | list[R]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        # Raises IndexError as a list does.
        number = range(len(self))[place]
        return next(self._between(number, number + 1))

    def __iter__(self) -> Iterator[R]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._between(start, min(start + _ROWS_AT_ONCE, len(self)))

    def _between(self, start: int, stop: int) -> Iterator[R]:
        self._settle()
        ends = self._ends.read(max(0, start - 1), stop).tolist()
        if not start:
            ends = [0, *ends]
        whole = self._bytes.read(ends[0], ends[-1])
        for first, last in pairwise(ends):
            yield pickle.loads(whole[first - ends[0] : last - ends[0]].data)
