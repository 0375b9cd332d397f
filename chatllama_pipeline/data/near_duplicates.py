"""Distinct texts, and which of them are nearly the same.

Texts of few words are nearly the same where they hold the same words in the same order, numbers and
signs among them (see `words`). Longer ones are where their numbers and signs are the same, and they
hold the same set of words, or the sets of their three-word shingles have a Jaccard similarity of
about `SIMILAR` or more. The similarity is estimated by MinHash (Broder 1997; signatures by `rensa`)
among the pairs that locality-sensitive hashing brings together (Leskovec et al., "Mining of Massive
Datasets", chapter 3): 16 bands of 4 find a pair of similarity .8 with a chance of
1 - (1 - .8^4)^16 = .9998.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from array import array
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from chatllama_pipeline.data.hashes import Hashes, mixed, text_hash
from chatllama_pipeline.data.words import compared
from chatllama_pipeline.progress import counted

SIMILAR = 0.8
Indices = npt.NDArray[np.int64]

_BANDS, _ROWS_PER_BAND = 16, 4
_PERMUTATIONS = _BANDS * _ROWS_PER_BAND
_SHINGLE_WORDS = 3
_TEXTS_PER_BATCH = 4096
_WORDS_KEPT = 500_000
_MASK = (1 << 64) - 1
# A raised digit must not become one of the number before it.
_RAISED = str.maketrans({raised: f"^{digit}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})


def evened(text: str) -> str:
    """A text with case, Unicode form and white space evened out."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_RAISED))
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
        self._keys = array("Q")
        # What texts that are surely nearly the same have alike.
        self._same = array("Q")
        self._places = array("d")
        # Of the longer texts alone: their numbers, what must be alike, and signatures.
        self._long = array("q")
        self._hard = array("Q")
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
            self._compare_later(number, even)
        if placed:
            self._places[number] = place_of(even)
        return number

    def _compare_later(self, number: int, even: str) -> None:
        words, same, hard, is_long = compared(even)
        if not is_long:
            self._same.append(text_hash(same or ""))
            return
        hashes = list(map(self._words.__getitem__, words))
        must = text_hash(hard) if hard else 0
        # The sum of a set doesn't depend on its order, and is as good a hash as its members'.
        key = sum(set(hashes)) if same is None else text_hash(same)
        self._same.append((key + must) & _MASK)
        self._long.append(number)
        self._hard.append(must)
        self._waiting.append(hashes)
        if len(self._waiting) == _TEXTS_PER_BATCH:
            self._sign()

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
        edges = [_chained(np.array(self._same, np.uint64)[order])]
        if self._signatures:
            edges += self._similar(order)
        labels = _components(len(keys), *map(np.concatenate, zip(*edges, strict=True)))
        found = np.empty(len(keys), np.int64)
        found[order] = labels
        return found

    def _similar(self, order: Indices) -> list[tuple[Indices, Indices]]:
        """Edges between longer texts with similar shingles and the same numbers and signs, by their
        places in `order`."""
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        own = places[np.array(self._long, np.int64)]
        sorting = np.argsort(own)
        own, hard = own[sorting], np.array(self._hard, np.uint64)[sorting]
        signatures = np.concatenate(self._signatures)[sorting]
        edges = []
        for band in counted("looks for near repeats", range(_BANDS), _BANDS, "bands"):
            rows = signatures[:, band * _ROWS_PER_BAND : (band + 1) * _ROWS_PER_BAND]
            columns = (rows[:, i].astype(np.uint64) for i in range(_ROWS_PER_BAND))
            left, right = _chained(mixed(hard, *columns))
            alike = _similarity(signatures, left, right) >= SIMILAR
            edges.append((own[left[alike]], own[right[alike]]))
        return edges


def _shingles(flat: Hashes, lengths: npt.NDArray[np.int64]) -> tuple[Hashes, Hashes]:
    """Hashes of every three words in a row, text after text, and where each text's begin; every
    text has as many words."""
    starts = np.cumsum(lengths) - lengths
    padded = np.concatenate([flat, np.zeros(_SHINGLE_WORDS - 1, np.uint64)])
    whole = mixed(padded[: len(flat)], padded[1 : len(flat) + 1], padded[2 : len(flat) + 2])
    counts = lengths - (_SHINGLE_WORDS - 1)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(flat)) - starts[owner]
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
