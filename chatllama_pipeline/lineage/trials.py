"""Which versions a blind trial compares, and whether people let a candidate pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.evaluation.gate import FEWEST_PROMPTS
from chatllama_pipeline.lineage.declaring.incumbent import RELEASE
from chatllama_pipeline.lineage.recipes import read_in_use, version_in_use
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.trials import Trial, find_trial, trials_of
from chatllama_pipeline.store.versions import Store

if TYPE_CHECKING:
    from chatllama_pipeline.evaluation.trials.results import Results

CANDIDATE = "candidate"
# Whose versions speak.
SPEAKING = (RELEASE, "actor_ppo", "actor_sft")


def named_ids(assistant: Assistant, store: Store, texts: Sequence[str]) -> tuple[str, str]:
    """The two versions that are named, by their ids or the beginnings of those, as `release` (the
    one in use) or as `candidate` (what the evaluation in use evaluated).

    One that is gone counts where a trial knows it. Raises AbsentError, and SettingsError where both
    are the same model.
    """
    trials = trials_of(store.root, assistant.name)
    first, second = (_id_of(assistant, store, trials, text) for text in texts)
    if first == second:
        raise SettingsError(
            f"{texts[0]} and {texts[1]} are the same version, {first}: name two that differ"
        )
    for one, other in ((first, second), (second, first)):
        version = store.version(RELEASE, assistant.name, one)
        if version is not None and other in version.manifest.upstream.values():
            raise SettingsError(
                f"release {one} was made from {other}: they are the same model; name two that "
                "differ"
            )
    return first, second


def read_speaking(assistant: Assistant, store: Store, number: str) -> Version:
    """That version of a release or actor, every file verified; AbsentError where it is gone."""
    for asset in SPEAKING:
        if store.version(asset, assistant.name, number) is not None:
            return store.read(asset, assistant.name, number)
    raise AbsentError(_no_version(assistant, store, number))


def missing_of_people(assistant: Assistant, store: Store, candidate: str) -> str:
    """What is missing for people to let a candidate (a version of `release.stage`) take the place
    of the release in use, with the way to get it; "" where nothing is, or people aren't asked."""
    if assistant.settings.release.judge != "people":
        return ""
    release = version_in_use(RELEASE, assistant, store)
    if release is None or candidate in release.manifest.upstream.values():
        return ""
    rate = f"chatllama compare {assistant.name} {RELEASE} {CANDIDATE}"
    trial = find_trial(trials_of(store.root, assistant.name), release.id, candidate)
    if trial is None:
        told = f"no blind trial of {candidate} against release {release.id} stands: {rate}"
    else:
        told = _not_won(trial_results(assistant, store.root, trial), rate)
    return told and f"release.judge asks people, and {told}"


def _not_won(found: Results, rate: str) -> str:
    """What keeps a trial from being won by its second version; "" where it is."""
    if not found.finished:
        return f"the blind trial isn't finished, {found.told_missing()}: {rate}"
    if found.voted < FEWEST_PROMPTS:
        return (
            f"their votes on {found.voted} prompts are too few, at least {FEWEST_PROMPTS} are "
            f"needed: {rate} --prompts {2 * len(found.trial.pairs)}"
        )
    if found.low is None or not found.low > 0.5:
        return f"they don't prefer it for certain: {found.told_rate()}"
    return ""


def trial_results(assistant: Assistant, store_root: Path, trial: Trial) -> Results:
    """The figures of a trial as its votes stand."""
    from chatllama_pipeline.evaluation.trials.results import results_of
    from chatllama_pipeline.evaluation.trials.votes import votes_in

    votes = votes_in(trial, FeedbackLog(store_root, assistant.name))
    return results_of(trial, votes, assistant.settings)


def _id_of(assistant: Assistant, store: Store, trials: Sequence[Trial], text: str) -> str:
    if text == RELEASE:
        return read_in_use(RELEASE, assistant, store).id
    if text == CANDIDATE:
        stage = assistant.settings.release.stage
        return read_in_use("evaluation", assistant, store).manifest.upstream[stage]
    known = [one.id for asset in SPEAKING for one in store.versions(asset, assistant.name)]
    known += [side.version for trial in trials for side in (trial.first, trial.second)]
    found = sorted({number for number in known if text and number.startswith(text)})
    if not found:
        raise AbsentError(_no_version(assistant, store, text))
    if len(found) > 1 and text not in found:
        raise AbsentError(f"several versions begin with {text}: {', '.join(found)}")
    return text if text in found else found[0]


def _no_version(assistant: Assistant, store: Store, text: str) -> str:
    have = [
        f"{asset} {', '.join(one.id for one in versions)}"
        for asset in SPEAKING
        if (versions := store.versions(asset, assistant.name))
    ]
    return (
        f"{assistant.name} has no version {text} that speaks; those there are: "
        f"{'; '.join(have) or 'none: make it first (chatllama make ' + assistant.name + ')'}"
    )
