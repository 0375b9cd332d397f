"""Distinct texts, and which of them are nearly the same.

Texts of few words are nearly the same where they hold the same words in the same order, numbers and
signs among them (see `words`). Longer ones are where their numbers and signs are the same, and they
hold the same set of words, or the sets of their three-word shingles have a Jaccard similarity of
about `SIMILAR` or more. The similarity is estimated by MinHash (Broder 1997; signatures by `rensa`)
among the pairs that locality-sensitive hashing brings together (Leskovec et al., "Mining of Massive
Datasets", chapter 3): 16 bands of 4 find a pair of similarity .8 with a chance of
1 - (1 - .8^4)^16 = .9998.

A text goes by the hash of its evened form, its key. What is compared of texts stands in columns
that go on on disk, and is looked at a bounded number at a time: memory grows with the texts that
have a near duplicate alone.

Rows are near duplicates where each of their texts is: see `Preparation.drop_near_duplicates` in
`prepare.rows`, which keeps one of them.
"""

from __future__ import annotations

import hashlib
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.data.hashes import Hashes, mixed, text_hash, text_hashes
from chatllama_pipeline.data.spill.budget import part
from chatllama_pipeline.data.spill.column import Column, Indices, groups
from chatllama_pipeline.data.spill.known import Known
from chatllama_pipeline.data.words import compared, spaced
from chatllama_pipeline.progress import counted

SIMILAR = 0.8
Signatures = npt.NDArray[np.uint32]
Places = npt.NDArray[np.float64]

_BANDS, _ROWS_PER_BAND = 16, 4
_PERMUTATIONS = _BANDS * _ROWS_PER_BAND
_SHINGLE_WORDS = 3
_WORDS_KEPT = 500_000
# Of pairs of keys that belong together, before those of a cluster become one each.
_MOST_EDGES = 1 << 20
_SIGNATURES_AT_ONCE = 1 << 16
# The place of a text that nobody asked for.
UNPLACED = -1.0
# A raised digit must not become one of the number before it.
_RAISED = str.maketrans({raised: f"^{digit}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})


def evened(text: str) -> str:
    """A text with case, Unicode form and white space evened out."""
    if text.isascii():
        folded = text.lower().replace("\n", " ")
        # No white space but spaces: what `split` takes most of its time for isn't there.
        if folded.isprintable():
            while "  " in folded:
                folded = folded.replace("  ", " ")
            return folded.strip()
    else:
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


class Texts(NamedTuple):
    """What is compared of texts: of each its key, and what those that are surely nearly the same
    have alike; of longer ones key, hash per band and signature too. A text may stand there twice.
    """

    keys: Hashes
    same: Hashes
    long: Hashes
    bands: Hashes
    signatures: Signatures


class TextReader:
    """Makes keys of texts, and of those that aren't `known` what is compared; it keeps no text."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._words = _WordHashes()
        # Of the texts read since they were last taken.
        self._keys: list[int] = []
        self._evened: list[str] = []

    def read(
        self, raw: Hashes, text_at: Callable[[int], str], placed: bool = False
    ) -> tuple[Hashes, Places]:
        """The keys of texts by their `raw` hashes, and with `placed` their places (see `place_of`);
        `text_at(i)` gives the i-th text where it isn't known."""
        found, keys, bits = self._known.find(raw)
        places = np.where(found, bits.view(np.float64), UNPLACED)
        missing = ~found | (places < 0) if placed else ~found
        fresh: dict[int, tuple[int, float]] = {}
        for i in np.flatnonzero(missing).tolist():
            hashed = int(raw[i])
            if hashed not in fresh:
                even = evened(text_at(i))
                key = text_hash(even)
                fresh[hashed] = key, place_of(even) if placed else UNPLACED
                if not found[i]:
                    self._keys.append(key)
                    self._evened.append(even)
            keys[i], places[i] = fresh[hashed]
        numbers = np.fromiter((key for key, _ in fresh.values()), np.uint64, len(fresh))
        at = np.fromiter((place for _, place in fresh.values()), np.float64, len(fresh))
        self._known.put(np.fromiter(fresh, np.uint64, len(fresh)), numbers, at.view(np.uint64))
        return keys, places

    def taken(self) -> Texts:
        """What is compared of the texts that were read since the last call."""
        keys, lists = np.array(self._keys, np.uint64), list(map(spaced, self._evened))
        words = pc.ascii_split_whitespace(pa.array(lists, pa.large_string()))
        counts = words.value_lengths().to_numpy()
        found = list(map(compared, self._evened, lists, counts.tolist()))
        is_long = np.array([one.long for one in found], np.bool_)
        # The words of a long text may count in any order.
        in_any = np.array([one.same is None for one in found], np.bool_)
        same = text_hashes([one.same or "" for one in found])
        must = np.array([text_hash(one.hard) if one.hard else 0 for one in found], np.uint64)
        lengths = counts[is_long].astype(np.int64)
        hashes, codes = self._hashed(words.filter(pa.array(is_long)).flatten())
        sums = _sums_of_distinct(hashes, codes, lengths)
        same[is_long] = np.where(in_any[is_long], sums, same[is_long]) + must[is_long]
        signatures = _signed(hashes[codes], lengths)
        self._keys, self._evened = [], []
        return Texts(keys, same, keys[is_long], _banded(signatures, must[is_long]), signatures)

    def _hashed(self, words: pa.LargeStringArray) -> tuple[Hashes, Indices]:
        """The distinct hashes of words, and which of them each word has."""
        coded = words.dictionary_encode()
        hashes = map(self._words.__getitem__, coded.dictionary.to_pylist())
        distinct, places = np.unique(
            np.fromiter(hashes, np.uint64, len(coded.dictionary)), return_inverse=True
        )
        return distinct, places[coded.indices.to_numpy()]


def _sums_of_distinct(hashes: Hashes, codes: Indices, lengths: npt.NDArray[np.int64]) -> Hashes:
    """The sum of the distinct hashes of each text's words: it doesn't depend on their order, and
    is as good a hash as they are. Every text has words; `codes` are places in `hashes`."""
    if not len(codes):
        return np.zeros(0, np.uint64)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    bits = len(hashes).bit_length()
    pairs = np.sort(owners << bits | codes)
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
    starts = np.searchsorted(pairs, np.arange(len(lengths)) << bits)
    sums: Hashes = np.add.reduceat(hashes[pairs & (1 << bits) - 1], starts)
    return sums


def _signed(flat: Hashes, lengths: npt.NDArray[np.int64]) -> Signatures:
    """The MinHashes of texts by the hashes of their words."""
    if not len(flat):
        return np.zeros((0, _PERMUTATIONS), np.uint32)
    from rensa import RMinHash

    shingles, offsets = _shingles(flat, lengths)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, _PERMUTATIONS, 0)
    return np.array(matrix.to_rows(), np.uint32)


def _banded(signatures: Signatures, hard: Hashes) -> Hashes:
    """A hash per band of each signature, and of what must be alike besides."""
    bands = np.zeros((len(hard), _BANDS), np.uint64)
    for band in range(_BANDS if len(hard) else 0):
        rows = signatures[:, band * _ROWS_PER_BAND : (band + 1) * _ROWS_PER_BAND]
        columns = (rows[:, i].astype(np.uint64) for i in range(_ROWS_PER_BAND))
        bands[:, band] = mixed(hard, *columns)
    return bands


class TextIndex:
    """What is compared of texts, and by it the clusters of those that are nearly the same.

    About `expected` are added. What doesn't fit into memory goes to files without names in `folder`
    (None: where temporary files go). The order in which texts come changes nothing.
    """

    def __init__(self, folder: Path | None = None, expected: int = 0) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        self._expected = expected
        self._reader: TextReader | None = None
        self._keys, self._same, self._long = (Column(np.uint64, self._folder) for _ in range(3))
        self._bands = [Column(np.uint64, self._folder) for _ in range(_BANDS)]
        self._signatures = Column(np.uint32, self._folder, _PERMUTATIONS)
        self._clusters: tuple[Hashes, Hashes] | None = None

    def add(self, raw: Hashes, text_at: Callable[[int], str]) -> Hashes:
        """The keys of texts, by their `raw` hashes; `text_at(i)` gives the i-th text."""
        if self._reader is None:
            self._reader = TextReader(Known.alone(self._expected, self._folder))
        keys, _ = self._reader.read(raw, text_at)
        self.take(self._reader.taken())
        return keys

    def take(self, texts: Texts) -> None:
        """Add what a reader found."""
        self._keys.append(texts.keys)
        self._same.append(texts.same)
        self._long.append(texts.long)
        for band, column in enumerate(self._bands):
            column.append(texts.bands[:, band])
        self._signatures.append(texts.signatures)
        if len(texts.keys):
            self._clusters = None

    def labels(self, keys: Hashes) -> Hashes:
        """For each key the least key of its cluster."""
        if self._clusters is None:
            self._clusters = self._joined()
        members, labels = self._clusters
        if not len(members):
            return keys
        at = np.minimum(np.searchsorted(members, keys), len(members) - 1)
        return np.where(members[at] == keys, labels[at], keys)

    def _joined(self) -> tuple[Hashes, Hashes]:
        """The keys that have a near duplicate, in order, and the label of each."""
        joins = _Joins()
        for places, same in groups(self._same):
            keys = self._keys.take(places)
            left, right = _chained(same, keys)
            joins.add(keys[left], keys[right])
        for band in counted("looks for near duplicates", self._bands, _BANDS, "bands"):
            for places, hashes in groups(band):
                keys = self._long.take(places)
                left, right = _chained(hashes, keys)
                alike = self._similar(places[left], places[right])
                joins.add(keys[left[alike]], keys[right[alike]])
        return joins.clusters()

    def _similar(self, left: Indices, right: Indices) -> npt.NDArray[np.bool_]:
        """Whether the longer texts at two places have similar signatures, pair by pair."""
        found = np.zeros(len(left), np.bool_)
        at_once = part(_SIGNATURES_AT_ONCE)
        for start in range(0, len(left), at_once):
            here = slice(start, start + at_once)
            one, other = (self._signatures.take(places[here]) for places in (left, right))
            found[here] = (one == other).mean(axis=1) >= SIMILAR
        return found


class _Joins:
    """Pairs of keys that belong together, and what they join."""

    def __init__(self) -> None:
        self._edges: list[tuple[Hashes, Hashes]] = []
        self._count, self._most = 0, part(_MOST_EDGES)

    def add(self, left: Hashes, right: Hashes) -> None:
        self._edges.append((left, right))
        self._count += len(left)
        if self._count > self._most:
            members, labels = self.clusters()
            self._edges, self._count = [(labels, members)], len(members)
            self._most = max(part(_MOST_EDGES), 2 * self._count)

    def clusters(self) -> tuple[Hashes, Hashes]:
        """The joined keys in order, and the least key that each is joined with."""
        if not self._edges:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        left, right = map(np.concatenate, zip(*self._edges, strict=True))
        members = np.unique(np.concatenate([left, right]))
        ends = (np.searchsorted(members, keys) for keys in (left, right))
        return members, members[_components(len(members), *ends)]


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


def _chained(hashes: Hashes, keys: Hashes) -> tuple[Indices, Indices]:
    """Edges, in the order of the keys, between each text and the next one with the same hash, and
    the first with that hash; none from a text to itself."""
    order = np.lexsort((keys, hashes))
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~same]))[: len(keys)]
    first = np.repeat(order[starts], np.diff(np.append(starts, len(keys))))
    left, right = order[:-1][same], order[1:][same]
    both = np.concatenate([left, first[1:][same]]), np.concatenate([right, right])
    apart = keys[both[0]] != keys[both[1]]
    return both[0][apart], both[1][apart]


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
