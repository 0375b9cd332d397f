"""The job `rollback`: what it moves in the store, and what Dagster holds fresh then."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.store.versions import Store
from tests.pipeline.own_rows import DATA, MADE, NAME, make_data, write_rows

OWN = "personal_data"


def roll_back(instance: dg.DagsterInstance, **config: object) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_job_def("rollback")
    return job.execute_in_process(
        run_config={"ops": {"roll_back": {"config": {"asset": DATA, **config}}}},
        partition_key=NAME,
        instance=instance,
    )


def freshness(instance: dg.DagsterInstance) -> dict[str, StaleStatus]:
    """What the UI shows of each asset: fresh, or unsynced."""
    resolver = CachingStaleStatusResolver(
        instance=instance,
        asset_graph=definitions.resolve_asset_graph(),
        loading_context=LoadingContextForTest(instance),
    )
    return {asset: resolver.get_status(dg.AssetKey(asset), NAME) for asset in MADE}


@pytest.fixture
def two_versions(instance: dg.DagsterInstance, store: Store) -> tuple[str, str]:
    """An older and a newer version of the actor's data; the newer is in use."""
    found = []
    for rows in (20, 30):
        write_rows(store, rows)
        make_data(instance)
        found.append(store.read(DATA, NAME).id)
    return found[0], found[1]


def test_a_version_alone_goes_back_and_what_it_was_made_from_stays_so_dagster_holds_it_unsynced(
    instance: dg.DagsterInstance, store: Store, two_versions: tuple[str, str]
) -> None:
    assert set(freshness(instance).values()) == {StaleStatus.FRESH}
    done = roll_back(instance)
    assert store.read(DATA, NAME).id == two_versions[0]
    [told] = [event for event in done.all_events if event.is_step_materialization]
    event = told.materialization
    assert event.partition == NAME and (event.tags or {})["dagster/data_version"] == two_versions[0]
    found = freshness(instance)
    assert found.pop(DATA) == StaleStatus.STALE
    assert set(found.values()) == {StaleStatus.FRESH}


def test_with_its_chain_all_goes_back_and_dagster_says_that_a_run_would_go_on(
    instance: dg.DagsterInstance, store: Store, two_versions: tuple[str, str]
) -> None:
    newer = store.current(OWN, NAME)
    roll_back(instance, version=two_versions[0][:5], chain=True)
    assert store.read(DATA, NAME).id == two_versions[0]
    older = store.current(OWN, NAME)
    assert newer is not None and older is not None and older.version != newer.version
    found = freshness(instance)
    # The folder says what it said: the next run makes nothing, and is back at the newer ones.
    assert (found[OWN], found[DATA]) == (StaleStatus.STALE, StaleStatus.STALE)
    make_data(instance)
    assert store.read(DATA, NAME).id == two_versions[1]
    assert set(freshness(instance).values()) == {StaleStatus.FRESH}
    assert [use.how for use in store.uses(DATA, NAME)] == ["made", "made", "rolled back", "reused"]


def test_a_rollback_to_what_there_is_not_moves_nothing(
    instance: dg.DagsterInstance, store: Store, two_versions: tuple[str, str]
) -> None:
    with pytest.raises(dg.Failure, match="has no version ffff; those there are"):
        roll_back(instance, version="ffff")
    assert store.read(DATA, NAME).id == two_versions[1]


def test_a_rollback_while_a_run_of_the_assistant_goes_on_is_refused_with_its_id(
    instance: dg.DagsterInstance, store: Store, two_versions: tuple[str, str]
) -> None:
    going = instance.create_run_for_job(
        definitions.resolve_job_def("all"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": NAME},
    )
    with pytest.raises(dg.Failure, match=f"run {going.run_id} of {NAME} goes on"):
        roll_back(instance)
    assert store.read(DATA, NAME).id == two_versions[1]
