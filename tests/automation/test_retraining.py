"""The sensor `retrain`, on a clock that the tests move: each due time once, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine

from chatllama_pipeline.automation.retraining import retrain
from chatllama_pipeline.settings import RetrainSettings
from tests.automation.ticks import Ticks, going, write
from tests.opened import opened_files

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


class Clock:
    """The sensor's ticks at given times."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.ticks = Ticks(instance, retrain)

    def at(self, when: datetime) -> tuple[list[str | None], str]:
        with time_machine.travel(when, tick=False):
            return self.ticks.tick()


@pytest.fixture
def clock(root: Path, instance: dg.DagsterInstance) -> Clock:
    """On Monday at midnight, `quickstart`, due at three, has been seen."""
    write(root, "quickstart", "retrain: {cron: 0 3 * * *}")
    clock = Clock(instance)
    assert clock.at(MONDAY) == ([], "nobody is due")
    return clock


def test_a_due_time_is_asked_for_once(clock: Clock) -> None:
    assert clock.at(MONDAY + timedelta(hours=2, minutes=59))[0] == []
    assert clock.at(MONDAY + timedelta(hours=3))[0] == ["quickstart"]
    assert [request.run_key for request in clock.ticks.requests] == [
        "quickstart 2026-03-02T03:00:00+00:00"
    ]
    assert clock.at(MONDAY + timedelta(hours=3, minutes=1))[0] == []
    # A clock that is put back asks for nothing twice.
    assert clock.at(MONDAY + timedelta(hours=2))[0] == []
    assert clock.at(MONDAY + timedelta(hours=4))[0] == []
    assert clock.at(MONDAY + timedelta(hours=28))[0] == ["quickstart"]


def test_of_what_passed_while_the_service_stood_still_the_last_is_asked_for(clock: Clock) -> None:
    assert clock.at(MONDAY + timedelta(days=9, hours=5))[0] == ["quickstart"]
    assert clock.ticks.requests[0].run_key == "quickstart 2026-03-11T03:00:00+00:00"
    assert clock.at(MONDAY + timedelta(days=9, hours=6))[0] == []


def test_what_is_due_waits_for_the_run_of_its_assistant_that_goes_on(clock: Clock) -> None:
    run = going(clock.ticks.instance, "quickstart")
    told = f"quickstart is due since 2026-03-02 03:00: waits for the end of run {run.run_id}"
    assert clock.at(MONDAY + timedelta(hours=3)) == ([], told)
    assert clock.at(MONDAY + timedelta(hours=9)) == ([], told)
    clock.ticks.instance.delete_run(run.run_id)
    assert clock.at(MONDAY + timedelta(hours=10))[0] == ["quickstart"]
    assert clock.at(MONDAY + timedelta(hours=11))[0] == []


def test_a_broken_assistant_is_told_stays_due_and_harms_no_other(root: Path, clock: Clock) -> None:
    write(root, "other", "retrain: {cron: 0 3 * * *}")
    clock.at(MONDAY + timedelta(hours=1))
    write(root, "quickstart", "retrain: {cron: 61 3 * * 1}")
    assert clock.at(MONDAY + timedelta(hours=3))[0] == ["other"]
    keys, why = clock.at(MONDAY + timedelta(hours=4))
    assert keys == [] and "'61 3 * * 1' is no cron line" in why
    write(root, "quickstart", "retrain: {cron: 0 3 * * *}")
    assert clock.at(MONDAY + timedelta(hours=5))[0] == ["quickstart"]


def test_a_folder_that_can_not_be_read_harms_no_other(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "other", "retrain: {cron: 0 3 * * *}")
    clock.at(MONDAY + timedelta(hours=1))
    (root / "quickstart" / "rows.json").symlink_to("rows.json")
    (root / "quickstart" / "config.yaml").unlink()
    (root / "quickstart" / "config.yaml").mkdir()
    assert clock.at(MONDAY + timedelta(hours=3))[0] == ["other"]
    assert "quickstart" in clock.at(MONDAY + timedelta(hours=4))[1]


def test_another_cron_or_zone_counts_from_when_it_is_seen(root: Path, clock: Clock) -> None:
    write(root, "quickstart", "retrain: {cron: 0 1 * * *}")
    assert clock.at(MONDAY + timedelta(hours=2))[0] == []
    assert clock.at(MONDAY + timedelta(hours=25))[0] == ["quickstart"]
    write(root, "quickstart", "retrain: {cron: never}")
    assert clock.at(MONDAY + timedelta(days=9))[0] == []


def test_an_assistant_that_is_new_or_gone_needs_no_reload(root: Path, clock: Clock) -> None:
    write(root, "mine", "retrain: {cron: 0 4 * * *}")
    assert clock.at(MONDAY + timedelta(hours=3))[0] == ["quickstart"]
    assert clock.at(MONDAY + timedelta(hours=4))[0] == ["mine"]
    (root / "mine" / "config.yaml").unlink()
    (root / "mine").rmdir()
    assert clock.at(MONDAY + timedelta(hours=28))[0] == ["quickstart"]
    assert "mine" not in json.loads(clock.ticks.cursor or "{}")


@pytest.mark.parametrize(
    ("cron", "timezone", "first_day", "due"),
    [
        # Half past two doesn't come on 29 March, and comes twice on 25 October.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28", ["28 01:30", "29 01:00", "30 00:30"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24", ["24 00:30", "25 01:30", "26 01:30"]),
        ("0 9 * * *", "Europe/Berlin", "2026-03-28", ["28 08:00", "29 07:00", "30 07:00"]),
        ("0 9 * * *", "Asia/Kolkata", "2026-03-28", ["28 03:30", "29 03:30", "30 03:30"]),
        # Midnight of Monday, where summer begins on Sunday.
        ("0 0 * * 1", "America/Sao_Paulo", "2026-03-01", ["02 03:00"]),
    ],
)
def test_no_day_is_dropped_or_doubled_when_summer_time_comes_or_goes(
    root: Path, clock: Clock, cron: str, timezone: str, first_day: str, due: list[str]
) -> None:
    write(root, "quickstart", f"retrain: {{cron: '{cron}', timezone: {timezone}}}")
    start = datetime.fromisoformat(first_day).replace(tzinfo=UTC)
    clock.at(start)
    asked = []
    for hours in range(3, 75, 3):
        clock.at(start + timedelta(hours=hours))
        keys = [str(request.run_key).split()[1] for request in clock.ticks.requests]
        asked += [datetime.fromisoformat(key).astimezone(UTC) for key in keys]
    assert [f"{when:%d %H:%M}" for when in asked] == due


def test_a_weekly_time_is_spread_by_the_name_and_stays() -> None:
    retrain = RetrainSettings()
    lines = {name: retrain.cron_of(name) for name in ("a", "b", "quickstart")}
    assert len(set(lines.values())) == 3
    for name, line in lines.items():
        assert line is not None and line == RetrainSettings().cron_of(name)
        minute, hour, *days = line.split()
        assert int(minute) < 60 and int(hour) < 6 and days == ["*", "*", "1"]
    assert RetrainSettings(cron="never").cron_of("a") is None
    assert RetrainSettings(cron="0 3 * * 1").cron_of("a") == "0 3 * * 1"


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


def test_ticks_read_the_config_of_each_of_fifty_assistants_once_and_nothing_else(
    root: Path, instance: dg.DagsterInstance
) -> None:
    for number in range(49):
        write(root, f"mine_{number}", "retrain: {cron: 0 3 * * *}")
        # Ten gigabytes in all.
        with (root / f"mine_{number}" / "rows.csv").open("wb") as rows:
            rows.truncate(2 * 10**8)
    write(root, "quickstart", "retrain: {cron: 0 3 * * *}")
    clock = Clock(instance)
    with opened_files() as opened:
        clock.at(MONDAY)
    read = sorted(path for path in opened if path.is_relative_to(root))
    assert read == sorted(root.glob("*/config.yaml")) and len(read) == 50
    with opened_files() as opened:
        keys, _ = clock.at(MONDAY + timedelta(hours=4))
    assert len(keys) == 50
    assert [path for path in opened if path.is_relative_to(root)] == []
