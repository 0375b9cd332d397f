"""`chatllama serve --job`: the server as a job of a cluster, which ends with the command."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import click

from chatllama_pipeline.errors import SettingsError

# What the job's lines begin with: so its own are told from those of libraries.
TASK = "serve"
# Schedulers whose nodes are reached from where jobs are asked for.
_REACHED = ("slurm", "ray")
# Where a job listens unless --host names another address: whoever asks is on another machine.
EVERYWHERE = "0.0.0.0"


def serve_as_job(context: click.Context, name: str, root: Path) -> None:
    """Have a node of the cluster that CHATLLAMA_COMPUTE names serve, until Ctrl-C or its end.

    `context` is the command's own; files stand below the store's `root`. Raises SettingsError where
    there is no such cluster, it takes no such job, or no key is set; ChildError where it ends ill.
    """
    from chatllama_pipeline.launch.jobs.running import JOB_FILE, run_job
    from chatllama_pipeline.launch.jobs.scheduler import Task
    from chatllama_pipeline.serving.api.access.place import KEY_VARIABLE
    from chatllama_pipeline.store.manifests import RUNS
    from resources.compute_file import VARIABLE, compute_here

    compute = compute_here()
    compute.require_valid()
    asked = compute.asked()
    if asked is None or compute.launcher not in _REACHED:
        raise SettingsError(
            f"--job: compute.launcher is '{compute.launcher}': name {' or '.join(_REACHED)} in the "
            f"file of {VARIABLE}, or serve without --job on a machine that others reach"
        )
    if not os.environ.get(KEY_VARIABLE, "").strip():
        raise SettingsError(
            f"--job: other machines reach the job's node, and anyone there could ask: set "
            f"{KEY_VARIABLE} to a long random word"
        )
    words = _words(context)
    told = "\n".join([*words, ""])
    folder = root / RUNS / TASK / name / hashlib.sha256(told.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    spec, log = folder / "asked.txt", folder / "job.log"
    spec.write_text(told)
    if (folder / JOB_FILE).exists():
        _say_again(log)
    command = [sys.executable, "-m", "chatllama_pipeline", TASK, name, "--in-job", *words]
    # It is never done: what has ended is started again.
    task = Task(TASK, command, spec, log, folder / "refusal", lambda: None, lambda: False)
    # An interrupt is how it ends.
    with closing(asked.scheduler(folder, 1, 1, compute.threads)) as by, suppress(KeyboardInterrupt):
        run_job(task, by, say=_say, stop_seconds=compute.stop_seconds)
        _say(f"{TASK}: the job has ended by itself, as one does whose time limit is reached")


def told_by_job(url: str) -> tuple[str, Callable[[str], None]]:
    """The address `url` as others reach it, and how a job says what is to be heard."""
    reached = url.replace(EVERYWHERE, socket.gethostname()).replace("[::]", socket.gethostname())
    return reached, lambda line: _say(f"{TASK}: {line}")


def _words(context: click.Context) -> list[str]:
    """The options that were given, as words, without those that say where it runs."""
    words = [] if _is_given(context, "host") else ["--host", EVERYWHERE]
    for option in context.command.params:
        if not isinstance(option, click.Option) or not _is_given(context, option.name or ""):
            continue
        if option.name in ("job", "in_job"):
            continue
        value = context.params[option.name or ""]
        if option.is_flag:
            words.append(option.opts[0])
        else:
            for one in value if option.multiple else [value]:
                words += [option.opts[0], *map(str, one if option.nargs > 1 else [one])]
    return words


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)


def _say_again(log: Path) -> None:
    """What the job that goes on already said last."""
    if log.exists():
        lines = log.read_text(errors="replace").splitlines()
        for line in [line for line in lines if line.startswith(f"{TASK}: ")][-2:]:
            _say(line)


def _say(text: str) -> None:
    click.echo(text, err=True)
