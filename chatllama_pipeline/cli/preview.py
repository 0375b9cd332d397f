"""`chatllama preview NAME`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@assistant_name
def preview(name: str) -> None:
    """What models would be asked for an assistant, and what it would cost; calls nobody."""
    from chatllama_pipeline.lineage.preview import preview_lines
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    for line in preview_lines(load_assistant(name), Store(store_root())):
        click.echo(line)
