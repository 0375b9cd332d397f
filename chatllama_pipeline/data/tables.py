"""Reading and writing the tables of version folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatllama_pipeline.data.splits import Messages, Row
from chatllama_pipeline.progress import counted
from chatllama_pipeline.records import TABLE_FILE, Message, Prompt, Split

_ROWS_PER_BATCH = 4_096


def read_rows(version: Path, name: str = TABLE_FILE) -> list[Row]:
    """All rows of a version's table, as plain values."""
    rows: list[Row] = pq.read_table(version / name).to_pylist()
    return rows


def read_split(version: Path | str, split: Split, name: str = TABLE_FILE) -> list[Row]:
    """The rows of one split, in the table's order, as plain values."""
    wanted = pc.field("split") == split
    rows: list[Row] = pq.read_table(Path(version) / name, filters=wanted).to_pylist()
    return rows


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
    """Writes rows as the original ChatLLaMA's JSON list: `user_input` and the named columns."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._between = ""
        self._file = path.open("w", encoding="utf-8")
        self._file.write("[")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.write("\n]\n")
        self._file.close()

    def add(self, table: pa.Table) -> None:
        for row in table.select(["prompt", *self._columns]).to_pylist():
            listed = {"user_input": plain_text(row.pop("prompt")), **row}
            self._file.write(f"{self._between}\n {json.dumps(listed, ensure_ascii=False)}")
            self._between = ","


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A table's rows, some thousand at a time, in its order."""
    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(_ROWS_PER_BATCH, columns=columns, use_threads=False)
        for batch in told_batches(path, batches, file):
            yield pa.Table.from_batches([batch])


def told_batches(
    path: Path, batches: Iterable[pa.RecordBatch], file: pq.ParquetFile
) -> Iterator[pa.RecordBatch]:
    """The batches of a version's table, as a phase: what is done with each counts in."""
    # <asset>/<assistant>/versions/<version>/<file>
    asset = path.parts[-5] if path.parts[-3:-2] == ("versions",) else path.parent.name
    rows = file.metadata.num_rows
    return counted(f"reads {asset}", batches, rows, "rows", lambda batch: batch.num_rows)


def read_first(version: Path, split: Split, count: int) -> list[Row]:
    """The first rows of a split in the table's order, as plain values; no more is read."""
    rows: list[Row] = []
    for table in read_batches(version / TABLE_FILE) if count else ():
        rows += table.filter(pc.equal(table["split"], split)).to_pylist()
        if len(rows) >= count:
            break
    return rows[:count]
