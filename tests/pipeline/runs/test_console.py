"""What the terminal shows of a run that fails."""

import os
import subprocess
from pathlib import Path

import dagster as dg
import pytest

from resources.console import console_logger
from tests.pipeline.place import REPOSITORY, TINY_CONFIG, Place
from tests.waiting import PATIENCE


@dg.resource
def broken(context: dg.InitResourceContext) -> None:
    raise OSError("the disk is gone")


@dg.op(required_resource_keys={"broken"})
def never() -> None: ...


@dg.op
def failing() -> None:
    raise ValueError("of the step")


def test_a_run_that_fails_before_any_step_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    job = dg.JobDefinition(
        graph_def=dg.GraphDefinition("g", node_defs=[never]),
        resource_defs={"broken": broken},
        logger_defs={"console": console_logger},
    )
    job.execute_in_process(run_config={"loggers": {"console": {}}}, raise_on_error=False)
    shown = capsys.readouterr().err
    assert "before any step" in shown and "the disk is gone" in shown


def test_a_step_s_failure_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    job = dg.JobDefinition(
        graph_def=dg.GraphDefinition("g", node_defs=[failing]),
        logger_defs={"console": console_logger},
    )
    job.execute_in_process(run_config={"loggers": {"console": {}}}, raise_on_error=False)
    shown = capsys.readouterr().err
    assert shown.count("FAILED") == 1 and shown.count('raise ValueError("of the step")') == 1


@dg.op
def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_run_that_is_stopped_says_how_it_continues(capsys: pytest.CaptureFixture[str]) -> None:
    job = dg.JobDefinition(
        graph_def=dg.GraphDefinition("g", node_defs=[interrupted]),
        logger_defs={"console": console_logger},
    )
    job.execute_in_process(run_config={"loggers": {"console": {}}}, raise_on_error=False)
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1] == "interrupted: was stopped: the same command continues it"
    assert "Traceback" not in shown and "Stack Trace" not in shown


@dg.op
def starting_a_child(context: dg.OpExecutionContext) -> None:
    context.log.info("[pipes] external process successfully opened dagster pipes.")
    context.log.info("actor_sft: step 1/9")


def test_that_a_child_was_reached_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    job = dg.JobDefinition(
        graph_def=dg.GraphDefinition("g", node_defs=[starting_a_child]),
        logger_defs={"console": console_logger},
    )
    job.execute_in_process(run_config={"loggers": {"console": {}}})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" actor_sft: step 1/9")


def test_a_failure_is_shown_though_dagster_s_copy_of_stderr_comes_too_late(place: Place) -> None:
    place.add_assistant("mine", TINY_CONFIG)
    too_late = _executable(place.root / "too_late" / "tail", "#!/bin/sh\nexec sleep 60\n")
    run = subprocess.run(
        place.command("mine", "actor_ppo"),
        cwd=REPOSITORY,
        env={**place.environment(), "PATH": f"{too_late.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode != 0
    assert run.stderr.count("actor_ppo needs actor_sft, which was never made for mine") == 1


def _executable(path: Path, text: str) -> Path:
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)
    return path
