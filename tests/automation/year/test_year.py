"""Every retraining that is due happens once, and nothing else, whatever happens meanwhile."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from croniter import croniter

from chatllama_pipeline.settings import RetrainSettings
from tests.automation.year.service import Launcher, Service, service

# Of Dagster's own: its daemon's log, and what a sensor's copy passes on.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'warn' method is deprecated", "ignore:Parameter `owners` of initializer"
)

START = datetime(2026, 1, 5, tzinfo=UTC)
CRONS = [
    {},
    {"cron": "0 9 * * 1", "timezone": "Europe/Berlin"},
    {"cron": "30 22 * * 5", "timezone": "America/New_York"},
    {"cron": "15 4 * * sun", "timezone": "Asia/Kolkata"},
]
Events = Mapping[int, Callable[[], object]]


@pytest.fixture
def year(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    monkeypatch.setattr(Launcher, "loses", "")
    with service(tmp_path) as opened:
        yield opened


def retrain_of(number: int) -> dict[str, str]:
    return CRONS[number % len(CRONS)]


def write(year: Service, number: int, **what: Any) -> str:
    name = f"mine_{number}"
    year.write(name, **{"retrain": retrain_of(number), **what})
    return name


def add(year: Service, number: int) -> str:
    name = write(year, number)
    year.make_models(name)
    return name


def play(year: Service, days: Iterable[int], events: Events) -> None:
    """A round of the daemon at five past midnight of each day, after what happens that day."""
    events = dict(events)
    for day in days:
        if day in events:
            events.pop(day)()
        year.at(START + timedelta(days=day, minutes=5))
    assert not events, "a day on which something happens was left out"


def due(number: int, first_day: int, last_day: int) -> list[datetime]:
    """The times of an assistant's cron between two days' rounds, found without Dagster."""
    retrain = RetrainSettings(**retrain_of(number))
    zone = ZoneInfo(retrain.timezone)
    begin, end = (START + timedelta(days=day, minutes=5) for day in (first_day, last_day))
    line = str(retrain.cron_of(f"mine_{number}"))
    local = croniter(line, begin.astimezone(zone).replace(tzinfo=None))
    times = (local.get_next(datetime).replace(tzinfo=zone) for _ in itertools.count())
    return list(itertools.takewhile(lambda time: time <= end, times))


def asked(year: Service, number: int) -> list[datetime]:
    """The times for which runs of an assistant were asked for, those tried again left out."""
    keys = [
        run.tags["dagster/run_key"].split(" ")
        for run in year.runs("retrain")
        if run.parent_run_id is None
    ]
    return [datetime.fromisoformat(time) for name, time in keys if name == f"mine_{number}"]


def of(runs: Iterable[dg.DagsterRun]) -> Counter[str]:
    """Whose runs they are."""
    return Counter(run.tags["dagster/partition"] for run in runs)


def lose(number: int) -> None:
    Launcher.loses = f"mine_{number}"


def test_a_week_of_two_assistants(year: Service) -> None:
    for number in (0, 2):
        add(year, number)
    year.start()
    events = {1: lambda: write(year, 0, rows=4), 6: lambda: lose(2), 7: year.restart}
    play(year, [0, 1, 2, 6, 7], events)
    dues = {number: due(number, 0, 7) for number in (0, 2)}
    assert {number: asked(year, number) for number in dues} == dues
    assert of(year.runs("assistant_folders")) == {"mine_0": 1}
    assert of(run for run in year.runs() if run.parent_run_id) == {"mine_2": 1}
    assert Counter(run.status for run in year.runs()) == {
        dg.DagsterRunStatus.SUCCESS: sum(map(len, dues.values())) + 1,
        dg.DagsterRunStatus.FAILURE: 1,
    }
