"""A run that its time limit ends, what a person then does on Dagster's page, and one to look at."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import httpx
import psutil
import pytest

from tests.pipeline.place import REPOSITORY, Place
from tests.pipeline.runs.ended.test_killed import set_steps
from tests.ui.service import Service, free_port, service, wait_for
from tests.waiting import wait_until

# Longer under way than the daemon takes to see that its time is over.
STEPS = 600
LOCATION = "chatllama_pipeline.definitions"
SELECTOR = f"""{{repositoryLocationName: "{LOCATION}", repositoryName: "__repository__",
  jobName: "actor"}}"""
FOUND = "{__typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}"
LAUNCH = f"""mutation($tags: [ExecutionTag!]!) {{launchRun(executionParams: {{selector: {SELECTOR},
  runConfigData: {{}}, executionMetadata: {{tags: $tags}}}}) {FOUND}}}"""
# It would inherit the limit that ended its parent.
AGAIN = f"""mutation($run: String!) {{launchRunReexecution(reexecutionParams: {{
  parentRunId: $run, strategy: FROM_FAILURE,
  extraTags: [{{key: "dagster/max_runtime", value: "36000"}}]}}) {FOUND}}}"""
TERMINATE = """mutation($run: String!) {terminateRun(runId: $run) {
  __typename ... on TerminateRunFailure {message}}}"""
DELETE = """mutation($run: String!) {deletePipelineRun(runId: $run) {__typename}}"""
ASSETS = "{assetNodes(pipeline: null) {assetKey {path}}}"
RUNS = "{runsOrError {... on Runs {results {runId}}}}"


@pytest.fixture
def longer(copied: Place) -> Place:
    """The tiny assistant with everything made but a longer SFT."""
    set_steps(copied, STEPS)
    return copied


def launched(answer: dict[str, Any]) -> str:
    [found] = answer.values()
    return str(found["run"]["runId"])


def at_work(place: Place) -> list[psutil.Process]:
    """Processes that a file of this place's store started."""
    store = str(place.root / "storage")
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if store in " ".join(each.info["cmdline"] or [])]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_its_time_limit_ended_goes_on_from_failure_and_a_page_to_look_at_changes_nothing(
    longer: Place,
) -> None:
    states = longer.root / "storage" / "_runs" / "actor_sft"
    home = str(longer.root / "dagster_home")
    with (
        service(longer, monitored=1) as page,
        page_to_look_at(page) as looked,
        dg.DagsterInstance.from_config(home) as instance,
    ):

        def run_of(run: str) -> dg.DagsterRun:
            found = instance.get_run_by_id(run)
            assert found is not None
            return found

        wait_for(lambda: instance.get_dynamic_partitions("assistant"), "the assistant's partition")
        before = len(instance.get_runs())
        tags = {"dagster/partition": "tiny", "dagster/max_runtime": "36000"}
        asked = [{"key": key, "value": value} for key, value in tags.items()]
        first = launched(page.ask(LAUNCH, tags=asked))
        wait_until(lambda: any(states.rglob("state/*.json")), lambda: "for a saved state")
        no, no_end = "UnauthorizedError", "You do not have permission to terminate this run"
        assert refuses(looked, first) == [no, no, no_end, no]
        instance.add_run_tags(first, {"dagster/max_runtime": "1"})
        wait_for(lambda: run_of(first).is_finished and not at_work(longer), "the end of the run")
        assert run_of(first).status == dg.DagsterRunStatus.FAILURE
        assert not run_of(first).is_complete_and_waiting_to_retry
        assert any(states.rglob("state/*.json"))

        second = launched(page.ask(AGAIN, run=first))
        wait_for(lambda: run_of(second).is_finished, "the second run")
        assert run_of(second).is_success and run_of(second).parent_run_id == first
        assert len(instance.get_runs()) == before + 2
        told = [entry.user_message for entry in instance.all_logs(second)]
        assert any("actor_sft: continues from the state" in line for line in told)
        assert instance.get_run_stats(second).steps_succeeded == 1
    made = longer.store.read("actor_sft", "tiny").manifest
    assert made.settings["actor_config.max_steps"] == STEPS


@contextlib.contextmanager
def page_to_look_at(page: Service) -> Iterator[Service]:
    """`dagster-webserver --read-only` on the same home."""
    port = free_port()
    arguments = ["--read-only", "-h", "127.0.0.1", "-p", str(port), "-m", LOCATION]
    with subprocess.Popen(
        [sys.executable, "-m", "dagster_webserver", *arguments],
        cwd=REPOSITORY,
        env={**page.place.environment(), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        looked = Service(page.place, f"http://127.0.0.1:{port}", page.reports)
        try:
            wait_for(lambda: httpx.get(f"{looked.url}/server_info").is_success, "the page")
            wait_for(lambda: looked.ask(ASSETS)["assetNodes"], "its definitions")
            yield looked
        finally:
            process.kill()


def refuses(page: Service, run: str) -> list[str]:
    """What a page says to starting another run, and to a run's going on, end and deletion."""
    seen = page.ask(RUNS)["runsOrError"]["results"]
    assert {"runId": run} in seen
    tags = [{"key": "dagster/partition", "value": "tiny"}]
    wanted = [page.ask(query, run=run) for query in (AGAIN, TERMINATE, DELETE)]
    answers = [page.ask(LAUNCH, tags=tags), *wanted]
    assert page.ask(RUNS)["runsOrError"]["results"] == seen
    told = [next(iter(answer.values())) for answer in answers]
    return [each.get("message", each["__typename"]) for each in told]
