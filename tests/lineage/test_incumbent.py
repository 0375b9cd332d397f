"""Which release a candidate is compared with, and that a released model is evaluated only once."""

from __future__ import annotations

import json

import pytest

from chatllama_pipeline.errors import CorruptVersionError
from chatllama_pipeline.lineage.declaring.incumbent import compared_with, incumbent
from chatllama_pipeline.lineage.history.rollback import go_back, plan_rollback
from chatllama_pipeline.lineage.recipes import versions_in_use
from chatllama_pipeline.lineage.verdict import release_verdict
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.approvals import approve
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import Make, gate, write_config

SETTINGS = {"release.stage": "actor_ppo"}


def against(store: Store, candidate: Version) -> str | None:
    return incumbent(load_assistant("mine"), store, candidate.id)


def released(make: Make, store: Store, word: str) -> tuple[Version, Version, Version]:
    """A candidate, its evaluation against what it met, and its release; all in use."""
    actor = make("actor_ppo", word)
    met = against(store, actor)
    inputs = {"release": met} if met else {}
    evaluation = make(
        "evaluation", word, {"actor_ppo": actor.id}, checks=[gate(True)], inputs=inputs
    )
    text = json.dumps({"released": True, "reason": "it won"})
    (evaluation.path / "evaluation.json").write_text(text)
    upstream = {"evaluation": evaluation.id, "actor_ppo": actor.id}
    return actor, evaluation, make("release", word, upstream, settings=SETTINGS)


def test_a_candidate_meets_the_release_in_use_and_once_released_what_it_met_before(
    make: Make, store: Store
) -> None:
    first = make("actor_ppo", "one")
    assert against(store, first) is None
    first, _, old = released(make, store, "one")
    # Its own release is no rival: its evaluation stays what it was.
    assert against(store, first) is None
    second = make("actor_ppo", "two")
    assert against(store, second) == old.id
    second, evaluation, new = released(make, store, "two")
    assert evaluation.manifest.inputs["release"] == old.id
    assert against(store, second) == old.id
    assert against(store, make("actor_ppo", "three")) == new.id


def test_after_a_rollback_the_candidate_meets_the_release_that_was_gone_back_to(
    make: Make, store: Store
) -> None:
    _, _, old = released(make, store, "one")
    second, _, _ = released(make, store, "two")
    mine = load_assistant("mine")
    go_back(mine, store, plan_rollback(mine, store, "release", None, False), by="anna")
    # As before its own release: nothing is evaluated again for a rollback.
    assert against(store, second) == old.id


def test_what_an_evaluation_compared_with_is_not_pruned(make: Make, store: Store) -> None:
    _, _, old = released(make, store, "one")
    released(make, store, "two")
    assert old.id in versions_in_use(load_assistant("mine"), store)["release"]


def test_zero_compares_with_none_and_a_pin_is_what_is_in_use(make: Make, store: Store) -> None:
    _, _, old = released(make, store, "one")
    released(make, store, "two")
    third = make("actor_ppo", "three")
    root = store.root.parent
    write_config(root, f"store: {{pins: {{release: {old.id}}}}}")
    assert against(store, third) == old.id
    write_config(root, "release: {min_win_rate_over_release: 0}")
    assert against(store, third) is None


def test_a_damaged_release_is_told_with_what_can_be_done(make: Make, store: Store) -> None:
    _, _, old = released(make, store, "one")
    (old.path / "word.txt").write_text("changed")
    recipe = Recipe("evaluation", "mine", "1", {}, {}, {"release": old.id})
    with pytest.raises(CorruptVersionError, match="chatllama rollback mine release VERSION"):
        compared_with(recipe, store)


def test_where_a_person_s_word_is_asked_for_the_gate_alone_releases_nothing(
    make: Make, store: Store
) -> None:
    _, evaluation, _ = released(make, store, "one")
    assert release_verdict(store, load_assistant("mine")).released
    write_config(store.root.parent, "release: {by: person}")
    held = release_verdict(store, load_assistant("mine"))
    assert not held.released
    assert "release.by asks for a person's word" in held.reason and "it won" in held.reason
    approve(store.root, "mine", evaluation.id, "anna")
    assert release_verdict(store, load_assistant("mine")).released
