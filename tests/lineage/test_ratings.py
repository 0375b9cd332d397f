"""Which ratings the next version of `feedback` is made from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.declaring.ratings import LOG, counted_entries, waiting_ratings
from chatllama_pipeline.lineage.recipes import current_upstream, is_made, recipe_for
from chatllama_pipeline.lineage.status import asked_version, asset_statuses, status_lines
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.settings.folder import Assistant, load_assistant
from chatllama_pipeline.store.feedback import Entry, FeedbackLog
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import NAME, Make, write_config

READERS = [name for name, asset in ASSETS.items() if "feedback" in asset.upstream]


@pytest.fixture
def mine(store: Store) -> Assistant:
    write_config(store.root.parent, "data: {sources: []}\nfeedback: {min_new: 5}\n")
    return load_assistant(NAME)


def rate(store: Store, first: int, count: int) -> None:
    entries = [Entry(f"rating-{n:010}", "", "now", "{}") for n in range(first, first + count)]
    FeedbackLog(store.root, NAME).add(entries)


def recipe(mine: Assistant, store: Store) -> Recipe:
    return recipe_for("feedback", mine, {}, store, [])


def learn(mine: Assistant, store: Store) -> Version:
    """Make the version that a run would make."""
    found = recipe(mine, store)

    def build(bench: Any) -> Outcome:
        entries = counted_entries(found.inputs[LOG], NAME, store.root)
        (bench.output / "ids").write_text(" ".join(entry.id for entry in entries))
        return Outcome()

    return store.make(found, build, {}, force=False).version


def of_feedback(mine: Assistant, store: Store) -> tuple[str | None, list[str], str]:
    [found] = [status for status in asset_statuses(mine, store) if status.asset == "feedback"]
    return found.version, found.stale, found.waits


def test_too_few_ratings_make_no_version_and_change_nothing_of_others(
    mine: Assistant, store: Store, make: Make
) -> None:
    for name in ("preference_data", "synthetic_conversations", "personal_data"):
        make(name, "one")
    before = asked_version(mine, store)
    upstream = current_upstream("actor_training_data", mine, store)
    plain = recipe_for("actor_training_data", mine, upstream, store, []).fingerprint
    rate(store, 0, 4)
    assert not is_made(recipe(mine, store))
    assert asked_version(mine, store) == before
    assert current_upstream("actor_training_data", mine, store) == upstream
    assert "feedback" not in upstream
    assert of_feedback(mine, store) == (
        None,
        [],
        "4 of the 5 ratings that it takes (feedback.min_new)",
    )
    assert any("4 of the 5 ratings" in line for line in status_lines(mine, store))
    rate(store, 4, 1)
    assert of_feedback(mine, store) == (None, ["never made"], "")
    assert asked_version(mine, store) != before
    version = learn(mine, store)
    learned = current_upstream("actor_training_data", mine, store)
    assert learned == {**upstream, "feedback": version.id}
    assert recipe_for("actor_training_data", mine, learned, store, []).fingerprint != plain


def test_what_came_since_is_learned_from_once_it_is_enough(mine: Assistant, store: Store) -> None:
    rate(store, 0, 7)
    first = learn(mine, store)
    assert len((first.path / "ids").read_text().split()) == 7
    rate(store, 7, 4)
    assert waiting_ratings(NAME, store.root) == (4, 11, 7)
    assert recipe(mine, store).fingerprint == first.manifest.fingerprint
    assert of_feedback(mine, store) == (first.id, [], "")
    rate(store, 11, 1)
    second = learn(mine, store)
    assert len((second.path / "ids").read_text().split()) == 12
    assert waiting_ratings(NAME, store.root).new == 0


def test_what_is_deleted_goes_with_the_next_version(mine: Assistant, store: Store) -> None:
    rate(store, 0, 6)
    first = learn(mine, store)
    rate(store, 6, 2)
    FeedbackLog(store.root, NAME).delete(ids=["rating-0000000003"])
    _, stale, _ = of_feedback(mine, store)
    assert stale and stale[0].startswith("log ")
    second = learn(mine, store)
    ids = (second.path / "ids").read_text().split()
    assert len(ids) == 5 and "rating-0000000003" not in ids and first.id != second.id
    FeedbackLog(store.root, NAME).forget()
    assert (learn(mine, store).path / "ids").read_text() == ""


def test_ratings_that_go_while_they_are_read_are_told(mine: Assistant, store: Store) -> None:
    rate(store, 0, 6)
    counted = recipe(mine, store).inputs[LOG]
    rate(store, 6, 6)
    assert len(counted_entries(counted, NAME, store.root)) == 6
    FeedbackLog(store.root, NAME).delete(ids=["rating-0000000003"])
    with pytest.raises(StoreError, match="deleted while they were read: run it again"):
        counted_entries(counted, NAME, store.root)


@pytest.mark.parametrize("asset", READERS)
def test_no_asset_hears_of_feedback_where_none_is_to_be_learned_from(
    mine: Assistant, store: Store, asset: str
) -> None:
    rate(store, 0, 5)
    learn(mine, store)
    write_config(store.root.parent, "data: {sources: []}\nfeedback: {min_new: null}\n")
    never = load_assistant(NAME).settings
    assert "feedback" in ASSETS[asset].upstream_for(mine.settings)
    assert "feedback" not in ASSETS[asset].upstream_for(never)
    unheard = dataclasses.replace(mine, settings=never)
    FeedbackLog(store.root, NAME).forget()
    Path(store.root / "feedback" / NAME / "current.json").unlink()
    rate(store, 0, 9)
    assert of_feedback(unheard, store)[2] == "not learned from (feedback.min_new: null)"


def test_votes_of_a_trial_are_not_learned_from_and_start_no_run(
    mine: Assistant, store: Store
) -> None:
    rate(store, 0, 6)
    before = recipe(mine, store)
    votes = [Entry(f"vote-{n:012}", "", "now", json.dumps({"trial": "0" * 32})) for n in range(9)]
    FeedbackLog(store.root, NAME).add(votes)
    assert recipe(mine, store) == before
    assert waiting_ratings(NAME, store.root).new == 6
    assert len(counted_entries(before.inputs[LOG], NAME, store.root)) == 6
    learn(mine, store)
    assert waiting_ratings(NAME, store.root).new == 0
