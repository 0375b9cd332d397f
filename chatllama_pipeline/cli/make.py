"""`chatllama make NAME`: all of an assistant by Dagster, in a process of its own.

The engine never imports Dagster, and neither does this: it runs the command that a person would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import click

from chatllama_pipeline.cli.names import assistant_name
from chatllama_pipeline.cli.status import show_status
from chatllama_pipeline.home import home

DEFINITIONS = "chatllama_pipeline.definitions"
DAGSTER_HOME = "DAGSTER_HOME"
# At home: history and page of all runs.
HOME_FOLDER = "dagster_home"
# Dagster's own, of its coming versions; nothing that somebody at a terminal could do about.
PYTHONWARNINGS = "ignore:Function `,ignore:Parameter `include_sources"
_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@assistant_name
@click.option("--select", default="*", show_default=True, help="Assets, in Dagster's words.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of this run alone."
)
@click.option("--overrides", default="{}", help="The same, as one JSON object of dotted keys.")
@click.option("--force", multiple=True, metavar="ASSET", help="Make it again; all: everything.")
@click.option("--promote/--no-promote", help="Let a run with overrides be released.")
@click.option("--processes", type=click.IntRange(min=1), help="Processes per training.")
def make(
    name: str,
    select: str,
    settings: tuple[str, ...],
    overrides: str,
    force: tuple[str, ...],
    promote: bool,
    processes: int | None,
) -> None:
    """Make all of an assistant, or what --select names; what didn't change is reused.

    Ends with what was made; Ctrl-C stops the run, and the same command continues it.
    """
    from chatllama_pipeline.settings.folder import load_assistant

    changed = {**_json_object(overrides), **dict(_setting(text) for text in settings)}
    load_assistant(name, changed)  # what is wrong with it is told before Dagster starts
    run_options = {"overrides": changed, "force": list(force), "promote": promote}
    started = time.time()
    code = _run(dagster_command(name, select, run_options, processes))
    if code:
        sys.exit(code)
    show_status(name, started)


def dagster_command(
    name: str, select: str, run_options: Mapping[str, Any], processes: int | None = None
) -> list[str]:
    """The plain Dagster command that makes `select` of the assistant `name`, with our console."""
    resources: dict[str, Any] = {"run_options": {"config": dict(run_options)}}
    if processes is not None:
        resources["compute"] = {"config": {"processes": processes}}
    config = {"loggers": {"console": {}}, "resources": resources}
    return [
        *(sys.executable, "-m", "dagster", "asset", "materialize", "-m", DEFINITIONS),
        *("--select", select, "--partition", name, "--config-json", json.dumps(config)),
    ]


def dagster_environment() -> dict[str, str]:
    """Ours, with what `make` sets for Dagster where it isn't set."""
    environment = {"PYTHONWARNINGS": PYTHONWARNINGS, **os.environ}
    if (folder := home() / HOME_FOLDER).is_dir():
        environment.setdefault(DAGSTER_HOME, str(folder))
    return environment


def _run(command: list[str]) -> int:
    """The exit code of `command`; signals reach it once, and it is waited for."""
    # In a group of its own: the terminal's Ctrl-C comes through us, and not a second time.
    process = subprocess.Popen(command, env=dagster_environment(), process_group=0)
    with _handed_on(process):
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _handed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    def hand_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    # What is ignored (nohup, a script's `&`) stays ignored, by the run too.
    heard = [number for number in _HANDED_ON if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, hand_on) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text}: write KEY=VALUE, such as --set seed=1")
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
