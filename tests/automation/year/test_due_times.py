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

from assets.partitions import NAME
from chatllama_pipeline.settings import RetrainSettings
from tests.automation.year.location import definitions
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
    events = {2: lambda: write(year, 0, rows=4), 6: lambda: lose(2), 7: year.restart}
    play(year, [0, 1, 2, 3, 6, 7], events)
    dues = {number: due(number, 0, 7) for number in (0, 2)}
    assert {number: asked(year, number) for number in dues} == dues
    assert of(year.runs("assistant_folders")) == {"mine_0": 1}
    assert of(run for run in year.runs() if run.parent_run_id) == {"mine_2": 1}
    assert Counter(run.status for run in year.runs()) == {
        dg.DagsterRunStatus.SUCCESS: sum(map(len, dues.values())) + 1,
        dg.DagsterRunStatus.FAILURE: 1,
    }


def change(year: Service, number: int) -> None:
    """Other models, and settings that let them pass."""
    name = write(year, number, release={"min_win_rate": 0.6})
    year.make_models(name, others=", once more")


def test_a_release_that_was_rolled_back_stays_so_though_it_is_due_again(year: Service) -> None:
    add(year, 0)
    year.start()
    released = []

    def look() -> None:
        released.append(year.store.current_version("release", "mine_0"))

    events = {2: lambda: (look(), change(year, 0)), 4: lambda: (look(), roll_back(year, 0))}
    play(year, [0, 1, 2, 3, 4, 8], events)
    look()
    older, newer, last = released
    assert older == last != newer
    assert asked(year, 0) == due(0, 0, 8)
    assert {run.status for run in year.runs()} == {dg.DagsterRunStatus.SUCCESS}


def damage(year: Service, number: int) -> None:
    """Rows that stop a run."""
    rows = year.root / "assistants" / f"mine_{number}" / "datasets" / "actor_training_data.json"
    rows.write_text("no rows")


def roll_back(year: Service, number: int) -> None:
    """The release before is in use again, by the job as the UI starts it."""
    job = definitions.resolve_job_def("rollback")
    config = {"ops": {"roll_back": {"config": {"asset": "release"}}}}
    job.execute_in_process(config, partition_key=f"mine_{number}", instance=year.instance)


def why(year: Service) -> list[str]:
    """What each run that failed says of it."""
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
    told = []
    for run in year.instance.get_runs(wanted):
        events = year.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        errors = [event.dagster_event.step_failure_data.error for event in events]
        told.append(f"{run.tags} {[error.to_string()[:1000] for error in errors if error]}")
    return told


def check(year: Service, last_day: int) -> None:
    """That all of the year's runs up to a day after its last event are those that were due."""
    dues = {number: due(number, 0, last_day) for number in range(9)}
    dues |= {9: due(9, 0, 27), 10: due(10, 30, last_day)}
    expected = Counter(mine_0=1, mine_2=3, mine_10=1)
    # Due in the round that its folder asks in: either sensor is the first, and no other asks.
    [together] = due(3, 12, 13)
    if together not in asked(year, 3):
        dues[3].remove(together)
        expected["mine_3"] = 1
    assert {number: asked(year, number) for number in dues} == dues
    assert of(year.runs("assistant_folders")) == expected, why(year)
    assert of(run for run in year.runs() if run.parent_run_id) == {"mine_4": 1}
    made = [run for run in year.runs() if run.job_name != "rollback"]
    assert len(made) == sum(map(len, dues.values())) + sum(expected.values()) + 1
    failed = of(run for run in made if run.status == dg.DagsterRunStatus.FAILURE)
    # Its wrong rows three times for the folder and once for each time that was due meanwhile.
    assert failed == {"mine_2": 3 + len(due(2, 8, 19)), "mine_4": 1}, why(year)
    ended = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
    assert {run.status for run in made} == ended
    known = {f"mine_{number}" for number in dues if number != 9}
    assert set(year.instance.get_dynamic_partitions(NAME)) == known


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_a_year_of_ten_assistants(year: Service) -> None:
    for number in range(10):
        add(year, number)
    year.start()
    released: dict[int, list[str | None]] = {0: [], 3: []}

    def look(number: int) -> None:
        released[number].append(year.store.current_version("release", f"mine_{number}"))

    events = {
        3: lambda: (look(0), change(year, 0)),
        5: lambda: write(year, 1, retrain={"cron": "61 9 * * 1"}),
        7: lambda: damage(year, 2),
        9: lambda: write(year, 1),
        12: lambda: (look(3), write(year, 3, release={"min_win_rate": 0.99})),
        # Mended on the day that it is due: that run is the folder's, too.
        20: lambda: (write(year, 2, rows=5), lose(4)),
        22: year.restart,
        24: lambda: (look(0), roll_back(year, 0)),
        28: lambda: year.remove("mine_9"),
        30: lambda: add(year, 10),
    }
    # The service stands still for three days.
    play(year, (day for day in range(40) if day not in (33, 34, 35)), events)
    check(year, 39)
    for first_day, last_day in itertools.pairwise((40, 70, 130, 250, 364)):
        play(year, range(first_day, last_day), {})
        check(year, last_day - 1)
        print(f"every run up to day {last_day - 1} was due, and was once")
    look(0)
    look(3)
    older, newer, last = released[0]
    assert older == last != newer, "what was rolled back stays so until a person approves"
    assert released[3][0] == released[3][1], "what the gate holds back is not released"
