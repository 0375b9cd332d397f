"""The sensor `new_feedback`: once for so many ratings, and under the rules of the schedules."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.automation.retraining import new_feedback
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.store.feedback import Entry, FeedbackLog
from chatllama_pipeline.store.manifests import Recipe
from chatllama_pipeline.store.versions import Store
from tests.automation.ticks import Ticks, going, write

NAME = "quickstart"


class Rated:
    """The sensor's ticks, and an assistant that is rated meanwhile."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.store = root, Store(root.parent / "storage")
        self.log = FeedbackLog(self.store.root, NAME)
        self.ticks = Ticks(instance, new_feedback)

    def rate(self, count: int) -> None:
        first = self.log.beyond(0).last
        numbers = range(first, first + count)
        self.log.add([Entry(f"rating-{number:010}", "", "now", "{}") for number in numbers])

    def learn(self) -> None:
        """What a run does first: a version of all that was rated."""
        counted = {"log": {"up_to": self.log.beyond(0).last}}
        recipe = Recipe("feedback", NAME, "1", {}, {}, counted)
        self.store.make(recipe, lambda bench: Outcome(), {}, force=False)

    def tick(self) -> tuple[list[str | None], str]:
        return self.ticks.tick()


@pytest.fixture
def rated(root: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Rated:
    monkeypatch.setenv("CHATLLAMA_STORE", str(root.parent / "storage"))
    write(root, NAME, "feedback: {min_new: 10}")
    return Rated(root, instance)


def test_enough_ratings_are_asked_for_once(rated: Rated) -> None:
    assert rated.tick() == ([], "nobody was rated enough")
    rated.rate(9)
    assert rated.tick()[0] == []
    rated.rate(1)
    assert rated.tick()[0] == [NAME]
    assert [(one.run_key, one.job_name) for one in rated.ticks.requests] == [
        ("quickstart rating 10", None)
    ]
    assert rated.tick()[0] == []
    rated.learn()
    assert rated.tick()[0] == []
    rated.rate(10)
    assert rated.tick()[0] == [NAME]


def test_a_run_that_failed_is_not_asked_for_again_by_the_next_rating(rated: Rated) -> None:
    rated.rate(10)
    assert rated.tick()[0] == [NAME]
    rated.ticks.end(dg.DagsterRunStatus.FAILURE)
    rated.rate(9)
    assert rated.tick()[0] == []
    rated.rate(1)
    assert rated.tick()[0] == [NAME]


def test_what_a_run_by_hand_learned_from_is_not_asked_for(rated: Rated) -> None:
    rated.rate(25)
    rated.learn()
    rated.rate(9)
    assert rated.tick()[0] == []


def test_who_was_rated_waits_for_the_run_that_goes_on(rated: Rated) -> None:
    rated.rate(12)
    run = going(rated.ticks.instance, NAME)
    told = f"quickstart has 12 new ratings: waits for the end of run {run.run_id}"
    assert rated.tick() == ([], told)
    rated.ticks.instance.delete_run(run.run_id)
    assert rated.tick()[0] == [NAME]


def test_a_broken_assistant_or_log_harms_no_other(rated: Rated) -> None:
    rated.rate(10)
    write(rated.root, "broken", "seed: [")
    write(rated.root, "other", "seed: 0")
    (rated.store.root / "_feedback" / "other.sqlite3").write_text("no log at all" * 100)
    assert rated.tick()[0] == [NAME]
    keys, why = rated.tick()
    assert keys == [] and "broken" in why and "other.sqlite3" in why


def test_whoever_wants_none_learned_from_is_not_asked_for(rated: Rated) -> None:
    rated.rate(500)
    write(rated.root, NAME, "feedback: {min_new: null}")
    assert rated.tick()[0] == []
