"""Rows of a published table, as the stages read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatllama_pipeline.records import TABLE_FILE, Message, Prompt, Split


def read_rows(folder: Path | str, split: Split) -> list[dict[str, Any]]:
    """The rows of one split, in the table's order; `prompt` is a list of role/content dicts."""
    rows: list[dict[str, Any]] = pq.read_table(
        Path(folder) / TABLE_FILE, filters=pc.field("split") == split
    ).to_pylist()
    return rows


def as_prompt(messages: list[dict[str, str]]) -> Prompt:
    """A row's `prompt` column as messages."""
    return [Message(message["role"], message["content"]) for message in messages]
