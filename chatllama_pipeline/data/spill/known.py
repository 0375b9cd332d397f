"""A table of fixed size from 64-bit hashes to two numbers each, which processes share unlocked.

It may forget, and never errs: a slot holds the hash xored with its two numbers, so what two
processes wrote into one slot at once belongs to no hash (Hyatt and Mann, "A lockless transposition
table implementation for parallel search", 2002).
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chatllama_pipeline.data.hashes import Hashes
from chatllama_pipeline.data.spill.budget import part

# Slots of 24 bytes; a hash may stand in one of so many behind its place.
LEAST_SLOTS, MOST_SLOTS = 1 << 12, 1 << 24
_TRIES = 8
_WORDS = 3


def slots_for(count: int) -> int:
    """Slots for about so many hashes, a power of two: 400 MB at most, or as the memory is set."""
    most = 1 << (part(MOST_SLOTS).bit_length() - 1)
    return min(most, max(LEAST_SLOTS, 1 << (2 * count).bit_length()))


def shared_file(slots: int, folder: Path) -> int:
    """A descriptor of empty memory for a table, gone with the last process that holds it; off
    Linux a file without a name in `folder`."""
    if sys.platform == "linux":
        file = os.memfd_create("known")
    else:
        with tempfile.TemporaryFile(dir=folder) as unnamed:
            file = os.dup(unnamed.fileno())
    os.ftruncate(file, slots * _WORDS * 8)
    return file


class Known:
    """The table in a descriptor's memory (see `shared_file`)."""

    def __init__(self, file: int) -> None:
        words = np.frombuffer(mmap.mmap(file, 0), np.uint64)
        self._xored, self._first, self._second = words.reshape(_WORDS, -1)
        self._mask = np.uint64(len(self._xored) - 1)

    @classmethod
    def alone(cls, count: int, folder: Path) -> Known:
        """A table for about so many hashes that no other process shares."""
        return cls.of_slots(slots_for(count), folder)

    @classmethod
    def of_slots(cls, slots: int, folder: Path) -> Known:
        """The same, of so many slots."""
        file = shared_file(slots, folder)
        try:
            return cls(file)
        finally:
            os.close(file)

    def find(self, hashes: Hashes) -> tuple[npt.NDArray[np.bool_], Hashes, Hashes]:
        """Which hashes are known, and the two numbers of each; 0 of the others."""
        found = np.zeros(len(hashes), np.bool_)
        numbers = np.zeros((2, len(hashes)), np.uint64)
        left = np.flatnonzero(hashes != 0)
        for offset in range(_TRIES):
            slots = self._slots(hashes[left], offset)
            first, second = self._first[slots], self._second[slots]
            held = self._xored[slots] ^ first ^ second
            hit = held == hashes[left]
            found[left[hit]] = True
            numbers[:, left[hit]] = first[hit], second[hit]
            # Behind an empty slot there is nothing.
            left = left[~hit & (held != 0)]
            if not len(left):
                break
        return found, numbers[0], numbers[1]

    def put(self, hashes: Hashes, first: Hashes, second: Hashes) -> None:
        """Note the numbers of hashes, each of which stands there once; where there is no room an
        older one is forgotten."""
        left = np.flatnonzero(hashes != 0)
        for offset in range(_TRIES):
            slots = self._slots(hashes[left], offset)
            held = self._held(slots)
            free = (held == 0) | (held == hashes[left])
            self._write(slots[free], hashes, first, second, left[free])
            left = left[self._held(slots) != hashes[left]]
            if not len(left):
                return
        self._write(self._slots(hashes[left], 0), hashes, first, second, left)

    def _slots(self, hashes: Hashes, offset: int) -> npt.NDArray[np.int64]:
        return ((hashes + np.uint64(offset)) & self._mask).astype(np.int64)

    def _held(self, slots: npt.NDArray[np.int64]) -> Hashes:
        held: Hashes = self._xored[slots] ^ self._first[slots] ^ self._second[slots]
        return held

    def _write(
        self,
        slots: npt.NDArray[np.int64],
        hashes: Hashes,
        first: Hashes,
        second: Hashes,
        chosen: npt.NDArray[np.int64],
    ) -> None:
        # Of several hashes for one slot the last wins all three words: one array, one order.
        self._first[slots] = first[chosen]
        self._second[slots] = second[chosen]
        self._xored[slots] = hashes[chosen] ^ first[chosen] ^ second[chosen]
