"""The sensor on assistants' folders: what it sees is content, and it waits for quiet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._utils.tags import TagConcurrencyLimitsCounter

from assets.partitions import ASSISTANTS
from chatllama_pipeline.automation import assistant_folders, retrain_schedules
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import RetrainSettings
from chatllama_pipeline.settings.folder import content_hash


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the assistant that the definitions were loaded with."""
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path))
    write(tmp_path, "quickstart", "seed: 0")
    assert "quickstart" in ASSISTANTS.get_partition_keys()
    return tmp_path


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def write(root: Path, name: str, config: str) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "config.yaml").write_text(config)


class Ticks:
    """The sensor over several ticks, its cursor kept between them."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> tuple[list[str | None], str]:
        """The partitions asked for, and why others weren't."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=definitions.get_repository_def(),
        )
        data = assistant_folders.evaluate_tick(context)
        self.cursor = data.cursor
        self.requests = list(data.run_requests or [])
        keys = [request.partition_key for request in self.requests]
        return keys, data.skip_message or ""

    def end(self, status: dg.DagsterRunStatus) -> None:
        """Let every run that the last tick asked for end so."""
        for request in self.requests:
            self.instance.add_run(
                dg.DagsterRun(
                    "all",
                    status=status,
                    tags={**request.tags, "dagster/partition": str(request.partition_key)},
                )
            )


def test_a_changed_folder_is_made_once_after_two_equal_ticks(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance)
    assert ticks.tick()[0] == []
    write(root, "quickstart", "seed: 1")
    assert ticks.tick()[0] == []
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.SUCCESS)
    assert ticks.tick()[0] == []


def test_a_content_that_comes_back_is_made_again(root: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    for seed in (1, 0, 1, 0):
        write(root, "quickstart", f"seed: {seed}")
        ticks.tick()
        assert ticks.tick()[0] == ["quickstart"], seed
        ticks.end(dg.DagsterRunStatus.SUCCESS)
        assert ticks.tick()[0] == []


def test_a_run_that_failed_or_was_lost_is_asked_for_three_times(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    write(root, "quickstart", "seed: 1")
    ticks.tick()
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.FAILURE)
    assert ticks.tick()[0] == ["quickstart"]
    # Nothing came of this one.
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.FAILURE)
    keys, why = ticks.tick()
    assert keys == []
    assert "quickstart was asked for 3 times in vain (the last run was" in why
    write(root, "quickstart", "seed: 2")
    ticks.tick()
    assert ticks.tick()[0] == ["quickstart"]


def test_a_changed_folder_waits_while_a_run_of_its_assistant_goes_on(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    going = instance.add_run(
        dg.DagsterRun(
            "all",
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": "quickstart"},
        )
    )
    write(root, "quickstart", "seed: 1")
    ticks.tick()
    assert ticks.tick() == ([], f"quickstart changed: waits for the end of run {going.run_id}")


def test_one_assistant_that_waits_keeps_no_other_from_its_run(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    write(root, "quickstart", "seed: 1")
    ticks.tick()
    write(root, "brand_new", "seed: 0")
    write(root, "broken", "seed: [")
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.SUCCESS)
    assert ticks.tick()[0] == []


def test_a_file_is_read_again_only_when_it_changed(root: Path) -> None:
    large = root / "quickstart" / "datasets.jsonl"
    large.write_bytes(b"x" * 2**20)
    first = content_hash("quickstart", root)
    status = large.stat()
    assert content_hash("quickstart", root) == first
    large.write_bytes(b"y" * 2**20)
    # The same size, and its time of change put back: only the kernel's own time tells.
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_hash("quickstart", root) != first


def test_the_schedule_skips_while_a_run_of_its_assistant_goes_on(
    root: Path, instance: dg.DagsterInstance
) -> None:
    [schedule] = retrain_schedules()
    for status, asked in (
        (dg.DagsterRunStatus.STARTED, []),
        (dg.DagsterRunStatus.SUCCESS, ["quickstart"]),
    ):
        tags = {"dagster/partition": "quickstart"}
        run = instance.add_run(dg.DagsterRun("all", status=status, tags=tags))
        context = dg.build_schedule_context(
            instance, repository_def=definitions.get_repository_def()
        )
        data = schedule.evaluate_tick(context)
        assert [request.partition_key for request in data.run_requests or []] == asked
        assert asked or f"run {run.run_id} of quickstart goes on" in (data.skip_message or "")
        instance.delete_run(run.run_id)


def test_the_schedule_of_a_broken_assistant_fails_saying_why(
    root: Path, instance: dg.DagsterInstance
) -> None:
    write(root, "quickstart", "retrain: {cron: 61 3 * * 1}")
    [schedule] = retrain_schedules()
    context = dg.build_schedule_context(instance)
    with pytest.raises(SettingsError, match=r"'61 3 \* \* 1' is no cron line"):
        schedule.evaluate_tick(context)


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [
        ("0 3 * * 1", "UTC"),
        ("*/5 0-6 1,15 * *", "Europe/Berlin"),
        ("0 0 29 2 *", "Asia/Kolkata"),
        ("30 2 * * sun", "America/New_York"),
        ("0 3 L * *", "Pacific/Chatham"),
    ],
)
def test_dagster_takes_every_cron_line_that_config_yaml_may_have(cron: str, timezone: str) -> None:
    retrain = RetrainSettings(cron=cron, timezone=timezone)
    schedule = dg.ScheduleDefinition(
        job_name="all", cron_schedule=retrain.cron, execution_timezone=retrain.timezone
    )
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, timezone)


def test_a_folder_still_being_written_waits(root: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    for seed in (1, 2, 3):
        write(root, "quickstart", f"seed: {seed}")
        keys, why = ticks.tick()
        assert keys == []
        assert "quickstart is changing" in why
    assert ticks.tick()[0] == ["quickstart"]


def test_touching_a_file_is_no_change(root: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    (root / "quickstart" / "config.yaml").touch()
    assert [ticks.tick()[0], ticks.tick()[0]] == [[], []]


def test_a_new_folder_is_skipped_with_what_to_do(root: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    write(root, "brand_new", "seed: 0")
    keys, why = ticks.tick()
    assert keys == []
    assert "brand_new is new: reload definitions" in why


def test_a_broken_change_is_told_and_asks_for_nothing(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    write(root, "quickstart", "sed: 1")
    ticks.tick()
    keys, why = ticks.tick()
    assert keys == []
    assert "unknown key sed; did you mean 'seed'?" in why
    assert json.loads(ticks.cursor or "{}")["quickstart"]["seen"]


def test_the_queue_runs_one_run_of_an_assistant_at_a_time() -> None:
    home = Path(__file__).parents[2] / "dagster_home" / "dagster.yaml"
    with dg.instance_for_test(overrides=yaml.safe_load(home.read_text())) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 2
        going, other, same = (
            dg.DagsterRun("all", tags={"dagster/partition": name}) for name in ("a", "b", "a")
        )
        counter = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, [going])
        assert not counter.is_blocked(other)
        assert counter.is_blocked(same)
