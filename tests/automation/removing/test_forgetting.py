"""Forgetting an assistant in Dagster: its runs, events, logs and partition."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.partitions import NAME as PARTITIONS
from chatllama_pipeline.automation.removing.forgetting import forget_everywhere
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import StoreError
from tests.automation.making import made


@pytest.fixture(autouse=True)
def two_assistants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    for name in ("mine", "another"):
        (tmp_path / "assistants" / name).mkdir(parents=True)
        (tmp_path / "assistants" / name / "config.yaml").write_text("data: {sources: []}")


def test_its_runs_and_events_and_its_partition_go_and_another_s_stay(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    own, others = made(instance, "mine"), made(instance, "another")
    lines = list(forget_everywhere(instance, "mine", with_folder=True))
    assert "removed 1 runs of it from Dagster, with their events and logs" in lines
    assert instance.get_run_by_id(own) is None and instance.all_logs(own) == []
    assert instance.get_run_by_id(others) is not None
    assert instance.get_dynamic_partitions(PARTITIONS) == ["another"]
    assert list((tmp_path / "storage").rglob("mine")) == []


def test_while_a_run_waits_or_goes_on_nothing_goes_and_the_run_is_named(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    made(instance, "mine")
    waiting = instance.create_run_for_job(
        definitions.resolve_job_def("all"),
        status=dg.DagsterRunStatus.NOT_STARTED,
        tags={"dagster/partition": "mine"},
    )
    with pytest.raises(StoreError, match=f"run {waiting.run_id} of mine waits or goes on"):
        list(forget_everywhere(instance, "mine", with_folder=True))
    assert (tmp_path / "storage" / "personal_data" / "mine").is_dir()
    assert (tmp_path / "assistants" / "mine").is_dir()
