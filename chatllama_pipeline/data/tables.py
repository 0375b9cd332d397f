"""Reading and writing the tables of version folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatllama_pipeline.data.splits import Messages, Row
from chatllama_pipeline.records import TABLE_FILE, Message, Prompt, Split


def read_rows(version: Path, name: str = TABLE_FILE) -> list[Row]:
    """All rows of a version's table, as plain values."""
    rows: list[Row] = pq.read_table(version / name).to_pylist()
    return rows


def read_split(version: Path | str, split: Split) -> list[Row]:
    """The rows of one split, in the table's order, as plain values."""
    wanted = pc.field("split") == split
    rows: list[Row] = pq.read_table(Path(version) / TABLE_FILE, filters=wanted).to_pylist()
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


def write_original(rows: Iterable[Row], columns: tuple[str, ...], path: Path) -> None:
    """Write rows as the original ChatLLaMA's JSON list: `user_input` and the named columns."""
    listed: list[dict[str, Any]] = [
        {"user_input": plain_text(row["prompt"]), **{column: row[column] for column in columns}}
        for row in rows
    ]
    path.write_text(json.dumps(listed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
