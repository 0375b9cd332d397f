"""Which versions a trial compares, and what people's word keeps from being released."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.approve import approve
from chatllama_pipeline.errors import AbsentError, CheckError, SettingsError
from chatllama_pipeline.evaluation.trials.votes import rater_of, shown, vote
from chatllama_pipeline.lineage.trials import missing_of_people, named_ids, read_speaking
from chatllama_pipeline.lineage.verdict import release_verdict
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings.folder import Assistant, load_assistant
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.trials import Pair, Trial, begin_trial, keep_trial
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import NAME, Make, gate, write_config
from tests.lineage.test_incumbent import released


def evaluated(make: Make, word: str, passed: bool = True) -> Version:
    """A candidate whose evaluation is in use."""
    actor = make("actor_ppo", word)
    evaluation = make(
        "evaluation",
        word,
        {"actor_ppo": actor.id},
        checks=[gate(passed)],
        inputs={"unpromoted_overrides": []},
    )
    said = (
        '{"released": true, "reason": "it won"}'
        if passed
        else '{"released": false, "reason": "it lost"}'
    )
    (evaluation.path / "evaluation.json").write_text(said)
    return actor


@pytest.fixture
def asked(store: Store) -> Assistant:
    """People judge."""
    write_config(store.root.parent, "release: {judge: people}")
    return load_assistant(NAME)


def begun(store: Store, release: Version, candidate: Version, pairs: int, equal: int = 0) -> Trial:
    found = [
        Pair(user_prompt(f"ask {n}"), f"old {n}", f"new {n}" if n >= equal else f"old {n}")
        for n in range(pairs)
    ]
    trial = begin_trial(release, candidate, found)
    keep_trial(store.root, NAME, trial)
    return trial


def rate(store: Store, trial: Trial, candidate: Version, wins: int, losses: int) -> None:
    """Votes on the pairs from the first on."""
    log, rater = FeedbackLog(store.root, NAME), rater_of(trial, "ann")
    for place, number in enumerate(trial.open_pairs[: wins + losses]):
        pair = trial.pairs[number]
        new = pair.second if trial.second.version == candidate.id else pair.first
        is_left = shown(trial, rater, number).left == new
        vote(trial, log, rater, number, "left" if is_left == (place < wins) else "right")


def test_a_candidate_waits_for_a_finished_trial_that_people_let_it_win(
    make: Make, store: Store, asked: Assistant
) -> None:
    _, _, release = released(make, store, "one")
    assert release_verdict(store, asked).released  # it is that release
    candidate = evaluated(make, "two")

    def held() -> str:
        verdict = release_verdict(store, asked)
        assert not verdict.released and verdict.reason.endswith("(it won)")
        error = CliRunner().invoke(approve, [NAME]).exception
        assert isinstance(error, CheckError)
        assert verdict.reason.startswith(str(error).removeprefix("not approved: "))
        return verdict.reason

    rate_it = f"chatllama compare {NAME} release candidate"
    assert f"no blind trial of {candidate.id} against release {release.id} stands" in held()
    assert rate_it in held()
    trial = begun(store, release, candidate, 30, equal=2)
    assert f"isn't finished, 28 of 28 pairs have no vote yet: {rate_it}" in held()
    rate(store, trial, candidate, 25, 0)
    assert "isn't finished, 3 of 28 pairs have no vote yet" in held()
    rate(store, trial, candidate, 25, 3)
    found = release_verdict(store, asked)
    assert (found.released, found.reason) == (True, "it won")
    assert missing_of_people(asked, store, candidate.id) == ""


def test_few_prompts_or_an_interval_that_holds_one_half_release_nothing(
    make: Make, store: Store, asked: Assistant
) -> None:
    _, _, release = released(make, store, "one")
    candidate = evaluated(make, "two")
    small = begun(store, release, candidate, 25, equal=6)
    rate(store, small, candidate, 19, 0)
    told = missing_of_people(asked, store, candidate.id)
    assert "votes on 19 prompts are too few, at least 20 are needed" in told
    assert told.endswith(f"chatllama compare {NAME} release candidate --prompts 50")
    large = begun(store, release, candidate, 50)
    rate(store, large, candidate, 28, 22)
    told = missing_of_people(asked, store, candidate.id)
    assert f"they don't prefer it for certain: win rate 0.560 of actor_ppo {candidate.id}" in told


def test_what_the_gate_holds_back_may_be_approved_once_people_prefer_it(
    make: Make, store: Store, asked: Assistant
) -> None:
    _, _, release = released(make, store, "one")
    candidate = evaluated(make, "two", passed=False)
    trial = begun(store, release, candidate, 30)
    rate(store, trial, candidate, 30, 0)
    assert release_verdict(store, asked).reason == "it lost"
    assert CliRunner().invoke(approve, [NAME]).exit_code == 0
    assert release_verdict(store, asked).released


def test_where_people_are_not_asked_or_there_is_no_release_nothing_is_missing(
    make: Make, store: Store, asked: Assistant
) -> None:
    first = evaluated(make, "one")
    assert missing_of_people(asked, store, first.id) == ""
    released(make, store, "one")
    second = evaluated(make, "two")
    assert missing_of_people(asked, store, second.id)
    write_config(store.root.parent, "release: {judge: evaluation}")
    assert missing_of_people(load_assistant(NAME), store, second.id) == ""


def test_versions_are_named_by_ids_their_beginnings_and_by_what_they_are(
    make: Make, store: Store, asked: Assistant
) -> None:
    _, _, first = released(make, store, "one")
    _, _, second = released(make, store, "two")
    candidate = evaluated(make, "three")
    assert named_ids(asked, store, (first.id[:9], "release")) == (first.id, second.id)
    assert named_ids(asked, store, ("release", "candidate")) == (second.id, candidate.id)
    assert read_speaking(asked, store, candidate.id) == candidate


def test_what_cannot_be_compared_is_told(make: Make, store: Store, asked: Assistant) -> None:
    with pytest.raises(AbsentError, match="release of assistant mine was never made"):
        named_ids(asked, store, ("release", "candidate"))
    with pytest.raises(AbsentError, match="none: make it first \\(chatllama make mine\\)"):
        named_ids(asked, store, ("0123", "release"))
    actor, _, first = released(make, store, "one")
    with pytest.raises(SettingsError, match="are the same version"):
        named_ids(asked, store, (first.id, "release"))
    with pytest.raises(SettingsError, match=r"was made from .* the same model"):
        named_ids(asked, store, ("candidate", "release"))
    with pytest.raises(AbsentError, match=rf"no version 0123 that speaks; those .*{first.id}"):
        named_ids(asked, store, ("0123", "release"))
    with pytest.raises(AbsentError, match="no version"):
        read_speaking(asked, store, "0123")
    assert actor.id != first.id


def test_a_trial_goes_on_when_one_of_its_versions_was_removed(
    make: Make, store: Store, asked: Assistant
) -> None:
    _, _, first = released(make, store, "one")
    _, _, second = released(make, store, "two")
    begun(store, first, second, 3)
    store.remove([first])
    assert named_ids(asked, store, (first.id[:8], "release")) == (first.id, second.id)
    with pytest.raises(AbsentError, match=f"no version {first.id}"):
        read_speaking(asked, store, first.id)
