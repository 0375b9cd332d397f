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
    if since is not None:
        show_run(name, since)
        return
    from chatllama_pipeline.lineage.status import status_lines
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root

    for line in status_lines(load_assistant(name), Store(store_root())):
        click.echo(line)


def show_run(name: str, since: float, asked: str = "") -> None:
    """Print what the last run made that began at `since` or later; `asked` is its name."""
    import time

    from chatllama_pipeline.lineage.status import run_lines
    from chatllama_pipeline.settings.folder import load_assistant
    from chatllama_pipeline.store.versions import Store, store_root
    from chatllama_pipeline.store.views import newest_run

    run = newest_run(store_root(), name, since, asked)
    store = run or Store(store_root())
    assistant = run.assistant if run else load_assistant(name)
    for line in run_lines(assistant, store, since, time.time()):
        click.echo(line)
