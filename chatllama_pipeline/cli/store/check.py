"""`chatllama store check [PLACE]`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("place", required=False)
def check(place: str | None) -> None:
    """Try in PLACE, or in the store, what versions rest on; tell what follows where it fails.

    Exit code 1 where no store can stand there, else 0.
    """
    from chatllama_pipeline.store.places.check import folder_findings
    from chatllama_pipeline.store.versions import make_private, store_root

    if place is None:
        root = store_root()
        make_private(root)
    else:
        root = Path(place).absolute()
    faults = 0
    for found in folder_findings(root):
        click.echo(str(found))
        faults += found.level == "fault"
    if faults:
        click.echo(f"no store can stand in {root}")
        sys.exit(1)
    click.echo(f"a store can stand in {root}")
