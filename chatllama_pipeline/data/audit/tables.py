"""What the audit reads of a table, in one pass over its batches: memory holds numbers, not rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.data.hashes import text_hash
from chatllama_pipeline.data.near_duplicates import TextIndex
from chatllama_pipeline.data.patterns import find, mask, suspects
from chatllama_pipeline.models.chat.plain_text import PlainText
from chatllama_pipeline.records import SPLITS, TABLE_FILE
from chatllama_pipeline.table_files import record_batches, rows_at, table_schema

REPLY_COLUMNS = ("chosen", "rejected", "completion")
EXAMPLES_PER_KIND = 4
_ROWS_PER_BATCH = 2048

Numbers = npt.NDArray[np.int64]


@dataclass
class PersonalData:
    """Personal data found in distinct texts: matches and texts by kind, and masked examples."""

    matches: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def add(self, texts: list[str]) -> None:
        """Search texts that were not searched before, in whichever table they stood."""
        fresh = []
        for text in texts:
            if (key := hash(text)) not in self._seen:
                self._seen.add(key)
                fresh.append(text)
        array = pa.array(fresh, pa.string())
        for text in array.filter(suspects(array)).to_pylist():
            found = find(text)
            self.matches.update(kind for kind, _ in found)
            self.texts.update({kind for kind, _ in found})
            for kind, match in found:
                shown = self.examples.setdefault(kind, [])
                masked = mask(kind, match)
                if len(shown) < EXAMPLES_PER_KIND and masked not in shown:
                    shown.append(masked)


@dataclass(frozen=True)
class TableScan:
    """One table: per row its characters by part, its split, the number of its first user turn, and
    hashes of all that it says and of its (first) reply.

    `marked` rows spell a control token of the actor's tokenizer; None where that isn't at hand.
    """

    name: str
    path: Path
    characters: dict[str, Numbers]
    splits: Numbers
    sources: Counter[str]
    turns: Numbers
    row_keys: Numbers
    reply_keys: Numbers
    marked: int | None

    @property
    def rows(self) -> int:
        return len(self.splits)

    def by_split(self) -> dict[str, int]:
        """Split -> rows."""
        return {name: int((self.splits == number).sum()) for number, name in enumerate(SPLITS)}


def scan_table(
    name: str, version: Path, personal: PersonalData, turns: TextIndex, plain: PlainText | None
) -> TableScan:
    """Read a version's table once, batch by batch; `turns` takes the first user turns, `plain`
    knows the marks of the actor's tokenizer."""
    path = version / TABLE_FILE
    characters: dict[str, list[Numbers]] = {}
    columns: dict[str, list[Numbers]] = {}
    sources: Counter[str] = Counter()
    marked = 0
    for batch in record_batches(path, most_rows=_ROWS_PER_BATCH):
        measured, hashed, texts = _measure(batch, turns)
        for part, lengths in measured.items():
            characters.setdefault(part, []).append(lengths)
        for key, values in hashed.items():
            columns.setdefault(key, []).append(values)
        sources.update(batch.column("source").to_pylist())
        personal.add(texts)
        marked += _marked_rows(batch, texts, plain) if plain else 0
    names = table_schema(path).names
    parts = [part for part in ("prompt", *REPLY_COLUMNS) if part in names]
    joined = {key: _joined(columns.get(key, [])) for key in _COLUMNS}
    return TableScan(
        name=name,
        path=path,
        characters={part: _joined(characters.get(part, [])) for part in parts},
        sources=sources,
        marked=marked if plain else None,
        **joined,
    )


def _marked_rows(batch: pa.RecordBatch, texts: list[str], plain: PlainText) -> int:
    """How many rows of a batch spell a control token; `texts` are its turns, then its replies."""
    found = np.array([plain.spells_marks(text) for text in texts], np.bool_)
    lengths = _numbers(pc.list_value_length(batch.column("prompt")))
    turns = int(lengths.sum())
    rows = np.zeros(batch.num_rows, np.bool_)
    rows[np.repeat(np.arange(batch.num_rows), lengths)[found[:turns]]] = True
    rows |= found[turns:].reshape(-1, batch.num_rows).any(axis=0)
    return int(rows.sum())


_COLUMNS = ("splits", "turns", "row_keys", "reply_keys")


def _joined(batches: list[Numbers]) -> Numbers:
    return np.concatenate(batches) if batches else np.zeros(0, np.int64)


def _measure(
    batch: pa.RecordBatch, index: TextIndex
) -> tuple[dict[str, Numbers], dict[str, Numbers], list[str]]:
    """Characters by part, hashes by name, and the texts of a batch of rows."""
    prompts = batch.column("prompt")
    turns = prompts.flatten()
    contents = turns.field("content")
    ends = np.cumsum(_numbers(pc.list_value_length(prompts)))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    running = np.concatenate([[0], np.cumsum(_numbers(pc.utf8_length(contents)))])
    replies = {name: batch.column(name) for name in REPLY_COLUMNS if name in batch.schema.names}
    characters = {"prompt": running[ends] - running[starts]}
    characters |= {name: _numbers(pc.utf8_length(texts)) for name, texts in replies.items()}

    spoken = contents.to_pylist()
    answers = [texts.to_pylist() for texts in replies.values()]
    firsts = _first_user_turns(turns.field("role"), spoken, starts, ends)
    raw = np.array([text_hash(turn) for turn in firsts], np.uint64)
    hashed = {
        "splits": _numbers(pc.index_in(batch.column("split"), pa.array(SPLITS))),
        "turns": index.add(raw, firsts.__getitem__).view(np.int64),
        "row_keys": np.array(
            [
                hash((*spoken[start:end], *(texts[row] for texts in answers)))
                for row, (start, end) in enumerate(zip(starts, ends, strict=True))
            ],
            np.int64,
        ),
        "reply_keys": np.array([hash(text) for text in (answers or [[]])[0]], np.int64),
    }
    return characters, hashed, [*spoken, *chain.from_iterable(answers)]


def _first_user_turns(
    roles: pa.Array, spoken: list[str], starts: Numbers, ends: Numbers
) -> list[str]:
    of_users = np.flatnonzero(pc.equal(roles, "user").to_numpy(zero_copy_only=False))
    nearest = np.searchsorted(of_users, starts)
    found = np.append(of_users, len(spoken))[nearest]
    return [spoken[place] if place < end else "" for place, end in zip(found, ends, strict=True)]


def _numbers(values: pa.Array) -> Numbers:
    numbers: Numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def repeats(keys: Numbers) -> int:
    """How many rows repeat an earlier one."""
    return len(keys) - len(np.unique(keys))


def commonest_replies(scan: TableScan, most: int) -> list[tuple[str, int]]:
    """The replies that stand in most rows, as (text, rows), those that stand in one left out."""
    if not len(scan.reply_keys):
        return []
    _, firsts, counts = np.unique(scan.reply_keys, return_index=True, return_counts=True)
    order = sorted(range(len(counts)), key=lambda place: (-counts[place], firsts[place]))[:most]
    places = [place for place in order if counts[place] > 1]
    column = next(name for name in REPLY_COLUMNS if name in scan.characters)
    texts: list[Any] = rows_at(scan.path, firsts[places], [column]).column(column).to_pylist()
    return [(text, int(counts[place])) for text, place in zip(texts, places, strict=True)]


@dataclass(frozen=True)
class Overlap:
    """Training rows of a table whose first user turn is held out, in this table or another."""

    table: str
    training_rows: int
    exact: int
    near: int


def clusters(index: TextIndex, turns: Numbers) -> Numbers:
    """For each first user turn, by its key, the number of its cluster."""
    return index.labels(turns.view(np.uint64)).view(np.int64)


def overlaps(scans: list[TableScan], index: TextIndex) -> list[Overlap]:
    """For every table: training rows that repeat a validation or test prompt of any table.

    `index` knows all first user turns: `near` counts rows whose prompt is only nearly the same as
    one that is held out.
    """
    held = [scan.splits != SPLITS.index("train") for scan in scans]
    turns = _joined([scan.turns[out] for scan, out in zip(scans, held, strict=True)])
    found = []
    for scan, out in zip(scans, held, strict=True):
        exact = np.isin(scan.turns[~out], turns)
        near = np.isin(clusters(index, scan.turns[~out]), clusters(index, turns)) & ~exact
        found.append(Overlap(scan.name, int((~out).sum()), int(exact.sum()), int(near.sum())))
    return found
