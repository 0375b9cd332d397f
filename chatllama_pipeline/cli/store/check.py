"""`chatllama store check [PLACE]`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from chatllama_pipeline.records import Finding


@click.command()
@click.argument("place", required=False)
def check(place: str | None) -> None:
    """Try in PLACE, or in the store, what versions rest on; tell what follows where it fails.

    PLACE is a folder, or the URL of a bucket. Exit code 1 where no store can stand there, else 0.
    """
    faults = 0
    where, findings = _findings(place)
    for found in findings:
        click.echo(str(found))
        faults += found.level == "fault"
    if faults:
        click.echo(f"no store can stand in {where}")
        sys.exit(1)
    click.echo(f"a store can stand in {where}")


def _findings(place: str | None) -> tuple[str, Iterator[Finding]]:
    """The place that is looked at, and what is found of it."""
    from chatllama_pipeline.store.places.bucket import bucket_findings
    from chatllama_pipeline.store.places.check import folder_findings
    from chatllama_pipeline.store.remote.address import is_url
    from chatllama_pipeline.store.remote.mirror import mirror_of
    from chatllama_pipeline.store.versions import make_private, store_root

    if place is None:
        root = store_root()
        make_private(root)
        if mirror := mirror_of(root):
            url = mirror.bucket.url
            return url, itertools.chain(bucket_findings(url), folder_findings(root))
        return str(root), folder_findings(root)
    if is_url(place):
        return place, bucket_findings(place)
    return place, folder_findings(Path(place).expanduser().absolute())
