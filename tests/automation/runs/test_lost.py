"""A run whose process was killed is ended in Dagster, and no other."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine
import yaml
from dagster._utils.tags import TagConcurrencyLimitsCounter

from chatllama_pipeline.automation.folders import assistant_folders
from chatllama_pipeline.automation.lost import lost_runs
from resources.signs_of_life import runs_without_life, sign_of_life, signs_folder
from resources.store import StoreResource
from resources.time_limit import end_at_the_limit
from tests.automation.runs.lost_process import another_process
from tests.automation.ticks import Ticks, going, write
from tests.quick import quick_instance


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_a_run_is_ended_once_its_process_was_killed_and_not_before(
    instance: dg.DagsterInstance,
) -> None:
    ticks, run = Ticks(instance, lost_runs), going(instance, "mine")
    with another_process(instance, run.run_id) as process:
        assert ticks.tick() == ([], "every run's process lives")
        assert status(instance, run) == dg.DagsterRunStatus.STARTED
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert f"run {run.run_id} was lost" in ticks.tick()[1]
    assert status(instance, run) == dg.DagsterRunStatus.FAILURE
    [event] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "Run it again: it continues" in str(event.dagster_event)
    assert ticks.tick() == ([], "every run's process lives")


def test_a_run_that_was_being_ended_when_its_process_was_killed_is_canceled(
    instance: dg.DagsterInstance,
) -> None:
    run = going(instance, "mine")
    instance.report_run_canceling(run)
    with another_process(instance, run.run_id):
        pass
    Ticks(instance, lost_runs).tick()
    assert status(instance, run) == dg.DagsterRunStatus.CANCELED


def test_a_lost_run_that_is_tried_again_is_not_asked_for_beside_that(root: Path) -> None:
    retries = {"run_retries": {"enabled": True, "max_retries": 2}}
    with quick_instance(overrides=retries) as instance:
        folders, lost = Ticks(instance, assistant_folders), Ticks(instance, lost_runs)
        folders.tick()
        write(root, "quickstart", "seed: 1")
        folders.tick()
        assert folders.tick()[0] == ["quickstart"]
        folders.end(dg.DagsterRunStatus.STARTED)
        [run] = instance.get_runs()
        with another_process(instance, run.run_id):
            pass
        lost.tick()
        waits = f"quickstart changed: waits for the end of run {run.run_id}"
        assert folders.tick() == ([], waits)
        # Nobody tried it again, as where its job is gone.
        with time_machine.travel(datetime.now(UTC) + timedelta(minutes=11)):
            assert folders.tick()[0] == ["quickstart"]


LIMIT = {"dagster/max_runtime": "60"}


def test_a_run_that_its_time_limit_ended_is_not_tried_again_and_a_lost_one_is() -> None:
    retries = {"run_retries": {"enabled": True, "max_retries": 2}}
    with quick_instance(overrides=retries) as instance:
        ended, lost = (
            instance.add_run(dg.DagsterRun("all", status=dg.DagsterRunStatus.STARTED, tags=LIMIT))
            for _ in range(2)
        )
        for run in (ended, lost):
            end_at_the_limit(instance, run)
        instance.report_run_failed(ended, "Exceeded maximum runtime of 60 seconds.")
        with another_process(instance, lost.run_id):
            pass
        Ticks(instance, lost_runs).tick()
        runs = [instance.get_run_by_id(run.run_id) for run in (ended, lost)]
        assert [run.is_complete_and_waiting_to_retry for run in runs if run] == [False, True]
        # The second try has the tags of the first, and the limit is its own again.
        assert runs[1] is not None
        again = instance.add_run(dg.DagsterRun("all", tags=runs[1].tags))
        end_at_the_limit(instance, again)
        instance.report_run_failed(again)
        found = instance.get_run_by_id(again.run_id)
        assert found is not None and not found.is_complete_and_waiting_to_retry


@dg.asset
def tells_retries(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    run = context.instance.get_run_by_id(context.run.run_id)
    assert run is not None
    return dg.MaterializeResult(metadata={"retries": run.tags.get("dagster/max_retries", "any")})


@pytest.mark.parametrize(
    ("tags", "retries"),
    [({}, "any"), (LIMIT, "0"), ({**LIMIT, "dagster/max_retries": "1"}, "1")],
)
def test_a_run_with_a_limit_says_so_as_it_begins_but_where_a_person_did(
    instance: dg.DagsterInstance, tags: dict[str, str], retries: str
) -> None:
    resources = {"store": StoreResource()}
    done = dg.materialize([tells_retries], resources=resources, instance=instance, tags=tags)
    [event] = done.get_asset_materialization_events()
    assert event.materialization.metadata["retries"].value == retries


def test_a_run_without_a_sign_is_let_be(instance: dg.DagsterInstance) -> None:
    # As one is that another machine, or a location of other people's, has begun.
    run = going(instance, "mine")
    Ticks(instance, lost_runs).tick()
    assert status(instance, run) == dg.DagsterRunStatus.STARTED


@dg.asset
def held(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    folder = signs_folder(context.instance)
    assert [path.name for path in folder.iterdir()] == [context.run.run_id]
    assert list(runs_without_life(folder)) == []
    return dg.MaterializeResult()


@dg.asset
def fails(store: StoreResource) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("asset", "well"), [(held, True), (fails, False)])
def test_a_run_gives_a_sign_while_its_steps_go_on_and_takes_it_back_however_they_end(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, well: bool
) -> None:
    ended = dg.materialize(
        [asset], resources={"store": StoreResource()}, instance=instance, raise_on_error=False
    )
    assert ended.success == well
    assert list(signs_folder(instance).iterdir()) == []


def test_a_sign_held_by_several_steps_ends_with_the_last(tmp_path: Path) -> None:
    first = sign_of_life(tmp_path, "run")
    first.__enter__()
    with sign_of_life(tmp_path, "run"):
        pass
    assert list(runs_without_life(tmp_path)) == []
    first.__exit__(None, None, None)
    assert list(runs_without_life(tmp_path)) == []


def test_the_queue_runs_one_run_of_an_assistant_at_a_time() -> None:
    home = Path(__file__).parents[3] / "dagster_home" / "dagster.yaml"
    with quick_instance(overrides=yaml.safe_load(home.read_text())) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 2
        going, other, same = (
            dg.DagsterRun("all", tags={"dagster/partition": name}) for name in ("a", "b", "a")
        )
        counter = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, [going])
        assert not counter.is_blocked(other)
        assert counter.is_blocked(same)
