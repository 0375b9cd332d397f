"""Files of replies, and what an assistant's reward model says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.own.errors import Errors
from chatllama_pipeline.data.own.files.reading import read_file
from chatllama_pipeline.data.own.rows import FileRows, Reading
from chatllama_pipeline.data.tables import as_prompt
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import Prompt

REWARD, REWARDS = "reward", "rewards"
SCORED_ENDING = ".scored.json"
STDOUT = "-"
DECIMALS = 6


@dataclass(frozen=True)
class Reply:
    """A row of the file as it stands there, and the prompt and reply it holds."""

    raw: dict[str, Any]
    prompt: Prompt
    reply: str


def read_replies(file: Path) -> list[Reply]:
    """The rows of `file`; raises DataError with every row and field that is missing or unfit."""
    errors, replies = Errors(), []
    reading = Reading("actor", str(file), errors)
    rows = FileRows(reading)
    for number, raw in read_file(file, reading, also=None):
        # A conversation may hold several replies: the last one is scored.
        converted = rows.rows_of(number, raw)
        if converted:
            _, row = converted[-1]
            replies.append(Reply(raw, as_prompt(row["prompt"]), row["completion"]))
    rows.close()
    if errors.count:
        raise DataError("\n".join(errors.lines()))
    if not replies:
        raise DataError(f"{file}: holds no rows; write at least one with user_input and completion")
    return replies


def as_json(
    replies: list[Reply], rewards: list[float], terms: list[dict[str, float | None]] | None = None
) -> str:
    """The rows of the file with each its reward, and with what each of `terms` says of it."""
    rows = [
        {**reply.raw, REWARD: round(reward, DECIMALS)}
        for reply, reward in zip(replies, rewards, strict=True)
    ]
    if terms is not None:
        rows = [{**row, REWARDS: told} for row, told in zip(rows, terms, strict=True)]
    return json.dumps(rows, indent=1, ensure_ascii=False, default=str) + "\n"


def summary(model: str, rewards: list[float], target: Path | None) -> str:
    """How many replies were scored by the version `model`, their mean, and where they are."""
    mean = sum(rewards) / len(rewards)
    where = "" if target is None else f", written to {target}"
    scored = "1 reply" if len(rewards) == 1 else f"{len(rewards)} replies"
    return f"{scored} scored by reward_model {model}, mean {mean:.3f}{where}"


def target_file(file: Path, output: str | None) -> Path:
    """Where the scored rows go; DataError where that can't be written or stands already."""
    target = Path(output) if output else file.with_name(file.name.split(".")[0] + SCORED_ENDING)
    if target.exists():
        raise DataError(f"{target} exists already: name another file with --output, or remove it")
    if not target.parent.is_dir():
        raise DataError(f"{target}: the folder {target.parent} does not exist: make it first")
    return target
