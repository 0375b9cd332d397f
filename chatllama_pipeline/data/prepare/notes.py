"""What is noted of rows on their way into a table: hashes of what they say, lengths, sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chatllama_pipeline.data.hashes import Hashes, mixed, text_hash
from chatllama_pipeline.data.near_duplicates import TextReader, Texts
from chatllama_pipeline.data.prepare.lengths import Limits, TokenCounter, fit
from chatllama_pipeline.data.spill.column import Indices
from chatllama_pipeline.data.spill.known import Known
from chatllama_pipeline.records import SPLITS

Flags = npt.NDArray[np.bool_]
_ROLES = {"system": 1, "user": 2, "assistant": 3}
_NO_LIMITS = Limits(None, None)


@dataclass(frozen=True)
class Reading:
    """How rows are read: their columns of replies, the limits, and where the tokenizer is."""

    replies: tuple[str, ...]
    limits: Limits
    tokenizer: tuple[str, str]


class Notes(NamedTuple):
    """Of a batch of rows: a value per row in each column, which fit the limits, the sources; what
    is compared of their texts, and the hashes of those that were tokenized for it."""

    columns: dict[str, npt.NDArray[Any]]
    fits: Flags
    sources: list[str]
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
        roles = [*turns.field("role").to_pylist(), ""]
        contents = [*turns.field("content").to_pylist(), ""]
        raw = _hashes(contents)
        codes = np.array([_ROLES.get(role, 0) for role in roles], np.uint64)
        prompt = _prompt_hashes(raw[:-1], codes[:-1], offsets)
        fits, cuts = np.ones(table.num_rows, np.bool_), np.zeros(table.num_rows, np.int64)
        if limits != _NO_LIMITS:
            fits, cuts = fit(table, names, limits, self._counter)
        first = _first_user_turns(codes, offsets, np.zeros_like(cuts))
        seen = _first_user_turns(codes, offsets, cuts)
        lone = np.diff(offsets) == 1
        replies = {name: table[name].to_pylist() for name in names}
        reply_hashes = {name: _hashes(texts) for name, texts in replies.items()}

        def whole(i: int) -> str:
            return "\n\n".join(contents[offsets[i] : offsets[i + 1]])

        def turn(numbers: Indices) -> Callable[[int], str]:
            return lambda i: contents[numbers[i]]

        read = self._texts.read
        turn_keys, places = read(raw[first], turn(first), placed=True)
        exact = mixed(prompt, *reply_hashes.values())
        sources = table["source"].to_pylist()
        columns: dict[str, npt.NDArray[Any]] = {
            "turn": turn_keys,
            "seen": read(raw[seen], turn(seen), placed=True)[0],
            "prompt": read(np.where(lone, raw[offsets[:-1]], prompt), whole)[0],
            "exact": exact,
            "prompt_hash": prompt,
            "order": mixed(exact, _hashes(sources)),
            "place": places,
            "cut": cuts,
            "split": _split_codes(table),
        }
        for name, texts in replies.items():
            columns[f"near_{name}"] = read(reply_hashes[name], texts.__getitem__)[0]
        return Notes(columns, fits, sources, self._texts.taken(), self._counter.taken())


def _hashes(texts: list[str]) -> Hashes:
    return np.fromiter(map(text_hash, texts), np.uint64, len(texts))


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
    users = np.append(np.flatnonzero(roles == _ROLES["user"]), none)
    found = users[np.searchsorted(users[:-1], offsets[:-1] + skipped)]
    return np.where(found < offsets[1:], found, none)


def _split_codes(table: pa.Table) -> npt.NDArray[np.int64]:
    if "split" not in table.column_names:
        return np.full(table.num_rows, -1, np.int64)
    codes = {split: side for side, split in enumerate(SPLITS)}
    return np.array([codes[split] for split in table["split"].to_pylist()], np.int64)
