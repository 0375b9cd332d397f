"""`python -m chatllama_pipeline score`: an assistant's reward model on a file of replies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from chatllama_pipeline.artifacts import Store, store_root
from chatllama_pipeline.assistants import load_assistant
from chatllama_pipeline.data.own.errors import Errors
from chatllama_pipeline.data.own.reading import read_file
from chatllama_pipeline.data.own.rows import FileRows, Reading
from chatllama_pipeline.data.tables import as_prompt
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.recipes import read_in_use
from chatllama_pipeline.records import Prompt

REWARD = "reward"
SCORED_ENDING = ".scored.json"
STDOUT = "-"
DECIMALS = 6


@dataclass(frozen=True)
class Reply:
    """A row of the file as it stands there, and the prompt and reply it holds."""

    raw: dict[str, Any]
    prompt: Prompt
    reply: str


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", help="Where to write; FILE.scored.json beside it if not given, - for the terminal."
)
def score(name: str, file: Path, output: str | None) -> None:
    """Score the replies in FILE with an assistant's reward model.

    FILE holds rows with user_input and completion, as reward_training_data.json does (JSON, JSONL,
    CSV or Parquet). It is read, never written: each row comes out with `reward` added, 0 being the
    mean of the replies that the model was trained on and 1 their standard deviation.
    """
    model = read_in_use("reward_model", load_assistant(name), Store(store_root()))
    replies = read_replies(file)
    target = None if output == STDOUT else _target(file, output)
    # torch and transformers take seconds to import, and only this command needs them.
    from chatllama_pipeline.serving.scorer import reward_scores

    rewards, warning = reward_scores(model.path, replies)
    rows = [
        {**reply.raw, REWARD: round(reward, DECIMALS)}
        for reply, reward in zip(replies, rewards, strict=True)
    ]
    text = json.dumps(rows, indent=1, ensure_ascii=False, default=str) + "\n"
    if target is None:
        click.echo(text, nl=False)
    else:
        target.write_text(text, encoding="utf-8")
    mean = sum(rewards) / len(rewards)
    where = "" if target is None else f", written to {target}"
    scored = "1 reply" if len(rows) == 1 else f"{len(rows)} replies"
    click.echo(f"{scored} scored by reward_model {model.id}, mean {mean:.3f}{where}", err=True)
    if warning:
        click.echo(f"warning: {warning}", err=True)


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


def _target(file: Path, output: str | None) -> Path:
    target = Path(output) if output else file.with_name(file.name.split(".")[0] + SCORED_ENDING)
    if target.exists():
        raise DataError(f"{target} exists already: name another file with --output, or remove it")
    if not target.parent.is_dir():
        raise DataError(f"{target}: the folder {target.parent} does not exist: make it first")
    return target
