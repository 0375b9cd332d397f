"""Each run decides once what it builds on: others at the same time change nothing of that."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.execution.api import execute_run

from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.lineage.status import status_lines
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store
from resources.refusals import Refused
from resources.run_options import RunOptions
from tests.quick import quick_instance

NAME = "mine"
CHAIN = ("personal_data", "preference_data", "synthetic_conversations", "actor_training_data")
LAST = CHAIN[-1]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store, and an assistant with forty questions of its own."""
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    write(tmp_path / "assistants" / NAME)
    return Store(tmp_path / "storage")


def write(folder: Path, **data: Any) -> None:
    (folder / "datasets").mkdir(exist_ok=True, parents=True)
    settings = {"data": {"sources": [], "validation_share": 0.2, **data}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    table = [
        {"user_input": f"What is {n}?", "completion": f"It is {n}, says n{n}@example.org."}
        for n in range(40)
    ]
    (folder / "datasets" / f"{LAST}.json").write_text(json.dumps(table))


def run(*assets: str, **options: Any) -> dg.ExecuteInProcessResult:
    """One run of its own instance, as concurrent ones have."""
    resources = {**(definitions.resources or {}), "run_options": RunOptions(**options)}
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            definitions.assets or [],
            selection=list(assets or CHAIN),
            partition_key=NAME,
            resources=resources,
            instance=instance,
        )


def in_use(store: Store) -> dict[str, str]:
    found = {asset: store.standing(asset, NAME) for asset in CHAIN}
    return {asset: current.version for asset, current in found.items() if current}


def made_by(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Asset -> version, of what a run made or reused."""
    events = result.get_asset_materialization_events()
    found = [event.step_materialization_data.materialization for event in events]
    return {
        event.asset_key.to_user_string(): (event.tags or {})["dagster/data_version"]
        for event in found
    }


def test_an_experiment_builds_on_what_it_makes_and_leaves_in_use_what_was(store: Store) -> None:
    run()
    before = in_use(store)
    tried = made_by(run(overrides={"data.redact": ["email"]}))
    assert in_use(store) == before
    assert tried[LAST] != before[LAST] and tried["personal_data"] != before["personal_data"]
    version = store.version(LAST, NAME, tried[LAST])
    assert version is not None
    for name, used in version.manifest.upstream.items():
        assert used == tried[name], name


def test_what_an_experiment_made_is_reused_once_its_settings_are_the_assistants(
    store: Store, tmp_path: Path
) -> None:
    tried = made_by(run(overrides={"data.validation_share": 0.4}))
    assert in_use(store) == {}
    write(tmp_path / "assistants" / NAME, validation_share=0.4)
    assert made_by(run()) == tried == in_use(store)
    current = store.current(LAST, NAME)
    assert current is not None and current.reused and current.overrides == {}


def test_a_promoted_run_with_overrides_moves_what_is_in_use(store: Store) -> None:
    run()
    made = made_by(run(overrides={"data.validation_share": 0.4}, promote=True))
    assert in_use(store) == made


def at_once(*runs: Callable[[], dg.ExecuteInProcessResult]) -> list[dict[str, str]]:
    """What each run made, all of them started together."""
    start, found = threading.Barrier(len(runs)), [dict[str, str]() for _ in runs]

    def work(number: int) -> None:
        start.wait()
        found[number] = made_by(runs[number]())

    threads = [threading.Thread(target=work, args=[number]) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def two_runs_at_once(store: Store) -> None:
    """Twice the same settings beside two others: each gives what it gives alone."""
    options: list[dict[str, Any]] = [
        {"overrides": {}},
        {"overrides": {"data.redact": ["email"]}},
        {"overrides": {"data.validation_share": 0.3, "data.test_share": 0.3}},
    ]
    random.shuffle(options)
    force = {"force": ["all"]}
    together = at_once(*(lambda o=o: run(**o, **force) for o in options))  # type: ignore[misc]
    alone = [made_by(run(**each, **force)) for each in options]
    assert together == alone
    plain = options.index({"overrides": {}})
    assert in_use(store) == alone[plain]


def test_runs_of_different_settings_at_once_give_what_each_gives_alone(store: Store) -> None:
    two_runs_at_once(store)


@pytest.mark.slow
@pytest.mark.parametrize("time", range(20))
def test_they_do_so_twenty_times(store: Store, time: int) -> None:
    two_runs_at_once(store)


def test_a_run_from_another_checkout_with_the_same_name_is_refused_until_it_takes_over(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    before = in_use(store)
    ours, theirs = tmp_path / "assistants" / NAME, tmp_path / "elsewhere" / NAME
    write(theirs, validation_share=0.4)
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(theirs.parent))
    with pytest.raises(Refused, match=f"is that of {ours}, and this is {theirs}.*--take-over"):
        run()
    assert in_use(store) == before
    warned = f"warning: what is in use was made for another assistant of that name, {ours}"
    assert warned in list(status_lines(load_assistant(NAME), store))
    assert run(take_over=True).success
    assert in_use(store) != before
    assert run().success


def test_a_moved_checkout_keeps_its_versions(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    before = in_use(store)
    (tmp_path / "assistants").rename(tmp_path / "moved")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "moved"))
    assert made_by(run()) == before


def chain_job() -> dg.JobDefinition:
    job = dg.define_asset_job("chain", selection=list(CHAIN))
    located = dg.Definitions(
        definitions.assets,
        jobs=[job],
        resources=definitions.resources,
        executor=dg.in_process_executor,
    )
    return located.resolve_job_def("chain")


Again = Callable[[dg.DagsterInstance, dg.DagsterRun], str]


def from_failure(instance: dg.DagsterInstance, failed: dg.DagsterRun) -> str:
    """The run of the steps that failed."""
    goes_on = dg.ReexecutionOptions.from_failure(failed.run_id, instance)
    job, tags = dg.reconstructable(chain_job), dict(failed.tags)
    done = dg.execute_job(job, instance, failed.run_config, tags=tags, reexecution_options=goes_on)
    return done.run_id


def from_asset_failure(instance: dg.DagsterInstance, failed: dg.DagsterRun) -> str:
    """The run of the assets that failed, as a selection."""
    selected = frozenset({dg.AssetKey(LAST)})
    run = instance.create_run_for_job(
        chain_job().get_subset(asset_selection=selected),
        run_config=failed.run_config,
        tags={**failed.tags, "dagster/is_asset_resume_retry": "true"},
        parent_run_id=failed.run_id,
        root_run_id=failed.run_id,
        asset_selection=selected,
    )
    # Dagster's daemon names no steps in such a run.
    instance.delete_run(run.run_id)
    run = instance.add_run(run._replace(step_keys_to_execute=None))
    execute_run(dg.reconstructable(chain_job), run, instance)
    return run.run_id


@contextlib.contextmanager
def failed_in_the_last(
    store: Store, **overrides: Any
) -> Iterator[tuple[dg.DagsterInstance, dg.DagsterRun]]:
    """A run that could not make the last asset of the chain, for a reason that is gone."""
    run()
    config = {"resources": {"run_options": {"config": {"overrides": overrides}}}}
    blocked = store.root / LAST
    blocked.rename(store.root / "_aside")
    blocked.write_text("no folder can stand here")
    with quick_instance() as instance:
        instance.add_dynamic_partitions("assistant", [NAME])
        tags = {"dagster/partition": NAME}
        failed = dg.execute_job(dg.reconstructable(chain_job), instance, config, tags=tags)
        assert not failed.success
        blocked.unlink()
        (store.root / "_aside").rename(blocked)
        yield instance, failed.dagster_run


@pytest.mark.parametrize("again", [from_failure, from_asset_failure])
def test_a_run_that_goes_on_from_a_failed_one_builds_on_what_that_made(
    store: Store, again: Again
) -> None:
    with failed_in_the_last(store, **{"data.redact": ["email"]}) as (instance, failed):
        before = in_use(store)
        done = instance.get_run_by_id(again(instance, failed))
        assert done is not None and done.is_success
        [event] = instance.all_logs(done.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        assert event.asset_materialization is not None
    tags_made = event.asset_materialization.tags or {}
    version = store.version(LAST, NAME, tags_made["dagster/data_version"])
    assert version is not None
    assert version.manifest.upstream["personal_data"] != before["personal_data"]
    assert in_use(store) == before


def test_a_run_that_goes_on_takes_up_what_was_mended_since(store: Store, tmp_path: Path) -> None:
    with failed_in_the_last(store) as (instance, failed):
        before = in_use(store)
        config = tmp_path / "assistants" / NAME / "config.yaml"
        config.write_text(f"{config.read_text()}\nchecks: {{few_rows: 10}}\n")
        done = instance.get_run_by_id(from_failure(instance, failed))
        assert done is not None and done.is_success
    made = store.read(LAST, NAME).manifest
    assert made.settings["checks.few_rows"] == 10
    assert made.upstream["personal_data"] == before["personal_data"]


def test_a_run_that_goes_on_is_refused_where_what_it_builds_on_would_be_made_anew(
    store: Store, tmp_path: Path
) -> None:
    with failed_in_the_last(store) as (instance, failed):
        before = in_use(store)
        write(tmp_path / "assistants" / NAME, redact=["email"])
        done = from_failure(instance, failed)
        [step] = instance.all_logs(done, of_type=dg.DagsterEventType.STEP_FAILURE)
        assert step.dagster_event is not None
        error = step.dagster_event.step_failure_data.error
    assert in_use(store) == before
    assert error is not None
    told = f"{LAST} would be made from personal_data as run {failed.run_id} has it"
    assert told in error.message and "data.redact" in error.message
    assert f"chatllama make {NAME}, or Re-execute all" in error.message
    assert run().success and in_use(store) != before
