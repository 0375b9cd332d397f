"""`chatllama make NAME`: all of an assistant by Dagster, in a process of its own."""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from typing import Any

import click

from chatllama_pipeline.cli.dagster_runs import dagster_command, run_dagster
from chatllama_pipeline.cli.names import assistant_name
from chatllama_pipeline.cli.status import show_run

# What --force takes beside the assets' names.
ALL = "all"


@click.command()
@assistant_name
@click.option("--select", default="*", show_default=True, help="Assets, in Dagster's words.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of this run alone."
)
@click.option("--overrides", default="{}", help="The same, as one JSON object of dotted keys.")
@click.option("--force", multiple=True, metavar="ASSET", help="Make it again; all: everything.")
@click.option(
    "--promote/--no-promote",
    help="Use what a run with overrides makes; else nothing in use moves.",
)
@click.option("--take-over", is_flag=True, help="Take over what another folder's run made.")
@click.option("--processes", type=click.IntRange(min=1), help="Processes per training.")
def make(
    name: str,
    select: str,
    settings: tuple[str, ...],
    overrides: str,
    force: tuple[str, ...],
    promote: bool,
    take_over: bool,
    processes: int | None,
) -> None:
    """Make all of an assistant, or what --select names; what didn't change is reused.

    Ends with what was made; Ctrl-C stops the run, and the same command continues it.
    """
    from chatllama_pipeline.lineage.assets import ASSETS
    from chatllama_pipeline.settings.folder import load_assistant

    if unknown := [asset for asset in force if asset not in (ALL, *ASSETS)]:
        known = ", ".join((ALL, *ASSETS))
        raise click.UsageError(f"--force: unknown asset {unknown[0]!r}; those there are: {known}")
    changed = {**_json_object(overrides), **dict(_setting(text) for text in settings)}
    load_assistant(name, changed)  # what is wrong with it is told before Dagster starts
    run_options = {
        "overrides": changed,
        "force": list(force),
        "promote": promote,
        "take_over": take_over,
    }
    started, asked = time.time(), uuid.uuid4().hex
    code = run_dagster(dagster_command(name, select, run_options, processes), asked)
    if code:
        sys.exit(code)
    show_run(name, started, asked)


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text}: write KEY=VALUE, such as --set seed=1")
    # YAML 1.1 takes 1e-4 for a word.
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return key, float(value)
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise click.UsageError(f"--set {text}: {value!r} is no YAML value: quote it") from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--overrides {text}: no JSON ({error})") from None
    if not isinstance(found, dict):
        raise click.UsageError(f'--overrides {text}: write an object, such as {{"seed": 1}}')
    return found
