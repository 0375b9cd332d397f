"""Command lines of the docs, parsed by those that would run them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from typing import Any

import click
import dagster as dg
import yaml
from dagster._cli import cli as dagster_cli

from chatllama_pipeline.automation.jobs import JOBS
from chatllama_pipeline.automation.runs import PARTITION_TAG
from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.settings.folder import load_assistant
from tests.docs.pages import REPOSITORY
from tests.launch.kubernetes.api_server import require_valid

Check = Callable[[list[str], bool], None]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
# What readers put their own assistant's name for, besides the folders that are there.
ASSISTANTS = {
    "NAME",
    "poet",
    *(
        folder.name
        for root in ("assistants", "examples")
        for folder in (REPOSITORY / root).iterdir()
    ),
}
# Programs of others, or of the shell: their options are their makers' to hold.
OTHERS = {
    "curl",
    "docker",
    "echo",
    "export",
    "git",
    "helm",
    "mlflow",
    "openssl",
    "sudo",
    "tar",
    "tensorboard",
    "unzip",
}


class WrongCommandError(Exception):
    """A command line that doesn't run as it stands."""


def lines(block: str) -> list[str]:
    """The command lines of a shell block, each whole, without comments."""
    joined = block.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def check_line(line: str, *, whole: bool = True) -> None:
    """Raise WrongCommandError where a line can't run; one that isn't `whole` may lack arguments."""
    parsed = subprocess.run(["bash", "-n"], input=line, capture_output=True, text=True)
    if parsed.returncode:
        raise WrongCommandError(f"{line}: {parsed.stderr.strip()}")
    for inner in re.findall(r"\$\(([^)]*)\)", line):
        check_line(inner, whole=whole)
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    program = words[0].removeprefix(".venv/bin/")
    if program in OTHERS:
        return
    if program not in CHECKS:
        raise WrongCommandError(f"{line}: nobody checks {program}")
    try:
        CHECKS[program](words[1:], whole)
    except (WrongCommandError, ChatllamaError, click.UsageError, dg.DagsterError) as error:
        raise WrongCommandError(f"{line}: {error}") from error


def click_values(command: click.Command, words: list[str], whole: bool) -> dict[str, Any]:
    """What click's own parser makes of the words after a command's name."""
    context = None
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(command, parent=context, info_name=command.name)
        _, command, words = command.resolve_command(context, words)
    try:
        return command.make_context(command.name, words, parent=context).params
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
        return {}
    except click.MissingParameter:
        if whole:
            raise
        return {}


def check_chatllama(words: list[str], whole: bool) -> None:
    values = click_values(cli, words, whole)
    if values.get("name") is not None and values["name"] not in ASSISTANTS:
        raise WrongCommandError(f"no assistant is called {values['name']}")
    if overrides := json.loads(values.get("overrides") or "{}"):
        load_assistant("quickstart", overrides, root=REPOSITORY / "assistants")


def check_dagster(words: list[str], whole: bool) -> None:
    values = click_values(dagster_cli, words, whole)
    if job := values.get("job_name"):
        if job not in {job.name for job in JOBS}:
            raise WrongCommandError(f"no job is called {job}")
        tags = json.loads(values["tags"])
        if tags[PARTITION_TAG] not in ASSISTANTS:
            raise WrongCommandError(f"no assistant is called {tags[PARTITION_TAG]}")
    if (partition := values.get("partition")) and partition not in ASSISTANTS:
        raise WrongCommandError(f"no assistant is called {partition}")
    if selected := values.get("select"):
        job = definitions.resolve_implicit_global_asset_job_def()
        chosen = dg.AssetSelection.from_string(selected).resolve(definitions.resolve_asset_graph())
        config = json.loads(values.get("config_json") or "{}")
        config = dg.validate_run_config(job.get_subset(asset_selection=chosen), config)
        overrides = config["resources"]["run_options"]["config"]["overrides"]
        load_assistant("quickstart", overrides, root=REPOSITORY / "assistants")


def check_make(words: list[str], whole: bool) -> None:
    for word in words:
        variable, assigned, _ = word.partition("=")
        pattern = rf"^{re.escape(variable)} \?=" if assigned else rf"^{re.escape(word)}:"
        if not re.search(pattern, MAKEFILE, re.MULTILINE):
            raise WrongCommandError(f"the Makefile knows no {word}")


def check_pip(words: list[str], whole: bool) -> None:
    for extra in re.findall(r"\.\[([^]]*)\]", " ".join(words)):
        if unknown := set(extra.split(",")) - set(EXTRAS):
            raise WrongCommandError(f"pyproject.toml has no extra {unknown}")
    if "-c" in words and not (REPOSITORY / words[words.index("-c") + 1]).exists():
        raise WrongCommandError("the constraints don't exist")


def check_python(words: list[str], whole: bool) -> None:
    if words[0] == "-m":
        module, given = words[1], words[2:]
        if module == "chatllama_pipeline":
            return check_chatllama(given, whole)
        if importlib.util.find_spec(module) is None:
            raise WrongCommandError(f"there is no module {module}")
    elif not words[0].startswith("transformers/"):  # theirs, which a line before it fetches
        script = REPOSITORY / words[0]
        if not script.exists():
            raise WrongCommandError(f"there is no {script}")
        for word in words[1:]:
            if not re.fullmatch(r"[\d.]+", word) and f'"{word}"' not in script.read_text():
                raise WrongCommandError(f"{words[0]} knows no {word}")


def check_pytest(words: list[str], whole: bool) -> None:
    markers = (REPOSITORY / "pyproject.toml").read_text()
    if "-m" in words and f'"{words[words.index("-m") + 1]}: ' not in markers:
        raise WrongCommandError(f"there is no such marker: {words}")


def check_copy(words: list[str], whole: bool) -> None:
    if not (REPOSITORY / words[1]).exists():
        raise WrongCommandError(f"there is no {words[1]}")


def check_nothing(words: list[str], whole: bool) -> None:
    """Of a word of the shell that takes what it is given."""


def check_kubectl(words: list[str], whole: bool) -> None:
    """What is applied is there, and Kubernetes' own to read."""
    for option, name in itertools.pairwise(words):
        if option == "-f":
            for thing in yaml.safe_load_all((REPOSITORY / name).read_text()):
                require_valid(thing)


CHECKS: dict[str, Check] = {
    "chatllama": check_chatllama,
    "cp": check_copy,
    "dagster": check_dagster,
    "kubectl": check_kubectl,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "pytest": check_pytest,
    ".": check_nothing,
    "eval": check_nothing,
}
