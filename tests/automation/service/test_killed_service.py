"""Whatever is killed of a running service: it goes on, and what it makes is what it always was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.store.versions import Store
from tests.automation.made import make_versions, write_assistant
from tests.automation.service.running import Service, wait_for

ASSETS = ("actor_sft", "evaluation", "release")
MADE_BY_RUNS = ("evaluation", "release")
NAMES = ("first", "second")
PATIENCE = 900.0


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    monkeypatch.setenv("CHATLLAMA_LEASES", str(tmp_path / "leases"))
    started = Service(tmp_path, PATIENCE)
    for name in NAMES:
        write_assistant(tmp_path / "assistants" / name)
        make_versions(started.store, name, all_but=MADE_BY_RUNS)
    try:
        yield started
    finally:
        started.kill_all()


def ask_for_more(service: Service, name: str, steps: int) -> str:
    """A training of so many steps, asked for as the page does it: the run."""
    # Compared with no release: which one that is, kills decide.
    config = {"actor_config": {"max_steps": steps}, "release": {"min_win_rate_over_release": 0}}
    write_assistant(service.root / "assistants" / name, **config)
    return service.launch(name)


def versions(store: Store, name: str) -> dict[str, str]:
    """What is in use, every file of it verified."""
    return {asset: store.read(asset, name).id for asset in ASSETS}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_service_killed_as_a_whole_amid_a_run_ends_it_and_tries_it_again(
    service: Service,
) -> None:
    service.start()
    with dg.DagsterInstance.from_config(str(service.home)) as instance:
        lost = ask_for_more(service, NAMES[0], 1)
        wait_for(lambda: service.processes().get("rank"), PATIENCE, "a rank at work")
        service.kill_all()
        wait_for(lambda: not service.processes(), PATIENCE, "the end of every process")
        service.start()
        wait_for(lambda: not service.unfinished(instance), PATIENCE, "the second try")
        first, second = instance.get_run_by_id(lost), instance.get_runs(limit=1)[0]
        assert first is not None and first.status == dg.DagsterRunStatus.FAILURE
        assert second.parent_run_id == lost and second.is_success
    assert set(versions(service.store, NAMES[0])) == set(ASSETS)
