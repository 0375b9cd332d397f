"""Reading and writing the tables of version folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatllama_pipeline.data.splits import Messages, Row
from chatllama_pipeline.records import TABLE_FILE, Message, Prompt, Split
from chatllama_pipeline.table_files import most_bytes, next_part, record_batches

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


def read_rows(version: Path, name: str = TABLE_FILE) -> list[Row]:
    """All rows of a version's table, as plain values."""
    return [row for batch in record_batches(version / name) for row in batch.to_pylist()]


def read_split(version: Path | str, split: Split, name: str = TABLE_FILE) -> list[Row]:
    """The rows of one split, in the table's order, as plain values."""
    return list(SplitRows(version, split, name))


class SplitRows:
    """The rows of one split in the table's order, as plain values, read anew each time; some
    thousand are in memory at once."""

    def __init__(self, version: Path | str, split: Split, name: str = TABLE_FILE) -> None:
        self._path, self._split = Path(version) / name, split
        sides = record_batches(self._path, ["split"])
        self._count = sum(pc.sum(pc.equal(batch["split"], split)).as_py() or 0 for batch in sides)

    def __len__(self) -> int:
        return self._count

    def of_source(self, source: str) -> int:
        """How many of them came of that source."""
        both = record_batches(self._path, ["split", "source"])
        mine = (
            pc.and_(pc.equal(batch["split"], self._split), pc.equal(batch["source"], source))
            for batch in both
        )
        return sum(pc.sum(each).as_py() or 0 for each in mine)

    def __iter__(self) -> Iterator[Row]:
        for batch in record_batches(self._path):
            yield from batch.filter(pc.equal(batch["split"], self._split)).to_pylist()


def rows_by_hash(version: Path | str, split: Split) -> list[Row]:
    """The rows of one split in the order of their prompt's hash, so that no source comes first and
    the choice stays when rows are added."""
    rows = read_split(version, split)
    rows.sort(key=lambda row: hashlib.sha256(json.dumps(row["prompt"]).encode()).digest())
    return rows


def write_rows(
    rows: Iterable[Row], schema: pa.Schema, output: Path, name: str = TABLE_FILE
) -> None:
    """Write rows as a table of that schema; columns beyond it are left out."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), output / name)


def as_prompt(messages: Messages) -> Prompt:
    """Role messages of a row as records."""
    return [Message(turn["role"], turn["content"]) for turn in messages]


def as_messages(prompt: Prompt) -> Messages:
    """Records as role messages of a row."""
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def user_messages(text: str) -> Messages:
    """A single user turn as role messages of a row."""
    return [{"role": "user", "content": text}]


def _plain_texts(prompts: pa.ChunkedArray) -> Iterator[str]:
    """`plain_text` of each prompt of a column."""
    column = prompts.combine_chunks()
    turns = column.flatten()
    contents = turns.field("content").to_pylist()
    ends = np.cumsum(column.value_lengths().to_numpy()).tolist()
    start = 0
    for number, end in enumerate(ends):
        # Most are a single turn, of which no role is asked.
        yield contents[start] if end == start + 1 else plain_text(column[number].as_py())
        start = end


def plain_text(messages: Messages) -> str:
    """A prompt without roles, as the original's files hold it.

    One turn is its content; several are labelled "Human:" and "Assistant:" (a system turn keeps
    no label), a blank line between them.
    """
    if len(messages) == 1:
        return messages[0]["content"]
    labels = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
    return "\n\n".join(labels[turn["role"]] + turn["content"] for turn in messages)


class OriginalFile:
    """Writes rows as the original ChatLLaMA's JSON list: `user_input` and the named columns; as
    several lists, in a folder of that name, where a table would be several files."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._path, self._columns = path, columns
        self._most = most_bytes()
        self._parts = 0
        self._begin(path)

    def _begin(self, path: Path) -> None:
        self._between = ""
        self._file = path.open("wb")
        self._file.write(b"[")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._end()

    def _end(self) -> None:
        self._file.write(b"\n]\n")
        self._file.close()

    def add(self, table: pa.Table) -> None:
        """Add rows behind the others."""
        if self._file.tell() >= self._most:
            self._end()
            self._parts += 1
            self._begin(next_part(self._path, self._parts))
        inputs = map(_ENCODE, _plain_texts(table["prompt"]))
        values = [map(_ENCODE, table[name].to_pylist()) for name in self._columns]
        names = [f'"{name}": ' for name in ("user_input", *self._columns)]
        rows = [
            ", ".join(map(str.__add__, names, row)) for row in zip(inputs, *values, strict=True)
        ]
        if rows:
            listed = ",\n ".join(f"{{{row}}}" for row in rows)
            self._file.write(f"{self._between}\n {listed}".encode())
            self._between = ","


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A table's rows, some thousand at a time, in its order."""
    for batch in record_batches(path, columns):
        yield pa.Table.from_batches([batch])


def read_first(version: Path, split: Split, count: int) -> list[Row]:
    """The first rows of a split in the table's order, as plain values; no more is read."""
    rows: list[Row] = []
    for table in read_batches(version / TABLE_FILE) if count else ():
        rows += table.filter(pc.equal(table["split"], split)).to_pylist()
        if len(rows) >= count:
            break
    return rows[:count]
