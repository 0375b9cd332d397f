"""Rows on their way into a table: what is known of each, and which of them stay.

Rows come in batches, twice: `scanned` notes some 90 bytes of each row, `emit` writes those that the
drops in between left alive. What is decided follows from the rows' hashes, so the order in which
they came changes nothing. A byte a row stays in memory; the rest goes on on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.hashes import Hashes, among, mixed
from chatllama_pipeline.data.near_duplicates import TextIndex
from chatllama_pipeline.data.ordered import OrderedTable
from chatllama_pipeline.data.prepare.desk import Desk, Task
from chatllama_pipeline.data.prepare.lengths import counted_by
from chatllama_pipeline.data.prepare.notes import Flags, Notes, Reading
from chatllama_pipeline.data.prepare.selection import lowest, within_first
from chatllama_pipeline.data.prepare.tokens import TOO_LONG, Limits, cut_prompts
from chatllama_pipeline.data.spill.budget import megabytes
from chatllama_pipeline.data.spill.column import Column, Indices, groups
from chatllama_pipeline.records import SPLITS
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.table_files import most_bytes

TRAIN, VALIDATION, TEST = range(3)
_SMALL = {"source": np.int32, "cut": np.int32, "split": np.int8}
# The user's own rows win over the same rows of others.
_FIRST_SOURCE = "personal"


class Preparation:
    """The rows of one table; `replies` are the columns of texts beside the prompt.

    About `expected` rows come; what doesn't fit into memory waits in files in `folder`.
    """

    def __init__(
        self,
        replies: tuple[str, ...],
        settings: AssistantSettings,
        limits: Limits,
        folder: Path,
        expected: int = 0,
    ) -> None:
        # Wrong settings are told before rows are read.
        most_bytes()
        megabytes()
        self.funnel = Funnel()
        self._replies = replies
        self._shares = settings.data.test_share, settings.data.validation_share
        self._folder = folder
        self._desk = Desk(Reading(replies, limits, counted_by(settings), expected), folder)
        self._texts = TextIndex(folder)
        self._codes: dict[str, int] = {}
        self._columns: dict[str, Column] = {}
        self._alive: list[Flags] = []
        self._last_sources: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._held_out: list[Hashes] = []
        self._tokenized = Column(np.uint64, folder)

    # What is known of rows

    def scanned(self, tables: Iterable[pa.Table], trusted: bool = False) -> Iterator[pa.Table]:
        """Note rows in batches (prompt, replies, source, and `split` where it stands already), and
        hand each batch on once it is noted. The lengths of `trusted` rows were held before."""
        kind: Task = "trusted" if trusted else "rows"
        with closing(self._desk.read(kind, tables)) as read:
            for table, notes in read:
                self._take(notes)
                yield table

    def _take(self, notes: Notes) -> None:
        self._texts.take(notes.texts)
        self._tokenized.append(notes.tokenized)
        for name, values in notes.columns.items():
            self.note(name, values)
        self._last_sources = self._source_codes(notes)
        self.note("source", self._last_sources)
        self._alive.append(np.ones(len(notes.fits), np.bool_))
        self.drop_scanned(~notes.fits, TOO_LONG)

    def note(self, name: str, values: npt.NDArray[Any]) -> None:
        """Keep a further column of the batch that was scanned last."""
        if name not in self._columns:
            self._columns[name] = Column(_SMALL.get(name, values.dtype), self._folder)
        self._columns[name].append(values)

    def drop_scanned(self, gone: Flags, reason: str) -> None:
        """Drop rows of the batch that was scanned last."""
        alive = self._alive[-1]
        gone = gone & alive
        self._count(self._last_sources[gone], reason)
        alive &= ~gone

    def _source_codes(self, notes: Notes) -> npt.NDArray[np.int64]:
        counts = np.bincount(notes.source_of, minlength=len(notes.sources))
        for name, count in zip(notes.sources, counts.tolist(), strict=True):
            self._codes.setdefault(name, len(self._codes))
            self.funnel.read(name, count)
        codes = np.array([self._codes[name] for name in notes.sources], np.int64)
        return codes[notes.source_of]

    @property
    def alive(self) -> Flags:
        """Which rows were not dropped."""
        if len(self._alive) != 1:
            none = np.zeros(0, np.bool_)
            self._alive = [np.concatenate([none, *self._alive])]
        return self._alive[0]

    def column(self, name: str) -> Column:
        """What was noted of all rows."""
        if name not in self._columns:
            return Column(np.uint64, self._folder)
        return self._columns[name]

    # Which rows stay

    def _drop_at(self, places: Indices, reason: str) -> None:
        """Drop rows that are alive, counted by source."""
        self._count(self.column("source").take(places), reason)
        self.alive[places] = False

    def _count(self, codes: npt.NDArray[Any], reason: str) -> None:
        counts = np.bincount(codes, minlength=len(self._codes))
        for name, code in self._codes.items():
            self.funnel.drop(name, reason, int(counts[code]))

    def alive_of(self, name: str) -> Flags:
        """Which rows of a source were not dropped."""
        found, code = self.alive.copy(), self._codes.get(name, -1)
        for here, sources in self.column("source").chunks():
            found[here] &= sources == code
        return found

    def drop_duplicates(self, strongest: bool = False) -> None:
        """Drop all but one of the rows with the same prompt and replies: the user's own, or else
        with `strongest` the one of most `strength`, or else the one with the lowest hash."""
        ranks = ("strength",) if strongest else ()
        self._keep_first(self.column("exact"), "duplicate", ranks)

    def drop_near_duplicates(self) -> None:
        """Drop all but one of the rows whose prompts and replies are nearly the same, each: one
        that is held out, or else the user's own, or else that with the lowest hash."""
        names = ["prompt", *(f"near_{name}" for name in self._replies)]
        columns = [self.column(name) for name in names]
        keys = Column(np.uint64, self._folder)
        for here, prompts in columns[0].chunks():
            others = (column.read(here.start, here.stop) for column in columns[1:])
            keys.append(mixed(*map(self._texts.labels, (prompts, *others))))
        self._keep_first(keys, "near_duplicate")

    def _keep_first(self, keys: Column, reason: str, highest: tuple[str, ...] = ()) -> None:
        own = self._codes.get(_FIRST_SOURCE, -1)
        for places, hashes in groups(keys, self.alive):
            ranks = [
                self._sides(places) == TRAIN,
                self.column("source").take(places) != own,
                *(-self.column(name).take(places) for name in highest),
                self.column("order").take(places),
            ]
            self._drop_at(places[~within_first(hashes, 1, *ranks)], reason)

    def drop_beyond(self, name: str, most: int, seed: int) -> None:
        """Drop the rows of a source beyond so many of one prompt; chance says which."""
        for places, hashes in groups(self.column("prompt_hash"), self.alive_of(name)):
            chance = mixed(self.column("order").take(places), seed)
            self._drop_at(places[~within_first(hashes, most, chance)], "over_per_prompt")

    def sample(self, name: str, count: int, seed: int) -> None:
        """Drop all but so many rows of a source; chance says which."""
        wanted = self.alive_of(name)
        if np.count_nonzero(wanted) <= count:
            return

        def chances() -> Iterator[tuple[Indices, Hashes]]:
            for here, order in self.column("order").chunks():
                places = np.flatnonzero(wanted[here])
                yield places + here.start, mixed(order[places], seed)

        for places in lowest(chances, count):
            wanted[places] = False
        self._drop_at(np.flatnonzero(wanted), "not_sampled")

    def drop_contradictions(self, name: str) -> None:
        """Drop rows of the same prompt and replies that differ in a column of true and false."""
        for places, hashes in groups(self.column("exact")):
            flags = self.column(name).take(places).astype(np.bool_)
            both = np.intersect1d(hashes[flags], hashes[~flags])
            gone = np.isin(hashes, both) & self.alive[places]
            self._drop_at(places[gone], "contradiction")

    def drop_near_duplicates_of_held_out(self, elsewhere: Iterable[Iterable[pa.Table]]) -> None:
        """Drop training rows whose first user turn is a near duplicate of a held-out one, of this
        table or of those `elsewhere`, as it was and as it is after a cut; and validation rows that
        a cut made repeat a test prompt."""
        self._hold_out(table for tables in elsewhere for table in tables if table.num_rows)
        held = np.concatenate([self._turns_of((VALIDATION, TEST)), *self._held_out])
        self._drop_named(TRAIN, held, self._texts.labels)
        self._drop_named(VALIDATION, self._turns_of((TEST,)), lambda keys: keys)

    def _hold_out(self, tables: Iterable[pa.Table]) -> None:
        """Note the first user turns of other tables' rows whose side is not train."""
        with closing(self._desk.read("held_out", tables)) as read:
            for _, notes in read:
                self._texts.take(notes.texts)
                columns = notes.columns
                out = self._sides_of(columns["split"], columns["place"]) != TRAIN
                # Nothing is cut there: all is seen as it was.
                self._held_out.append(np.unique(columns["turn"][out]))

    def _drop_named(self, side: int, turns: Hashes, labels: Callable[[Hashes], Hashes]) -> None:
        for places in self._named(side, turns, labels):
            self._drop_at(places, "near_repeat")

    def leaked(self) -> int:
        """How many rows stand on one side with a prompt that is, nearly, on another."""
        held = self._turns_of((VALIDATION, TEST))
        return sum(map(len, self._named(TRAIN, held, self._texts.labels)))

    def _turns_of(self, sides: tuple[int, ...]) -> Hashes:
        """The first user turns of the rows alive on these sides, as they were and after a cut."""
        found = [np.zeros(0, np.uint64)]
        for here, own in self._every_side():
            kept = self.alive[here] & np.isin(own, sides)
            for name in ("turn", "seen"):
                found.append(np.unique(self.column(name).read(here.start, here.stop)[kept]))
        return np.unique(np.concatenate(found))

    def _named(
        self, side: int, turns: Hashes, labels: Callable[[Hashes], Hashes]
    ) -> Iterator[Indices]:
        """The rows alive on a side whose first user turn has a label that one of `turns` has."""
        wanted = np.unique(labels(turns))
        for here, own in self._every_side():
            places = here.start + np.flatnonzero(self.alive[here] & (own == side))
            turn, seen = (labels(self.column(name).take(places)) for name in ("turn", "seen"))
            yield places[among(turn, wanted) | among(seen, wanted)]

    def _every_side(self) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        for here, split in self.column("split").chunks():
            place = self.column("place").read(here.start, here.stop)
            yield here, self._sides_of(split, place)

    def _sides(self, places: Indices) -> npt.NDArray[np.int64]:
        columns = (self.column(name).take(places) for name in ("split", "place"))
        return self._sides_of(*columns)

    def _sides_of(self, given: npt.NDArray[Any], places: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The side of each row: the one it came with, else that of its first user turn."""
        test, validation = self._shares
        own = np.where(places < test, TEST, np.where(places < test + validation, VALIDATION, 0))
        return np.where(given < 0, own, given).astype(np.int64)

    # What is written

    def cut_prompts(self) -> int:
        """How many rows alive lose old turns of their prompts."""
        chunks = self.column("cut").chunks()
        return sum(int((self.alive[here] & (cuts > 0)).sum()) for here, cuts in chunks)

    def tokenized(self) -> int:
        """How many distinct texts were tokenized."""
        return sum(len(np.unique(hashes)) for _, hashes in groups(self._tokenized))

    def counts(self) -> dict[str, int]:
        """Rows alive as `split/source`, sorted by name."""
        totals = np.zeros(len(SPLITS) * len(self._codes), np.int64)
        for here, sides in self._every_side():
            sources = self.column("source").read(here.start, here.stop)
            numbers = sides + len(SPLITS) * sources.astype(np.int64)
            totals += np.bincount(numbers[self.alive[here]], minlength=len(totals))
        found = {
            f"{split}/{name}": int(totals[side + len(SPLITS) * code])
            for name, code in self._codes.items()
            for side, split in enumerate(SPLITS)
        }
        return {name: count for name, count in sorted(found.items()) if count}

    def emit(
        self,
        batches: Iterable[pa.Table],
        path: Path,
        schema: pa.Schema,
        on_group: Callable[[pa.Table], None],
        change: Callable[[pa.Table], pa.Table] = lambda table: table,
    ) -> int:
        """Write the rows alive with their splits, in the order of their hashes; `batches` are those
        that were scanned, `change` is done to those that stay. Returns how many there are."""
        start = 0
        with OrderedTable(path, schema, on_group) as ordered:
            for batch in batches:
                places = start + np.flatnonzero(self.alive[start : start + batch.num_rows])
                kept = batch.take(pa.array(places - start))
                start += batch.num_rows
                rows = cut_prompts(kept, self.column("cut").take(places))
                splits = pa.array(SPLITS, pa.string()).take(pa.array(self._sides(places)))
                if "split" in rows.column_names:
                    rows = rows.drop_columns(["split"])
                order = self.column("order").take(places)
                ordered.add(change(rows.append_column("split", splits)), order)
        return ordered.rows
