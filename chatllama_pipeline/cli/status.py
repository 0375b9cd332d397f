"""`chatllama status NAME`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@assistant_name
@click.option(
    "--since", type=float, help="Only what a run made that began then, in seconds since 1970."
)
def status(name: str, since: float | None) -> None:
    """What of an assistant is current, stale and released."""
    show_status(name, since)


def show_status(name: str, since: float | None) -> None:
    """Print the table of all assets, or of those that a run made which began at `since`."""
    import time

    from chatllama_pipeline.lineage.status import run_lines, status_lines
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    assistant, store = load_assistant(name), Store(store_root())
    if since is None:
        lines = status_lines(assistant, store)
    else:
        lines = run_lines(assistant, store, since, time.time())
    for line in lines:
        click.echo(line)
