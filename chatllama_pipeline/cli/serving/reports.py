"""`chatllama reports`."""

from __future__ import annotations

import click

from chatllama_pipeline.cli.serving.ui import LOOPBACK


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="3001; 0: any that is free.")
def reports(port: int | None) -> None:
    """Serve the reports and audits that Dagster's page links to, to this machine alone.

    `chatllama ui` does so by itself; this is for services of their own.
    """
    from chatllama_pipeline.serving.api.access.place import open_place
    from chatllama_pipeline.serving.reports.addresses import PORT
    from chatllama_pipeline.serving.reports.server import serve_reports
    from chatllama_pipeline.store.versions import Store, store_root

    place = open_place(LOOPBACK, PORT if port is None else port, ())
    click.echo(f"reports of {store_root()} at {place.url}; Ctrl-C ends it", err=True)
    serve_reports(place, Store(store_root()))
