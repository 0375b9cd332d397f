"""Rows on their way into a table: what is known of each, and which of them stay.

Rows come in batches, twice: `scan` notes some 80 bytes of each row, `emit` writes those that the
drops in between left alive. What is decided follows from the rows' hashes, so the order in which
they came changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.hashes import Hashes, mixed, text_hash
from chatllama_pipeline.data.near_duplicates import Indices, TextIndex
from chatllama_pipeline.data.ordered import OrderedTable
from chatllama_pipeline.data.prepare.lengths import TOO_LONG, Limits, TokenCounter, cut_prompts, fit
from chatllama_pipeline.data.prepare.selection import first_of_each
from chatllama_pipeline.records import SPLITS
from chatllama_pipeline.settings import AssistantSettings

Flags = npt.NDArray[np.bool_]
TRAIN, VALIDATION, TEST = range(3)
_ROLES = {"system": 1, "user": 2, "assistant": 3}
# The user's own rows win over the same rows of others.
_FIRST_SOURCE = "personal"


class Preparation:
    """The rows of one table; `replies` are the columns of texts beside the prompt."""

    def __init__(
        self,
        replies: tuple[str, ...],
        settings: AssistantSettings,
        limits: Limits,
        counter: TokenCounter | None = None,
    ) -> None:
        self.funnel = Funnel()
        self.counter = counter or TokenCounter(settings)
        self._replies = replies
        self._settings = settings
        self._limits = limits
        self._texts = TextIndex()
        self._codes: dict[str, int] = {}
        self._parts: dict[str, list[npt.NDArray[Any]]] = {}
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self._held_out: list[Indices] = []
        self._labels: Indices | None = None

    # What is known of rows

    def scan(self, table: pa.Table, trusted: bool = False) -> None:
        """Note a batch of rows: prompt, replies, source, and `split` where it stands already.

        The lengths of `trusted` rows were held before.
        """
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
        if not trusted and self._limits != Limits(None, None):
            fits, cuts = fit(table, self._replies, self._limits, self.counter)
        first = _first_user_turns(codes, offsets, np.zeros_like(cuts))
        seen = _first_user_turns(codes, offsets, cuts)
        lone = np.diff(offsets) == 1
        replies = {name: table[name].to_pylist() for name in self._replies}
        reply_hashes = {name: _hashes(texts) for name, texts in replies.items()}

        def whole(i: int) -> str:
            return "\n\n".join(contents[offsets[i] : offsets[i + 1]])

        def turn(numbers: Indices) -> Callable[[int], str]:
            return lambda i: contents[numbers[i]]

        noted: dict[str, npt.NDArray[Any]] = {
            "turn": self._texts.add(raw[first], turn(first), placed=True),
            "seen": self._texts.add(raw[seen], turn(seen), placed=True),
            "prompt": self._texts.add(np.where(lone, raw[offsets[:-1]], prompt), whole),
            "exact": mixed(prompt, *reply_hashes.values()),
            "prompt_hash": prompt,
            "source": self._source_codes(table["source"].to_pylist()),
            "cut": cuts,
            "split": _split_codes(table),
        }
        for name, texts in replies.items():
            noted[f"near_{name}"] = self._texts.add(reply_hashes[name], texts.__getitem__)
        sources = np.array([text_hash(name) for name in self._codes], np.uint64)
        noted["order"] = mixed(noted["exact"], sources[noted["source"]])
        noted["alive"] = np.ones(table.num_rows, np.bool_)
        for name, values in noted.items():
            self._parts.setdefault(name, []).append(values)
        self._drop_part(~fits, TOO_LONG)

    def note(self, name: str, values: npt.NDArray[Any]) -> None:
        """Keep a further column of the batch that was scanned last."""
        self._parts.setdefault(name, []).append(values)

    def drop_scanned(self, gone: Flags, reason: str) -> None:
        """Drop rows of the batch that was scanned last."""
        self._drop_part(gone, reason)

    def hold_out(self, table: pa.Table) -> None:
        """Prompts that no training row may nearly repeat, though they don't stand in this table:
        those of `table` whose side is not train."""
        scanned = Preparation((), self._settings, Limits(None, None), self.counter)
        scanned._texts = self._texts
        scanned.scan(table)
        sides = scanned._sides()
        for name in ("turn", "seen"):
            self._held_out.append(scanned.column(name)[sides != TRAIN])

    def drop_near_repeats_with(self, elsewhere: Iterable[Iterable[pa.Table]]) -> None:
        """`drop_near_repeats`, after holding out the prompts of tables elsewhere."""
        for tables in elsewhere:
            for table in tables:
                if table.num_rows:
                    self.hold_out(table)
        self.drop_near_repeats()

    def _source_codes(self, names: list[str]) -> npt.NDArray[np.int64]:
        for name in names:
            if name not in self._codes:
                self._codes[name] = len(self._codes)
        codes = np.array([self._codes[name] for name in names], np.int64)
        for name, code in self._codes.items():
            if count := int((codes == code).sum()):
                self.funnel.read(name, count)
        return codes

    def _drop_part(self, gone: Flags, reason: str) -> None:
        alive, sources = self._parts["alive"][-1], self._parts["source"][-1]
        gone = gone & alive
        self._count(sources[gone], reason)
        alive &= ~gone

    def column(self, name: str) -> npt.NDArray[Any]:
        """What was noted of all rows."""
        if name not in self._columns:
            parts = self._parts.pop(name, [])
            self._columns[name] = np.concatenate(parts) if parts else np.zeros(0, np.int64)
            if name == "alive":
                self._columns[name] = self._columns[name].astype(np.bool_)
        return self._columns[name]

    # Which rows stay

    def drop(self, gone: Flags, reason: str) -> None:
        """Drop rows that are alive, counted by source."""
        alive = self.column("alive")
        gone = gone & alive
        self._count(self.column("source")[gone], reason)
        alive &= ~gone

    def _count(self, codes: npt.NDArray[Any], reason: str) -> None:
        for name, code in self._codes.items():
            self.funnel.drop(name, reason, int((codes == code).sum()))

    def source_is(self, name: str) -> Flags:
        """Rows of a source."""
        found: Flags = self.column("source") == self._codes.get(name, -1)
        return found

    def drop_duplicates(self, *ranks: npt.NDArray[Any]) -> None:
        """Drop all but one of the rows with the same prompt and replies: the user's own, or else
        the one with the lowest ranks, or else hash."""
        self._keep_first("exact", self.column("exact"), *ranks)

    def drop_near_duplicates(self) -> None:
        """Drop all but one of the rows whose prompts and replies are nearly the same, each: one
        that is held out, or else the user's own, or else that with the lowest hash."""
        labels = self._clusters()
        columns = ["prompt", *(f"near_{name}" for name in self._replies)]
        keys = mixed(*(labels[self.column(name)].astype(np.uint64) for name in columns))
        self._keep_first("near", keys)

    def _keep_first(self, what: str, keys: Hashes, *ranks: npt.NDArray[Any]) -> None:
        alive = np.flatnonzero(self.column("alive"))
        own = ~self.source_is(_FIRST_SOURCE)[alive]
        chosen = [rank[alive] for rank in ranks]
        trains = self._sides()[alive] == TRAIN
        kept = first_of_each(keys[alive], trains, own, *chosen, self.column("order")[alive])
        gone = np.zeros(len(keys), np.bool_)
        gone[alive[~kept]] = True
        self.drop(gone, "duplicate" if what == "exact" else "near_duplicate")

    def drop_near_repeats(self) -> None:
        """Drop training rows whose first user turn nearly repeats a held-out one, as it was and as
        it is after a cut; and validation rows that a cut made repeat a test prompt."""
        labels, sides, alive = self._clusters(), self._sides(), self.column("alive")
        kept = alive & (sides != TRAIN)
        outside = [labels[numbers] for numbers in self._held_out]
        held = [labels[self.column(name)[kept]] for name in ("turn", "seen")] + outside
        self.drop((sides == TRAIN) & self._names(labels, np.concatenate(held)), "near_repeat")
        numbers = np.arange(len(labels))
        test = alive & (sides == TEST)
        tested = np.concatenate([self.column(name)[test] for name in ("turn", "seen")])
        self.drop((sides == VALIDATION) & self._names(numbers, tested), "near_repeat")

    def leaked(self) -> int:
        """How many rows stand on one side with a prompt that is, nearly, on another."""
        labels, sides, alive = self._clusters(), self._sides(), self.column("alive")
        held = [labels[self.column(name)[alive & (sides != TRAIN)]] for name in ("turn", "seen")]
        return int((alive & (sides == TRAIN) & self._names(labels, np.concatenate(held))).sum())

    def _names(self, labels: Indices, wanted: Indices) -> Flags:
        """Rows whose first user turn has one of the labels."""
        found = np.zeros(len(labels) + 1, np.bool_)
        found[wanted] = True
        named: Flags = found[labels[self.column("turn")]] | found[labels[self.column("seen")]]
        return named

    def _clusters(self) -> Indices:
        if self._labels is None or len(self._labels) != len(self._texts):
            self._labels = self._texts.clusters()
        return self._labels

    def _sides(self) -> npt.NDArray[np.int64]:
        """The side of each row: the one it came with, else that of its first user turn."""
        given = self.column("split")
        places = self._texts.places()[self.column("turn")] if len(given) else given.astype(float)
        test = self._settings.data.test_share
        own = np.where(
            places < test,
            TEST,
            np.where(places < test + self._settings.data.validation_share, VALIDATION, 0),
        )
        return np.where(given < 0, own, given)

    # What is written

    def cut_prompts(self) -> int:
        """How many rows alive lose old turns of their prompts."""
        return int((self.column("alive") & (self.column("cut") > 0)).sum())

    def counts(self) -> dict[str, int]:
        """Rows alive as `split/source`, sorted by name."""
        alive, sides = self.column("alive"), self._sides()
        found = {
            f"{split}/{name}": int((alive & (sides == side) & self.source_is(name)).sum())
            for name in self._codes
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
        alive, sides, cuts = self.column("alive"), self._sides(), self.column("cut")
        order, start = self.column("order"), 0
        with OrderedTable(path, schema, on_group) as ordered:
            for batch in batches:
                here = slice(start, start + batch.num_rows)
                start += batch.num_rows
                mask = alive[here]
                rows = cut_prompts(batch.filter(pa.array(mask)), cuts[here][mask])
                splits = pa.array(np.array(SPLITS)[sides[here][mask]], pa.string())
                if "split" in rows.column_names:
                    rows = rows.drop_columns(["split"])
                ordered.add(change(rows.append_column("split", splits)), order[here][mask])
        return ordered.rows


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
