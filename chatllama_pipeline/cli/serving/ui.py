"""`chatllama ui`."""

from __future__ import annotations

import os
import sys

import click

from chatllama_pipeline.cli.dagster_runs import page_command, run_dagster

LOOPBACK = "127.0.0.1"


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Of Dagster's page; 3000, or a free one."
)
@click.option(
    "--reports-port",
    type=click.IntRange(0, 65535),
    help="Of the reports that it links to; 3001. 0: any that is free.",
)
def ui(port: int | None, reports_port: int | None) -> None:
    """Dagster's page on this machine, with its daemon, and the reports that it links to."""
    from chatllama_pipeline.serving.api.access.place import open_place
    from chatllama_pipeline.serving.reports.addresses import PORT, VARIABLE
    from chatllama_pipeline.serving.reports.server import reports_beside
    from chatllama_pipeline.store.versions import Store, store_root

    reports_port = PORT if reports_port is None else reports_port
    place = open_place(LOOPBACK, reports_port, (), "--reports-port")
    # Runs that the page starts link to where their reports are served.
    os.environ.setdefault(VARIABLE, place.url)
    with reports_beside(place, Store(store_root())):
        sys.exit(run_dagster(page_command(LOOPBACK, port)))
