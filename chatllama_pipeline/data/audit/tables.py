"""What the audit reads of a table, in one pass over its batches.

Of rows some numbers stay, in columns that go on on disk; memory grows with the prompts that are
held out, with the texts that hold personal data, and with those that are nearly the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.data.hashes import Hashes, among, text_hashes
from chatllama_pipeline.data.near_duplicates import TextIndex
from chatllama_pipeline.data.patterns import find, mask, suspects
from chatllama_pipeline.data.spill.column import Column, groups
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
    _found: set[int] = field(default_factory=set)

    def add(self, texts: list[str]) -> None:
        """Search texts; what is found in one counts once, in whichever tables it stands."""
        array = pa.array(texts, pa.large_string()).unique()
        for text in array.filter(suspects(array)).to_pylist():
            if (key := hash(text)) in self._found or not (found := find(text)):
                continue
            self._found.add(key)
            self.matches.update(kind for kind, _ in found)
            self.texts.update({kind for kind, _ in found})
            for kind, match in found:
                shown = self.examples.setdefault(kind, [])
                masked = mask(kind, match)
                if len(shown) < EXAMPLES_PER_KIND and masked not in shown:
                    shown.append(masked)


@dataclass(frozen=True)
class TableScan:
    """One table: how many rows have how many characters, by part; of each row its split, the key
    of its first user turn, and hashes of all that it says and of its (first) reply.

    `marked` rows spell a control token of the actor's tokenizer; None where that isn't at hand.
    """

    name: str
    path: Path
    characters: dict[str, LengthCounts]
    splits: Column
    sources: Counter[str]
    turns: Column
    row_keys: Column
    reply_keys: Column
    marked: int | None

    @property
    def rows(self) -> int:
        return len(self.splits)

    def by_split(self) -> dict[str, int]:
        """Split -> rows."""
        totals = np.zeros(len(SPLITS), np.int64)
        for _, splits in self.splits.chunks():
            totals += np.bincount(splits, minlength=len(SPLITS))
        return dict(zip(SPLITS, totals.tolist(), strict=True))

    def held_out(self) -> Iterator[tuple[Hashes, npt.NDArray[np.bool_]]]:
        """First user turns, some at a time, and which of them stand on no training row."""
        for here, splits in self.splits.chunks():
            yield self.turns.read(here.start, here.stop), splits != SPLITS.index("train")


class LengthCounts:
    """How many values there are of each."""

    def __init__(self) -> None:
        self._values, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, values: Numbers) -> None:
        """Count more values."""
        every = np.concatenate([self._values, values])
        counts = np.concatenate([self._counts, np.ones(len(values), np.int64)])
        self._values, places = np.unique(every, return_inverse=True)
        self._counts = np.bincount(places, weights=counts, minlength=len(self._values)).astype(
            np.int64
        )

    def counted(self) -> tuple[Numbers, Numbers]:
        """The values in order, and how often each is there."""
        return self._values, self._counts


def scan_table(
    name: str,
    version: Path,
    personal: PersonalData,
    turns: TextIndex,
    plain: PlainText | None,
    folder: Path,
) -> TableScan:
    """Read a version's table once, batch by batch; `turns` takes the first user turns, `plain`
    knows the marks of the actor's tokenizer. What doesn't fit into memory waits in `folder`."""
    path = version / TABLE_FILE
    names = table_schema(path).names
    characters = {part: LengthCounts() for part in ("prompt", *REPLY_COLUMNS) if part in names}
    columns = {key: Column(kind, folder) for key, kind in _COLUMNS.items()}
    sources: Counter[str] = Counter()
    marked = 0
    for batch in record_batches(path, most_rows=_ROWS_PER_BATCH):
        measured, hashed, texts = _measure(batch, turns)
        for part, lengths in measured.items():
            characters[part].add(lengths)
        for key, values in hashed.items():
            columns[key].append(values)
        sources.update(batch.column("source").to_pylist())
        personal.add(texts)
        marked += _marked_rows(batch, texts, plain) if plain else 0
    return TableScan(
        name=name,
        path=path,
        characters=characters,
        sources=sources,
        marked=marked if plain else None,
        **columns,
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


_COLUMNS = {"splits": np.int8, "turns": np.uint64, "row_keys": np.uint64, "reply_keys": np.uint64}


def _measure(
    batch: pa.RecordBatch, index: TextIndex
) -> tuple[dict[str, Numbers], dict[str, npt.NDArray[Any]], list[str]]:
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
    raw = text_hashes(firsts)
    hashed = {
        "splits": _numbers(pc.index_in(batch.column("split"), pa.array(SPLITS))),
        "turns": index.add(raw, firsts.__getitem__),
        "row_keys": np.array(
            [
                hash((*spoken[start:end], *(texts[row] for texts in answers)))
                for row, (start, end) in enumerate(zip(starts, ends, strict=True))
            ],
            np.int64,
        ).view(np.uint64),
        "reply_keys": np.array([hash(text) for text in (answers or [[]])[0]], np.int64).view(
            np.uint64
        ),
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


def repeats(keys: Column) -> int:
    """How many rows repeat an earlier one."""
    return len(keys) - sum(len(np.unique(hashes)) for _, hashes in groups(keys))


def prompts_of(scan: TableScan, index: TextIndex, folder: Path) -> tuple[int, int]:
    """How many distinct first user turns a table has, and how many are nearly the same as another;
    `index` knows them all."""
    labels = Column(np.uint64, folder)
    for _, turns in groups(scan.turns):
        labels.append(index.labels(np.unique(turns)))
    return len(labels), repeats(labels)


def commonest_replies(scan: TableScan, most: int) -> list[tuple[str, int]]:
    """The replies that stand in most rows, as (text, rows), those that stand in one left out."""
    found: list[tuple[int, int]] = []
    for places, hashes in groups(scan.reply_keys):
        _, firsts, counts = np.unique(hashes, return_index=True, return_counts=True)
        order = np.lexsort((places[firsts], -counts))[:most]
        ranked = zip((-counts[order]).tolist(), places[firsts][order].tolist(), strict=True)
        found = sorted([*found, *ranked])[:most]
    found = [(count, place) for count, place in found if count < -1]
    if not found:
        return []
    column = next(name for name in REPLY_COLUMNS if name in scan.characters)
    rows = rows_at(scan.path, np.array([place for _, place in found]), [column])
    texts: list[str] = rows.column(column).to_pylist()
    return [(text, -count) for text, (count, _) in zip(texts, found, strict=True)]


@dataclass(frozen=True)
class Overlap:
    """Training rows of a table whose first user turn is held out, in this table or another."""

    table: str
    training_rows: int
    exact: int
    near: int


def overlaps(scans: list[TableScan], index: TextIndex) -> list[Overlap]:
    """For every table: training rows that repeat a validation or test prompt of any table.

    `index` knows all first user turns: `near` counts rows whose prompt is only nearly the same as
    one that is held out.
    """
    chunks = [turns[out] for scan in scans for turns, out in scan.held_out()]
    held = np.unique(np.concatenate([np.zeros(0, np.uint64), *map(np.unique, chunks)]))
    labels = np.unique(index.labels(held))
    found = []
    for scan in scans:
        rows, exact, near = 0, 0, 0
        for turns, out in scan.held_out():
            training = turns[~out]
            same = among(training, held)
            rows, exact = rows + len(training), exact + int(same.sum())
            near += int((among(index.labels(training), labels) & ~same).sum())
        found.append(Overlap(scan.name, rows, exact, near))
    return found
