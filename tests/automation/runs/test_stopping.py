"""Runs are ended from a terminal, and those of a terminal from Dagster's page."""

from __future__ import annotations

import signal
from collections.abc import Callable

import dagster as dg
import pytest

from chatllama_pipeline.automation.lost import lost_runs
from chatllama_pipeline.automation.stopping import stop_runs
from chatllama_pipeline.definitions import definitions
from resources.signs_of_life import process_of, sign_of_life, signs_folder
from tests.automation.runs.lost_process import another_process
from tests.automation.ticks import Ticks, going

NEVER = 0.0


def test_a_run_that_waits_is_ended_at_once_and_no_other_assistant_s(
    instance: dg.DagsterInstance,
) -> None:
    waiting, others = (
        instance.create_run_for_job(
            definitions.resolve_job_def("all"),
            status=dg.DagsterRunStatus.NOT_STARTED,
            tags={"dagster/partition": name},
        )
        for name in ("mine", "another")
    )
    assert list(stop_runs(instance, "mine")) == [f"run {waiting.run_id} was ended"]
    left = instance.get_run_by_id(others.run_id)
    assert left is not None and not left.is_finished
    assert list(stop_runs(instance, "mine")) == ["no run of mine waits or goes on"]


def test_the_process_of_a_run_that_goes_on_is_interrupted(instance: dg.DagsterInstance) -> None:
    run = going(instance, "mine")
    with another_process(instance, run.run_id) as process:
        assert process_of(signs_folder(instance), run.run_id) == process.pid
        [told] = stop_runs(instance, "mine", most_seconds=NEVER)
        assert process.wait(60) == -signal.SIGINT
    # The process has nobody here who would record its end.
    assert told.startswith(f"run {run.run_id} was told to end, and didn't so far")
    assert process_of(signs_folder(instance), run.run_id) is None


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(dg.DagsterInstance.report_run_canceling, id="the page terminates it"),
        pytest.param(dg.DagsterInstance.report_run_failed, id="its time is over"),
    ],
)
def test_a_run_of_a_terminal_is_interrupted_once_when_dagster_ends_it(
    instance: dg.DagsterInstance, ends: Callable[[dg.DagsterInstance, dg.DagsterRun], object]
) -> None:
    ticks, run = Ticks(instance, lost_runs), going(instance, "mine")
    with another_process(instance, run.run_id) as process:
        ticks.tick()
        assert process.poll() is None
        ends(instance, run)
        ticks.tick()
        assert process.wait(60) == -signal.SIGINT
    with sign_of_life(signs_folder(instance), run.run_id):
        ticks.tick()  # and not again, while it saves its state: else this test ended here


def test_a_number_that_is_another_process_s_by_now_is_nobody_s(
    instance: dg.DagsterInstance,
) -> None:
    folder = signs_folder(instance)
    folder.mkdir(parents=True)
    (folder / "run").write_text("1\n")
    assert process_of(folder, "run") is None
    assert process_of(folder, "none") is None
