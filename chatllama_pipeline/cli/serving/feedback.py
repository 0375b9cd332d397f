"""`chatllama feedback`: what people said of an assistant's replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatllama_pipeline.cli.names import assistant_name

if TYPE_CHECKING:
    from chatllama_pipeline.store.feedback import FeedbackLog

SHOWN_CHARACTERS = 60


@click.group()
def feedback() -> None:
    """What people said of an assistant's replies: import, list, delete."""


@feedback.command("import")
@assistant_name
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--model", "models", multiple=True, help="Another name of the assistant in an export."
)
def import_(name: str, file: Path, models: tuple[str, ...]) -> None:
    """Import ratings from FILE: Open WebUI's export, or JSONL as `list --json` writes it.

    What was imported before is passed over. A file with broken rows is refused whole.
    """
    from chatllama_pipeline.data.feedback.importing import read_feedback

    log = _log(name)
    found = read_feedback(file, name, models)
    added = log.add(found.entries)
    known = len(found.entries) - added
    click.echo(
        f"{added} ratings imported, {known} were there already; {found.others} rows rate other "
        f"models, {found.empty} have no reply or no rating",
        err=True,
    )


@feedback.command("list")
@assistant_name
@click.option("--json", "as_json", is_flag=True, help="Whole, as lines of JSON.")
def list_(name: str, as_json: bool) -> None:
    """List the ratings in the order in which they were given."""
    from chatllama_pipeline.data.feedback.importing import as_row

    for entry in _log(name).entries():
        row = as_row(entry)
        click.echo(json.dumps(row) if as_json else _line(row))


@feedback.command()
@assistant_name
@click.argument("ids", nargs=-1)
@click.option("--visit", default="", help="All ratings of this visit.")
def delete(name: str, ids: tuple[str, ...], visit: str) -> None:
    """Delete the ratings of these ids, or those of a visit, for good."""
    if not ids and not visit:
        raise click.UsageError("name ids, or a --visit")
    click.echo(f"{_log(name).delete(ids=ids, visit=visit)} ratings deleted", err=True)


def _log(name: str) -> FeedbackLog:
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.feedback import FeedbackLog
    from chatllama_pipeline.store.versions import store_root

    load_assistant(name)
    return FeedbackLog(store_root(), name)


def _line(row: dict[str, object]) -> str:
    """A rating in a line: what it says of which words."""
    reply = row["left"] if row["kind"] == "preference" else row["reply"]
    said = {
        "thumb": "up" if row.get("good") else "down",
        "edit": "edit",
        "preference": str(row.get("better")),
    }[str(row["kind"])]
    return f"{row['id']}  {row['at']}  {said:7}  {_shown(reply)}"


def _shown(reply: object) -> str:
    """The beginning of a reply; what would steer a terminal is spelled."""
    assert isinstance(reply, dict)
    text = str(reply["text"])
    short = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
    return ascii(short) if not short.isprintable() else short
