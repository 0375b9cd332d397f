"""Distinct texts, and which of them are nearly the same.

Two texts are nearly the same where they hold the same set of words, or where the sets of their
three-word shingles have a Jaccard similarity of about `SIMILAR` or more. The latter is estimated by
MinHash (Broder 1997; signatures by `rensa`) among the pairs that locality-sensitive hashing brings
together (Leskovec et al., "Mining of Massive Datasets", chapter 3): 16 bands of 4 find a pair of
similarity .8 with a chance of 1 - (1 - .8^4)^16 = .9998.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from chatllama_pipeline.data.hashes import Hashes, mixed, text_hash
from chatllama_pipeline.progress import counted

SIMILAR = 0.8
Indices = npt.NDArray[np.int64]

_BANDS, _ROWS_PER_BAND = 16, 4
_PERMUTATIONS = _BANDS * _ROWS_PER_BAND
_SHINGLE_WORDS = 3
_TEXTS_PER_BATCH = 4096
_WORDS_KEPT = 500_000
_WORD = re.compile(r"\w+")
_MASK = (1 << 64) - 1


def evened(text: str) -> str:
    """A text with case, Unicode form and white space evened out."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def place_of(even: str) -> float:
    """A number in [0, 1) that follows from an evened text alone: splits are cut by it."""
    digest = hashlib.sha256(even.encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:13], 16) / 16**13


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        if len(self) >= _WORDS_KEPT:
            self.clear()
        found = self[word] = text_hash(word)
        return found


class TextIndex:
    """Numbers distinct texts as they come; texts that are equal when evened share a number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._words = _WordHashes()
        self._keys: list[int] = []
        self._word_sets: list[int] = []
        self._places: list[float] = []
        self._waiting: list[list[int]] = []
        self._signatures: list[npt.NDArray[np.uint32]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, raw: Hashes, text_at: Callable[[int], str], placed: bool = False) -> Indices:
        """The numbers of texts, by their `raw` hashes; `text_at(i)` gives the i-th text where it
        is new. With `placed` their places (see `place_of`) are known from then on."""
        numbers = self._numbers
        found = np.empty(len(raw), np.int64)
        for i, key in enumerate(raw.tolist()):
            number = numbers.get(key)
            if number is None or (placed and self._places[number] < 0):
                number = numbers[key] = self._number(text_at(i), placed)
            found[i] = number
        return found

    def _number(self, text: str, placed: bool) -> int:
        even = evened(text)
        key = text_hash(even)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._keys)
            self._keys.append(key)
            self._places.append(-1.0)
            words = list(map(self._words.__getitem__, _WORD.findall(even))) or [key]
            # The sum of a set doesn't depend on its order, and is as good a hash as its members'.
            self._word_sets.append(sum(set(words)) & _MASK)
            self._waiting.append(words)
            if len(self._waiting) == _TEXTS_PER_BATCH:
                self._sign()
        if placed:
            self._places[number] = place_of(even)
        return number

    def _sign(self) -> None:
        if not self._waiting:
            return
        from rensa import RMinHash

        lengths = np.array([len(words) for words in self._waiting])
        flat = np.array(list(itertools.chain.from_iterable(self._waiting)), np.uint64)
        shingles, offsets = _shingles(flat, lengths)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, _PERMUTATIONS, 0)
        self._signatures.append(np.array(matrix.to_rows(), np.uint32))
        self._waiting = []

    def places(self) -> npt.NDArray[np.float64]:
        """The place of each text, -1 where it was never asked for."""
        return np.array(self._places, np.float64)

    def clusters(self) -> Indices:
        """For each text the number of the cluster of nearly the same texts that it is in.

        Texts are compared in the order of their hashes, so the order of adding changes nothing.
        """
        self._sign()
        keys = np.array(self._keys, np.uint64)
        if not len(keys):
            return np.zeros(0, np.int64)
        order = np.argsort(keys)
        signatures = np.concatenate(self._signatures)[order]
        left, right = _chained(np.array(self._word_sets, np.uint64)[order])
        edges = [(left, right)]
        for band in counted("looks for near repeats", range(_BANDS), _BANDS, "bands"):
            rows = signatures[:, band * _ROWS_PER_BAND : (band + 1) * _ROWS_PER_BAND]
            left, right = _chained(mixed(*(rows[:, i].astype(np.uint64) for i in range(4))))
            alike = _similarity(signatures, left, right) >= SIMILAR
            edges.append((left[alike], right[alike]))
        labels = _components(len(keys), *map(np.concatenate, zip(*edges, strict=True)))
        found = np.empty(len(keys), np.int64)
        found[order] = labels
        return found


def _shingles(flat: Hashes, lengths: npt.NDArray[np.int64]) -> tuple[Hashes, Hashes]:
    """Hashes of every three words in a row, text after text, and where each text's begin; a text
    of fewer words is one shingle."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    padded = np.concatenate([flat, np.zeros(_SHINGLE_WORDS - 1, np.uint64)])
    whole = mixed(padded[: len(flat)], padded[1 : len(flat) + 1], padded[2 : len(flat) + 2])
    counts = np.maximum(lengths - (_SHINGLE_WORDS - 1), 1)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(flat)) - starts[owner]
    short = lengths < _SHINGLE_WORDS
    # A short text's shingle must not hold the next text's words.
    for i in np.flatnonzero(short).tolist():
        words = flat[starts[i] : ends[i]]
        whole[starts[i]] = mixed(words[:1], words[1:2] if len(words) > 1 else 0, lengths[i])[0]
    kept = whole[position < counts[owner]]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    return np.ascontiguousarray(kept), offsets


def _chained(keys: Hashes) -> tuple[Indices, Indices]:
    """Edges between each index and the next one with the same key, and the first with that key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    first = order[starts[np.searchsorted(starts, np.arange(len(keys)), side="right") - 1]]
    left, right = order[:-1][same], order[1:][same]
    return np.concatenate([left, first[1:][same]]), np.concatenate([right, right])


def _similarity(
    signatures: npt.NDArray[np.uint32], left: Indices, right: Indices
) -> npt.NDArray[np.float64]:
    parts = [
        (signatures[left[i : i + 65536]] == signatures[right[i : i + 65536]]).mean(axis=1)
        for i in range(0, len(left), 65536)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _components(count: int, left: Indices, right: Indices) -> Indices:
    """The smallest index that each index is connected with."""
    labels = np.arange(count)
    while True:
        before = labels.copy()
        smaller = np.minimum(labels[left], labels[right])
        np.minimum.at(labels, left, smaller)
        np.minimum.at(labels, right, smaller)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels
