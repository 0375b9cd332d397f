"""Going back to an earlier release, with and without the chain behind it, and what comes next."""

from __future__ import annotations

import json

import pytest

from chatllama_pipeline.errors import AbsentError, CorruptVersionError, SettingsError
from chatllama_pipeline.lineage.history.rollback import go_back, plan_rollback, rollback_lines
from chatllama_pipeline.lineage.verdict import release_verdict
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.approvals import accept
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import Make, write_config
from tests.store.recipes import prune

Releases = tuple[Version, Version]


def roll_back(
    store: Store, asset: str = "release", wanted: str | None = None, chain: bool = False
) -> list[str]:
    assistant = load_assistant("mine")
    moves = plan_rollback(assistant, store, asset, wanted, chain)
    go_back(assistant, store, moves, by="anna")
    return [move.asset for move in moves]


def in_use(store: Store, asset: str) -> str | None:
    current = store.current(asset, "mine")
    return current.version if current else None


def test_a_release_goes_back_alone_to_the_one_before(store: Store, two_releases: Releases) -> None:
    older, newer = two_releases
    assert roll_back(store) == ["release"]
    assert in_use(store, "release") == older.id
    assert in_use(store, "actor_ppo") == newer.manifest.upstream["actor_ppo"]


def test_with_its_chain_what_it_was_made_from_goes_back_too_upstream_first(
    store: Store, two_releases: Releases
) -> None:
    older, _ = two_releases
    assert roll_back(store, chain=True) == ["actor_ppo", "evaluation", "release"]
    assert {a: in_use(store, a) for a in older.manifest.upstream} == older.manifest.upstream


def test_going_back_again_goes_further_back(store: Store, make: Make) -> None:
    versions = [make("actor_sft", word) for word in ("one", "two", "three")]
    roll_back(store, "actor_sft")
    assert in_use(store, "actor_sft") == versions[1].id
    roll_back(store, "actor_sft")
    assert in_use(store, "actor_sft") == versions[0].id
    with pytest.raises(AbsentError, match="has no version before"):
        roll_back(store, "actor_sft")
    # And forward, by name.
    roll_back(store, "actor_sft", versions[2].id[:8])
    assert in_use(store, "actor_sft") == versions[2].id


def test_the_model_that_a_release_was_rolled_back_from_is_held_back_however_it_is_evaluated(
    store: Store, two_releases: Releases, make: Make
) -> None:
    older, newer = two_releases
    roll_back(store)
    again = make("evaluation", "again", {"actor_ppo": newer.manifest.upstream["actor_ppo"]})
    (again.path / "evaluation.json").write_text("{}")
    evaluated(again)
    mine = load_assistant("mine")
    verdict = release_verdict(store, mine)
    assert not verdict.released
    assert f"anna went back from it to release {older.id}" in verdict.reason
    assert "chatllama approve mine" in verdict.reason
    # Another model is judged by the gate alone, and so is this one once it is accepted.
    accept(store.root, "mine", newer.manifest.upstream["actor_ppo"])
    assert release_verdict(store, mine).released


def test_a_rollback_to_a_release_takes_its_rejection_back(
    store: Store, two_releases: Releases
) -> None:
    _, newer = two_releases
    roll_back(store)
    roll_back(store, wanted=newer.id)
    evaluated(store.current_version("evaluation", "mine"))
    assert release_verdict(store, load_assistant("mine")).released


def evaluated(version: Version | None) -> None:
    """Let a version of `evaluation` say that the gate passed it, as the stage writes it."""
    assert version is not None
    text = json.dumps({"released": True, "reason": "it won"})
    (version.path / "evaluation.json").write_text(text)


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_release_whose_files_are_gone_or_damaged_is_refused_by_name_with_the_cure(
    store: Store, two_releases: Releases, how: str
) -> None:
    older, newer = two_releases
    word = older.path / "word.txt"
    word.unlink() if how == "removed" else word.write_text("changed")
    with pytest.raises(CorruptVersionError) as told:
        roll_back(store)
    found = "is missing" if how == "removed" else "is damaged"
    assert str(told.value) == (
        f"{older.name} can't be gone back to: {word} {found}. Bring it back from a backup, or roll "
        f"back to another version ({newer.id})"
    )
    assert in_use(store, "release") == newer.id


def test_a_version_that_was_pruned_is_told_as_one_that_was_in_use_once(
    store: Store, two_releases: Releases
) -> None:
    older, newer = two_releases
    prune(store, "release", "mine", keep=1)
    for wanted in (None, older.id):
        with pytest.raises(AbsentError) as told:
            roll_back(store, wanted=wanted)
        assert f"{older.id} was in use from" in str(told.value)
        assert "was removed since: bring" in str(told.value)
    assert in_use(store, "release") == newer.id


def test_a_chain_with_a_hole_moves_nothing_and_says_what_can_be_done(
    store: Store, two_releases: Releases
) -> None:
    older, newer = two_releases
    prune(store, "actor_ppo", "mine", keep=1)
    with pytest.raises(AbsentError, match=r"which is gone.* Without --chain it goes back alone"):
        roll_back(store, chain=True)
    assert in_use(store, "evaluation") == newer.manifest.upstream["evaluation"]
    assert roll_back(store) == ["release"]
    assert in_use(store, "release") == older.id


def test_public_sources_stay_where_they_are(store: Store, make: Make) -> None:
    first = make("grammar", "one", owner=None)
    make("preference_data", "one", {"grammar": first.id})
    second = make("grammar", "two", owner=None)
    make("preference_data", "two", {"grammar": second.id})
    assert roll_back(store, "preference_data", chain=True) == ["preference_data"]
    current = store.current("grammar", None)
    assert current is not None and current.version == second.id
    with pytest.raises(SettingsError, match="grammar is shared by all assistants"):
        roll_back(store, "grammar")


def test_a_pinned_asset_is_refused(store: Store, two_releases: Releases) -> None:
    _, newer = two_releases
    write_config(store.root.parent, f"store: {{pins: {{release: {newer.id}}}}}")
    with pytest.raises(
        SettingsError, match=r"store\.pins\.release: .* change the pin, or remove it"
    ):
        roll_back(store)


def test_what_is_in_use_already_is_told(store: Store, two_releases: Releases) -> None:
    with pytest.raises(AbsentError, match="is in use already: nothing to go back to"):
        roll_back(store, wanted=two_releases[1].id)


def test_what_comes_next_is_told(store: Store, two_releases: Releases) -> None:
    mine = load_assistant("mine")
    alone = list(rollback_lines(mine, store, plan_rollback(mine, store, "release", None, False)))
    assert alone[0].startswith(f"release: {two_releases[1].id} -> {two_releases[0].id} (made ")
    assert "the next run holds back the one that it left" in alone[1] and len(alone) == 2
    chain = list(rollback_lines(mine, store, plan_rollback(mine, store, "release", None, True)))
    assert "the next run follows" in chain[-1] and "store: {pins: {actor_ppo: " in chain[-1]


def test_between_releases_of_one_model_it_is_told_that_the_next_run_goes_by_the_settings(
    store: Store, two_releases: Releases, make: Make
) -> None:
    newer = two_releases[1]
    settings = {"release.stage": "actor_ppo", "release.max_kl": 5}
    make("release", "three", newer.manifest.upstream, settings=settings)
    mine = load_assistant("mine")
    lines = list(rollback_lines(mine, store, plan_rollback(mine, store, "release", None, False)))
    assert f"both releases are of the model {newer.manifest.upstream['actor_ppo']}" in lines[1]
    assert f"store: {{pins: {{release: {newer.id}}}}}" in lines[1] and len(lines) == 2
