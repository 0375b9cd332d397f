"""The command group `chatllama store`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.store.check import check


@click.group()
def store() -> None:
    """Try whether a place is fit for a store."""


store.add_command(check)
