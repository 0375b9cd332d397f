"""Many runs that are asked for at once wait in the queue of our dagster.yaml, and all end."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.execution.plan.resume_retry import ReexecutionStrategy
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

from tests.automation.year import service as services
from tests.automation.year.service import Held, Service, service

HOME = Path(__file__).parents[3] / "dagster_home" / "dagster.yaml"
START = datetime(2026, 1, 5, tzinfo=UTC)
NAMES = [f"mine_{number}" for number in range(10)]
PARTITION = "dagster/partition"
# Dagster's own daemon.
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated")


def ask_again(year: Service, run: dg.DagsterRun) -> None:
    """As "Re-execute all" on the page of a run."""
    assert run.remote_job_origin is not None
    workspace = year.context.create_request_context()
    origin = run.remote_job_origin.repository_origin
    location = workspace.get_code_location(origin.code_location_origin.location_name)
    job = location.get_job(
        JobSubsetSelector(
            location_name=location.name,
            repository_name=origin.repository_name,
            job_name=run.job_name,
            op_selection=None,
        )
    )
    again = year.instance.create_reexecuted_run(
        parent_run=run,
        request_context=workspace,
        code_location=location,
        remote_job=job,
        strategy=ReexecutionStrategy.ALL_STEPS,
        use_parent_run_tags=True,
    )
    year.instance.submit_run(again.run_id, workspace)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_of_twenty_runs_two_go_on_at_a_time_one_of_an_assistant_and_each_has_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    monkeypatch.setattr(Held, "going", {})
    ours = yaml.safe_load(HOME.read_text())
    launcher = {"module": services.__name__, "class": "Held"}
    queued = {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"}
    settings = {**ours, "run_coordinator": queued, "run_launcher": launcher}
    with service(tmp_path, **settings) as year, QueuedRunCoordinatorDaemon(1) as queue:
        for name in NAMES:
            year.write(name, retrain={"cron": "never"})
            year.make_models(name)
        year.start()
        year.at(START)
        for name in NAMES:
            year.write(name, rows=4, retrain={"cron": "never"})
        year.at(START + timedelta(days=1))
        year.at(START + timedelta(days=2))
        first = year.runs("assistant_folders")
        assert Counter(run.tags[PARTITION] for run in first) == Counter(NAMES)
        # And again, as a person who is impatient asks: behind all others.
        for run in first:
            ask_again(year, run)
        asked = [run.run_id for run in year.runs()]
        assert len(asked) == 20

        # The first takes as long as all others together.
        long, begun = asked[0], []
        held = year.instance.run_launcher
        assert isinstance(held, Held)
        while len(begun) < len(asked):
            list(queue.run_iteration(year.context))
            begun += [run for run in held.going if run not in begun]
            going = [year.instance.get_run_by_id(run) for run in held.going]
            whose = Counter(run.tags[PARTITION] for run in going if run)
            assert len(going) <= 2 and set(whose.values()) == {1}
            shorter = [run for run in held.going if run != long]
            held.end(shorter[0] if shorter else long)
        for run in list(held.going):
            held.end(run)

        # Its own second run alone had to wait for its end.
        second = asked[10]
        in_turn = [run for run in asked if run != second]
        assert [run for run in begun if run != second] == in_turn
        assert begun[-1] == second
        assert {run.status for run in year.runs()} == {dg.DagsterRunStatus.SUCCESS}
