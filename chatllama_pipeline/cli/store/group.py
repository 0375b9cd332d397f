"""The command group `chatllama store`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.store.check import check
from chatllama_pipeline.cli.store.copy import copy


@click.group()
def store() -> None:
    """Try whether a place is fit for a store; copy versions from one store to another."""


store.add_command(check)
store.add_command(copy)
