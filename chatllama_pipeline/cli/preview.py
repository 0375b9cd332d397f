"""`chatllama preview NAME`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@assistant_name
def preview(name: str) -> None:
    """What models would be asked for an assistant, and what it would cost; calls nobody."""
    from chatllama_pipeline.artifacts import Store, store_root
    from chatllama_pipeline.assistants import load_assistant
    from chatllama_pipeline.llm.preview import preview_lines

    for line in preview_lines(load_assistant(name), Store(store_root())):
        click.echo(line)
