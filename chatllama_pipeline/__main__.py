"""`python -m chatllama_pipeline`: the few commands that Dagster lacks."""

from __future__ import annotations

import getpass
import sys
import time

import click

from chatllama_pipeline.artifacts import Store, store_root
from chatllama_pipeline.assistants import load_assistant
from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.llm.cache_command import cache
from chatllama_pipeline.llm.preview import preview_lines
from chatllama_pipeline.recipes import read_in_use
from chatllama_pipeline.serving.approvals import approve as write_approval
from chatllama_pipeline.serving.scores import score
from chatllama_pipeline.status import materialize_command, run_lines, status_lines


@click.group()
def cli() -> None:
    """Look at an assistant, talk to it, score with it, approve its release."""


cli.add_command(cache)
cli.add_command(score)


@cli.command()
@click.argument("name")
@click.option(
    "--since", type=float, help="Only what a run made that began then, in seconds since 1970."
)
def status(name: str, since: float | None) -> None:
    """What of an assistant is current, stale and released."""
    assistant, store = load_assistant(name), Store(store_root())
    if since is None:
        lines = status_lines(assistant, store)
    else:
        lines = run_lines(assistant, store, since, time.time())
    for line in lines:
        click.echo(line)


@cli.command()
@click.argument("name")
def preview(name: str) -> None:
    """What models would be asked for an assistant, and what it would cost; calls nobody."""
    for line in preview_lines(load_assistant(name), Store(store_root())):
        click.echo(line)


@cli.command()
@click.argument("name")
def chat(name: str) -> None:
    """Talk to an assistant's release in the terminal."""
    release = read_in_use("release", load_assistant(name), Store(store_root()))
    # torch and transformers take seconds to import, and only this command needs them.
    from chatllama_pipeline.serving.chat import chat as talk

    talk(release.path)


@cli.command()
@click.argument("name")
def approve(name: str) -> None:
    """Release an assistant that the gate held back: a person's word for its evaluation."""
    assistant, store = load_assistant(name), Store(store_root())
    evaluation = read_in_use("evaluation", assistant, store)
    write_approval(store.root, assistant.name, evaluation.id, by=getpass.getuser())
    click.echo(f"approved evaluation {evaluation.id} of {name}; now make the release with")
    click.echo(f"  {materialize_command(name, 'release')}")


def main() -> None:
    try:
        cli(prog_name="python -m chatllama_pipeline")
    except ChatllamaError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
