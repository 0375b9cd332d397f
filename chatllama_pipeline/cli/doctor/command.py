"""The command `chatllama doctor`."""

from __future__ import annotations

import sys

import click


@click.command()
def doctor() -> None:
    """Look at installation, machine, store, cluster, Dagster's home and every assistant.

    Exit code 1 where something stands in the way of a run, else 0.
    """
    from chatllama_pipeline.cli.doctor import findings

    faults = 0
    looks = (
        findings.installation,
        findings.machine,
        findings.store,
        findings.cluster,
        findings.dagster_home,
        findings.assistants,
    )
    for look in looks:
        for found in look():
            click.echo(str(found))
            faults += found.level == "fault"
    if faults:
        click.echo(f"{faults} stand in the way of runs")
        sys.exit(1)
    click.echo("nothing stands in the way of a run")
