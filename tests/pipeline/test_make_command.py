"""`chatllama make`: the plain Dagster command with our console, its end, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatllama_pipeline.cli.dagster_runs import dagster_environment
from tests.pipeline.place import REPOSITORY, TINY_CONFIG, Place
from tests.waiting import PATIENCE

# As the console script runs it.
SCRIPT = "import sys; sys.argv[0] = 'chatllama'; from chatllama_pipeline.cli.main import main; "


def chatllama(place: Place, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"{SCRIPT} main()", *arguments],
        cwd=REPOSITORY,
        env={**place.environment(), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_help_imports_no_more_than_click(place: Place) -> None:
    heavy = "{'pydantic', 'yaml', 'pyarrow', 'numpy', 'jinja2', 'dagster'}"
    told = f"{SCRIPT} import atexit; atexit.register(lambda: print({heavy} & set(sys.modules)))"
    asked = subprocess.run(
        [sys.executable, "-c", f"{told}; main()", "--help"],
        cwd=REPOSITORY,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "make" in asked.stdout
    assert asked.stdout.endswith("set()\n"), asked.stdout


def test_what_is_selected_is_made_with_this_run_s_settings_and_told_at_the_end(
    place: Place,
) -> None:
    place.add_assistant("mine", TINY_CONFIG)
    arguments = ("make", "mine", "--select", "grammar,personal_data", "--processes", "2")
    made = chatllama(
        place,
        *arguments,
        "--set",
        "seed=3",
        "--set",
        "data.label_noise=1e-1",
        "--overrides",
        '{"seed": 2}',
    )
    assert made.returncode == 0, made.stderr
    assert "made version" in made.stderr and "DEBUG" not in made.stderr
    assert place.store.current("personal_data", "mine") is None
    version = place.last_run("mine").read("personal_data", "mine").id
    rows = [line.split() for line in made.stdout.splitlines()]
    assert ["personal_data", version, "0", "made"] in [row[:4] for row in rows]
    assert (
        'an experiment (overrides {"data.label_noise": 0.1, "seed": 3}): what is in use stays'
        in made.stdout
    )


def test_a_run_that_fails_ends_with_its_error_and_no_table(place: Place) -> None:
    place.add_assistant("mine", TINY_CONFIG)
    failed = chatllama(place, "make", "mine", "--select", "actor_ppo")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.count("actor_ppo needs actor_sft, which was never made for mine") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["main"], "error: unknown assistant 'main' (did you mean 'mine'?)"),
        (["mine", "--set", "sed=1"], "unknown key"),
        (["mine", "--set", "seed"], "write KEY=VALUE"),
        (["mine", "--overrides", "[1]"], "write an object"),
        (["mine", "--force", "actor"], "unknown asset 'actor'; those there are: all, shp"),
        (["mine", "--overrides", "{"], "no JSON"),
    ],
)
def test_what_is_wrong_is_told_before_dagster_starts(
    place: Place, arguments: list[str], told: str
) -> None:
    place.add_assistant("mine", TINY_CONFIG)
    refused = chatllama(place, "make", *arguments)
    assert refused.returncode == 2
    assert told in refused.stderr and "Traceback" not in refused.stderr
    assert "dagster" not in (place.root / "guarded_processes").read_text()


def test_names_complete_in_the_shell(place: Place) -> None:
    place.add_assistant("mine", TINY_CONFIG)
    words = {"COMP_WORDS": "chatllama make mi", "COMP_CWORD": "2"}
    asked = chatllama(place, _CHATLLAMA_COMPLETE="bash_complete", **words)
    assert asked.stdout == "plain,mine\n"
    source = chatllama(place, "completion", "bash").stdout
    assert "_CHATLLAMA_COMPLETE=bash_complete" in source


def test_dagster_s_history_is_at_home_where_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("assistants", "dagster_home"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert dagster_environment()["DAGSTER_HOME"] == str(tmp_path / "dagster_home")
    monkeypatch.setenv("DAGSTER_HOME", "/elsewhere")
    assert dagster_environment()["DAGSTER_HOME"] == "/elsewhere"


def test_dagster_is_compiled_once_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert not dagster_environment()["PYTHONDONTWRITEBYTECODE"]


# What started the tests may have had signals ignored: `nohup`, a script's `&`.
RUNS_A_CHILD = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
from chatllama_pipeline.cli.dagster_runs import run_dagster
sys.exit(run_dagster([sys.executable, "-c", sys.argv[1]]))
"""
COUNTS_SIGNALS = """
import signal, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(number))
print("ready", flush=True)
while not heard:
    time.sleep(0.05)
time.sleep(0.5)
print(*heard, flush=True)
raise SystemExit(9)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_reaches_the_run_once_and_its_code_comes_back(
    number: signal.Signals,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS_A_CHILD, COUNTS_SIGNALS],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number)
    assert process.communicate(timeout=PATIENCE)[0] == f"{number.value}\n"
    assert process.returncode == 9
