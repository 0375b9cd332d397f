"""Dagster's own commands, run as a person would, in a process of their own.

The engine never imports Dagster, and neither does the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from chatllama_pipeline.home import ASKED_VARIABLE, home

DEFINITIONS = "chatllama_pipeline.definitions"
DAGSTER_HOME = "DAGSTER_HOME"
# At home: history and page of all runs.
HOME_FOLDER = "dagster_home"
# Dagster's own, of its coming versions; nothing that somebody at a terminal could do about.
PYTHONWARNINGS = "ignore:Function `,ignore:Parameter `include_sources"
# Runs `dagster ...`, or `-m MODULE ...`, with a home that stands and is of the installed Dagster.
_AT_HOME = (sys.executable, "-m", "resources.dagster_home")
_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def dagster_command(
    name: str, select: str, run_options: Mapping[str, Any], processes: int | None = None
) -> list[str]:
    """The plain Dagster command that makes `select` of the assistant `name`, with our console."""
    resources: dict[str, Any] = {"run_options": {"config": dict(run_options)}}
    if processes is not None:
        resources["compute"] = {"config": {"processes": processes}}
    config = {"loggers": {"console": {}}, "resources": resources}
    return [
        *(*_AT_HOME, "asset", "materialize", "-m", DEFINITIONS),
        *("--select", select, "--partition", name, "--config-json", json.dumps(config)),
    ]


def job_command(job: str, name: str, config: Path) -> list[str]:
    """The plain Dagster command that runs a job for the assistant `name` with a config file."""
    tags = json.dumps({"dagster/partition": name})
    return [
        *(*_AT_HOME, "job", "execute", "-m", DEFINITIONS),
        *("--job", job, "--tags", tags, "--config", str(config)),
    ]


def page_command(host: str, port: int | None) -> list[str]:
    """Dagster's page and its daemon, at a port that is free where none is named."""
    at_port = [] if port is None else ["--port", str(port)]
    return [*_AT_HOME, "dev", "-m", DEFINITIONS, "--host", host, *at_port]


def module_command(module: str, *arguments: str) -> list[str]:
    """A module of ours that imports Dagster."""
    return [*_AT_HOME, "-m", module, *arguments]


def home_command() -> list[str]:
    """No more than the look at Dagster's home; exit code 2 and the cure where it doesn't open."""
    return list(_AT_HOME)


def dagster_environment() -> dict[str, str]:
    """Ours, with what `make` sets for Dagster where it isn't set; bytecode is kept in any case."""
    # Without it Dagster is compiled anew for each run.
    keep = {"PYTHONDONTWRITEBYTECODE": ""}
    environment = {"PYTHONWARNINGS": PYTHONWARNINGS, **os.environ, **keep}
    if (folder := home() / HOME_FOLDER).is_dir():
        environment.setdefault(DAGSTER_HOME, str(folder))
    return environment


def run_dagster(command: list[str], asked: str = "") -> int:
    """The exit code of `command`; signals reach it once, and it is waited for.

    The run that it starts takes over the name `asked`, by which its view is found.
    """
    environment = {**dagster_environment(), ASKED_VARIABLE: asked}
    # In a group of its own: the terminal's Ctrl-C comes through us, and not a second time.
    process = subprocess.Popen(command, env=environment, process_group=0)
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
