"""What is noted of rows on their way into a table: hashes of what they say, lengths, sides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.data.hashes import Hashes, mixed, raw_hashes, text_hash, text_hashes
from chatllama_pipeline.data.near_duplicates import TextReader, Texts
from chatllama_pipeline.data.prepare.tokens import Limits, Place, TokenCounter, fit
from chatllama_pipeline.data.spill.column import Indices
from chatllama_pipeline.data.spill.known import Known, slots_for
from chatllama_pipeline.records import SPLITS

Flags = npt.NDArray[np.bool_]
# A role's code is its place here; 0 of what is none.
_ROLES = ("", "system", "user", "assistant")
_NO_LIMITS = Limits(None, None)
# Texts that a row has, about, and of how many rows one has texts that must be tokenized.
_TEXTS_PER_ROW, _ROWS_PER_TOKENIZED = 2, 4
# Slots of a table of one's own, 25 MB: each process of a node has two.
_MOST_ALONE = 1 << 20


@dataclass(frozen=True)
class Reading:
    """How rows are read: their columns of replies, the limits, and where the tokenizer is; about
    `expected` rows come."""

    replies: tuple[str, ...]
    limits: Limits
    tokenizer: Place
    expected: int = 0

    @property
    def slots(self) -> tuple[int, int]:
        """Of the tables of what is known of texts, and of their tokens."""
        texts = slots_for(_TEXTS_PER_ROW * self.expected)
        return texts, slots_for(self.expected // _ROWS_PER_TOKENIZED)

    def opened(self, files: Sequence[int]) -> RowReader:
        """Its reader; the files hold the two tables, which are its own where there are none."""
        if not files:
            folder = Path(tempfile.gettempdir())
            slots = (min(each, _MOST_ALONE) for each in self.slots)
            return RowReader(self, *(Known.of_slots(each, folder) for each in slots))
        return RowReader(self, *map(Known, files))


class Notes(NamedTuple):
    """Of a batch of rows: a value per row in each column, which fit the limits, which of the
    sources they are of; what is compared of their texts, and the hashes of those that were
    tokenized for it."""

    columns: dict[str, npt.NDArray[Any]]
    fits: Flags
    sources: list[str]
    source_of: Indices
    texts: Texts
    tokenized: Hashes


class RowReader:
    """Notes rows; the two tables say what is known of texts, and of their tokens."""

    def __init__(self, reading: Reading, texts: Known, tokens: Known) -> None:
        self._reading = reading
        self._texts = TextReader(texts)
        self._counter = TokenCounter(reading.tokenizer, tokens)

    def held_out(self, table: pa.Table) -> Notes:
        """Notes of rows of another table, whose prompts alone matter."""
        return self._notes(table, (), _NO_LIMITS)

    def trusted(self, table: pa.Table) -> Notes:
        """Notes of rows whose lengths were held before."""
        return self._notes(table, self._reading.replies, _NO_LIMITS)

    def rows(self, table: pa.Table) -> Notes:
        """Notes of rows: prompt, replies, source, and `split` where it stands already."""
        return self._notes(table, self._reading.replies, self._reading.limits)

    def _notes(self, table: pa.Table, names: tuple[str, ...], limits: Limits) -> Notes:
        prompts = table["prompt"].combine_chunks()
        offsets = prompts.offsets.to_numpy().astype(np.int64)
        offsets -= offsets[0]
        turns = prompts.flatten()
        # An empty turn at the end stands for what a prompt hasn't got.
        contents = _Texts(turns.field("content"))
        raw = np.append(contents.hashes, np.uint64(text_hash("")))
        codes = np.append(_codes(turns.field("role"), _ROLES), 0).clip(0).astype(np.uint64)
        prompt = _prompt_hashes(raw[:-1], codes[:-1], offsets)
        fits, cuts = np.ones(table.num_rows, np.bool_), np.zeros(table.num_rows, np.int64)
        if limits != _NO_LIMITS:
            fits, cuts = fit(table, names, limits, self._counter)
        first = _first_user_turns(codes, offsets, np.zeros_like(cuts))
        seen = _first_user_turns(codes, offsets, cuts)
        lone = np.diff(offsets) == 1
        replies = {name: _Texts(table[name].combine_chunks()) for name in names}
        ends = offsets.tolist()

        def whole(i: int) -> str:
            return "\n\n".join(map(contents.text, range(ends[i], ends[i + 1])))

        def turn(numbers: Indices) -> Callable[[int], str]:
            return lambda i: contents.text(int(numbers[i]))

        read = self._texts.read
        turn_keys, places = read(raw[first], turn(first), placed=True)
        exact = mixed(prompt, *(texts.hashes for texts in replies.values()))
        sources = table["source"].combine_chunks().dictionary_encode()
        source_of, named = sources.indices.to_numpy(), sources.dictionary.to_pylist()
        columns: dict[str, npt.NDArray[Any]] = {
            "turn": turn_keys,
            "seen": read(raw[seen], turn(seen), placed=True)[0],
            "prompt": read(np.where(lone, raw[offsets[:-1]], prompt), whole)[0],
            "exact": exact,
            "prompt_hash": prompt,
            "order": mixed(exact, text_hashes(named)[source_of]),
            "place": places,
            "cut": cuts,
            "split": _split_codes(table),
        }
        for name, texts in replies.items():
            columns[f"near_{name}"] = read(texts.hashes, texts.text)[0]
        read_of_texts, tokenized = self._texts.taken(), self._counter.taken()
        return Notes(columns, fits, named, source_of, read_of_texts, tokenized)


class _Texts:
    """Texts of a column, which become texts of Python's only where they are asked for."""

    def __init__(self, column: pa.StringArray) -> None:
        ends = np.frombuffer(column.buffers()[1], np.int32)
        self._ends = ends[column.offset : column.offset + len(column) + 1].tolist()
        self._raw = memoryview(column.buffers()[2] or b"")
        self.hashes = raw_hashes(self._raw[a:b] for a, b in pairwise(self._ends))

    def text(self, number: int) -> str:
        """One of the texts; "" behind the last."""
        if number >= len(self.hashes):
            return ""
        return str(self._raw[self._ends[number] : self._ends[number + 1]], "utf-8")


def _codes(values: pa.StringArray, known: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The place of each value among those that are known; -1 of others."""
    places = pc.index_in(values, pa.array(known, pa.string()))
    codes: npt.NDArray[np.int64] = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    return codes


def _prompt_hashes(raw: Hashes, roles: Hashes, offsets: Indices) -> Hashes:
    """A hash per prompt of its turns' texts, roles and places."""
    lengths = np.diff(offsets)
    places = np.arange(len(raw)) - np.repeat(offsets[:-1], lengths)
    turns = mixed(raw, roles, places.astype(np.uint64))
    with np.errstate(over="ignore"):
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(turns, dtype=np.uint64)])
        return mixed(sums[offsets[1:]] - sums[offsets[:-1]], lengths.astype(np.uint64))


def _first_user_turns(roles: Hashes, offsets: Indices, skipped: Indices) -> Indices:
    """The index of each prompt's first user turn after those that a cut takes; the last index of
    all where there is none."""
    none = len(roles) - 1
    users = np.append(np.flatnonzero(roles == _ROLES.index("user")), none)
    found = users[np.searchsorted(users[:-1], offsets[:-1] + skipped)]
    return np.where(found < offsets[1:], found, none)


def _split_codes(table: pa.Table) -> npt.NDArray[np.int64]:
    if "split" not in table.column_names:
        return np.full(table.num_rows, -1, np.int64)
    return _codes(table["split"].combine_chunks(), SPLITS)
