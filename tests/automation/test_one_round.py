"""Sensors that would ask for the same assistant in one round: the first does, the others know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine

from chatllama_pipeline.automation.folders import assistant_folders
from chatllama_pipeline.automation.retraining import retrain
from tests.automation.ticks import Ticks, write

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAILY = "retrain: {cron: 0 3 * * *"


class Rounds:
    """Both sensors, one after the other, as Dagster's daemon has them: in any order."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.sensors = {each.name: Ticks(instance, each) for each in (assistant_folders, retrain)}

    def at(
        self, hours: float, *order: str, runs: dg.DagsterRunStatus | None = None
    ) -> list[tuple[str, str]]:
        """Who asked, and why the others didn't; what a sensor asks for ends before the next."""
        told = []
        with time_machine.travel(MONDAY + timedelta(hours=hours), tick=False):
            for name in order or tuple(self.sensors):
                keys, why = self.sensors[name].tick()
                if keys and runs:
                    self.sensors[name].end(runs)
                told.append((name, "asked" if keys else why))
        return told


@pytest.fixture
def rounds(root: Path, instance: dg.DagsterInstance) -> Rounds:
    """Both have seen `quickstart`, due at three; then its folder changed, and was seen so."""
    write(root, "quickstart", f"{DAILY}}}")
    rounds = Rounds(instance)
    rounds.at(0)
    write(root, "quickstart", f"{DAILY}}}\nseed: 1")
    rounds.at(2)
    return rounds


ORDERS = [("assistant_folders", "retrain"), ("retrain", "assistant_folders")]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ends", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED])
def test_who_is_due_and_has_changed_in_one_round_is_asked_for_once(
    rounds: Rounds, order: tuple[str, str], ends: dg.DagsterRunStatus
) -> None:
    (first, asked), (_, other) = rounds.at(3, *order, runs=ends)
    assert first == order[0] and asked == "asked"
    assert other != "asked"
    for run in rounds.sensors["retrain"].instance.get_runs():
        rounds.sensors["retrain"].instance.delete_run(run.run_id)
        rounds.sensors[first].end(dg.DagsterRunStatus.SUCCESS)
    assert "asked" not in dict(rounds.at(4)).values()
    assert dict(rounds.at(28, runs=dg.DagsterRunStatus.SUCCESS)) == {
        "assistant_folders": "no folder changed",
        "retrain": "asked",
    }


def test_a_due_time_says_which_run_makes_it(rounds: Rounds) -> None:
    _, (_, why) = rounds.at(3, runs=dg.DagsterRunStatus.STARTED)
    [run] = rounds.sensors["retrain"].instance.get_runs()
    assert why == (
        f"quickstart is due since 2026-03-02 03:00: run {run.run_id}, which was asked for since "
        "then, makes it"
    )


@pytest.mark.parametrize("order", ORDERS)
def test_runs_that_fail_are_three_in_all_whoever_asked(
    rounds: Rounds, order: tuple[str, str]
) -> None:
    failed = dg.DagsterRunStatus.FAILURE
    asked = [
        name
        for hours in (3, 3.1, 3.2, 3.3)
        for name, told in rounds.at(hours, *order, runs=failed)
        if told == "asked"
    ]
    assert len(asked) == 3
    assert "was asked for 3 times in vain" in dict(rounds.at(3.4))["assistant_folders"]


def test_a_folder_that_changed_after_it_was_due_is_made_again(root: Path, rounds: Rounds) -> None:
    rounds.at(3, "retrain", runs=dg.DagsterRunStatus.SUCCESS)
    write(root, "quickstart", f"{DAILY}}}\nseed: 2")
    assert "is changing" in dict(rounds.at(3.1))["assistant_folders"]
    assert dict(rounds.at(3.2))["assistant_folders"] == "asked"


def test_a_run_of_less_than_everything_is_not_the_folders(root: Path, rounds: Rounds) -> None:
    write(root, "quickstart", f"{DAILY}, what: reward}}")
    rounds.at(2.5)
    asked = rounds.at(3, "retrain", "assistant_folders", runs=dg.DagsterRunStatus.SUCCESS)
    assert asked == [("retrain", "asked"), ("assistant_folders", "asked")]
    assert dict(rounds.at(3.1, "retrain"))["retrain"] == "nobody is due"


def test_a_run_that_was_asked_for_before_it_was_due_is_not_that_times(rounds: Rounds) -> None:
    assert dict(rounds.at(2.5, runs=dg.DagsterRunStatus.SUCCESS))["assistant_folders"] == "asked"
    assert dict(rounds.at(3))["retrain"] == "asked"


def test_a_content_that_comes_back_while_another_fails_is_made_again(
    root: Path, rounds: Rounds
) -> None:
    assert dict(rounds.at(2.5, runs=dg.DagsterRunStatus.FAILURE))["assistant_folders"] == "asked"
    write(root, "quickstart", f"{DAILY}}}")
    rounds.at(2.6)
    assert dict(rounds.at(2.7))["assistant_folders"] == "asked"
