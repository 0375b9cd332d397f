"""What the terminal shows of a run that fails."""

from __future__ import annotations

import dagster as dg
import pytest

from resources.console import console_logger


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
    assert "FAILED before any step" in shown and "the disk is gone" in shown


def test_a_step_s_failure_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    job = dg.JobDefinition(
        graph_def=dg.GraphDefinition("g", node_defs=[failing]),
        logger_defs={"console": console_logger},
    )
    job.execute_in_process(run_config={"loggers": {"console": {}}}, raise_on_error=False)
    shown = capsys.readouterr().err
    assert shown.count("FAILED") == 1 and "of the step" in shown
