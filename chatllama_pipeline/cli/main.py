"""`chatllama`, or `python -m chatllama_pipeline`: make an assistant, look at it, talk to it."""

from __future__ import annotations

import sys

import click

from chatllama_pipeline.cli.approve import approve
from chatllama_pipeline.cli.cache import cache
from chatllama_pipeline.cli.chat import chat
from chatllama_pipeline.cli.completion import completion
from chatllama_pipeline.cli.doctor.command import doctor
from chatllama_pipeline.cli.make import make
from chatllama_pipeline.cli.preview import preview
from chatllama_pipeline.cli.score import score
from chatllama_pipeline.cli.serving.export import export
from chatllama_pipeline.cli.serving.feedback import feedback
from chatllama_pipeline.cli.serving.publish import publish
from chatllama_pipeline.cli.serving.reports import reports
from chatllama_pipeline.cli.serving.serve import serve
from chatllama_pipeline.cli.serving.ui import ui
from chatllama_pipeline.cli.status import status
from chatllama_pipeline.cli.stop import stop
from chatllama_pipeline.cli.store.group import store
from chatllama_pipeline.cli.versions.compare import compare
from chatllama_pipeline.cli.versions.listing import diff, versions
from chatllama_pipeline.cli.versions.removing import forget, prune
from chatllama_pipeline.cli.versions.rollback import rollback
from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.progress import Progress, listening

# Each imports what it needs when it runs: help and completion answer at once.
COMMANDS = (
    make,
    stop,
    status,
    doctor,
    ui,
    reports,
    versions,
    diff,
    rollback,
    prune,
    forget,
    preview,
    chat,
    serve,
    export,
    publish,
    feedback,
    compare,
    score,
    approve,
    store,
    cache,
    completion,
)


@click.group()
def cli() -> None:
    """Make an assistant, look at it, talk to it, serve it, score with it, approve its release."""


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """The console script: errors of ours in a line or two, and exit code 2."""
    progress = Progress("chatllama", lambda line: click.echo(line, err=True))
    try:
        with listening(progress):
            cli()
    except ChatllamaError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
