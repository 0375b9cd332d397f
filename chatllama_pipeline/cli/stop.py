"""`chatllama stop NAME`."""

from __future__ import annotations

import sys

import click

from chatllama_pipeline.cli.names import assistant_name


@click.command()
@assistant_name
def stop(name: str) -> None:
    """End the runs of an assistant, whoever started them; a training saves its state first."""
    from chatllama_pipeline.cli.dagster_runs import module_command, run_dagster
    from chatllama_pipeline.settings.folder import load_assistant

    load_assistant(name)
    sys.exit(run_dagster(module_command("chatllama_pipeline.automation.stopping", name)))
