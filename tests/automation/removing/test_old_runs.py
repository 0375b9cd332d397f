"""Dagster's runs of long ago go, but for those that its page needs to show what there is."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from chatllama_pipeline.automation.removing.old_runs import remove_old_runs
from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.definitions import definitions
from tests.automation.making import made
from tests.automation.ticks import write


@pytest.fixture(autouse=True)
def place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(root.parent / "storage"))
    for name in ("mine", "another"):
        write(root, name, "data: {sources: []}")


def test_old_runs_go_but_for_each_assistant_s_last_and_those_that_go_on(
    instance: dg.DagsterInstance,
) -> None:
    older, last, others = (made(instance, name) for name in ("mine", "mine", "another"))
    going = instance.create_run_for_job(
        definitions.resolve_job_def("all"), status=dg.DagsterRunStatus.STARTED
    )
    runs = {older, last, others, going.run_id}
    assert list(remove_old_runs(instance, days=1)) == [
        "removed 0 runs that ended 1 days ago, with their events and logs"
    ]
    told = list(remove_old_runs(instance, days=0, dry_run=True))
    assert told[0] == "would remove 1 runs that ended 0 days ago, with their events and logs"
    assert {run.run_id for run in instance.get_runs()} == runs
    assert list(remove_old_runs(instance, days=0)) == [
        "removed 1 runs that ended 0 days ago, with their events and logs",
        "kept 2 of them, which made what an assistant has last of an asset",
    ]
    assert {run.run_id for run in instance.get_runs()} == runs - {older}
    assert instance.all_logs(older) == []
    assert instance.get_latest_materialization_event(dg.AssetKey("personal_data"))


def test_runs_are_pruned_for_all_assistants_or_not_at_all() -> None:
    refused = CliRunner().invoke(cli, ["prune", "mine", "--runs-days", "3"])
    assert refused.exit_code == 2
    assert "it is of all runs" in refused.output
