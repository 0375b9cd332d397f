"""Votes in a blind trial: what a rater is shown, and how his word stands in the log."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from chatllama_pipeline.data.feedback.importing import content_of
from chatllama_pipeline.data.feedback.ratings import Better, Preference, Reply, Turn
from chatllama_pipeline.data.feedback.words import words_of
from chatllama_pipeline.data.tables import as_prompt
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.store.feedback import Entry, FeedbackLog
from chatllama_pipeline.store.manifests import utc_now
from chatllama_pipeline.store.trials import Trial

Winner = Literal["first", "second", "tie", "neither"]


class Shown(NamedTuple):
    """A pair as a rater sees it: of the versions nothing is told."""

    number: int
    prompt: Prompt
    left: str
    right: str


class Vote(NamedTuple):
    """A rater's word on the pair of that number, and on which side the better reply stood."""

    rater: str
    pair: int
    winner: Winner
    better: Better


def rater_of(trial: Trial, name: str) -> str:
    """The visit under which a rater of that name votes: of the name a hash is kept."""
    return _digest(trial.id, "rater", name)


def waiting_pairs(trial: Trial, log: FeedbackLog, rater: str) -> list[Shown]:
    """The pairs that a rater hasn't voted on, those with the fewest votes first, else at random."""
    votes = votes_in(trial, log)
    done = {vote.pair for vote in votes if vote.rater == rater}
    counts = Counter(vote.pair for vote in votes)
    waiting = [number for number in trial.open_pairs if number not in done]
    waiting.sort(key=lambda number: (counts[number], _digest(trial.id, rater, "order", number)))
    return [shown(trial, rater, number) for number in waiting]


def shown(trial: Trial, rater: str, number: int) -> Shown:
    """A pair with its replies on sides at random, which are the same whenever he sees it."""
    pair = trial.pairs[number]
    replies = (pair.first, pair.second)
    left, right = reversed(replies) if _is_turned(trial, rater, number) else replies
    return Shown(number, pair.prompt, left, right)


def vote(
    trial: Trial, log: FeedbackLog, rater: str, number: int, better: Better, reason: str = ""
) -> bool:
    """Keep a rater's word on a pair that he was shown; False where it stands already.

    Raises DataError for a pair that nobody is asked about, or where he said another word on it
    before, StoreError where nothing could be kept.
    """
    if number not in trial.open_pairs:
        raise DataError(f"pair: the trial asks nobody about a pair {number}")
    pair = shown(trial, rater, number)
    versions = [trial.first.version, trial.second.version]
    if _is_turned(trial, rater, number):
        versions.reverse()
    rating = Preference(
        prompt=[Turn(role=turn.role, content=turn.content) for turn in pair.prompt],  # type: ignore[arg-type]
        left=Reply(text=pair.left, version=versions[0]),
        right=Reply(text=pair.right, version=versions[1]),
        better=better,
        reason=reason,
        trial=trial.id,
    )
    name = _digest(trial.id, rater, "vote", number)
    return bool(log.add([Entry(name, rater, utc_now(), content_of(rating))]))


def votes_in(trial: Trial, log: FeedbackLog) -> list[Vote]:
    """The votes of a trial, of each rater the last on a pair; what is on no pair of it is none."""
    by_prompt = {tuple(trial.pairs[number].prompt): number for number in trial.open_pairs}
    found: dict[tuple[str, int], Vote] = {}
    for word in words_of(log.entries(trial=trial.id)):
        rating = word.rating
        if not isinstance(rating, Preference):
            continue
        number = by_prompt.get((*as_prompt(word.prompt),))
        texts = {rating.left.version: rating.left.text, rating.right.version: rating.right.text}
        if number is None or texts != _texts(trial, number):
            continue
        winner = _winner(trial, rating)
        found[word.visit, number] = Vote(word.visit, number, winner, rating.better)
    return list(found.values())


def raters_of(votes: Iterable[Vote]) -> list[str]:
    """Who voted, in the order in which they came."""
    return list(dict.fromkeys(vote.rater for vote in votes))


def _texts(trial: Trial, number: int) -> dict[str, str]:
    pair = trial.pairs[number]
    return {trial.first.version: pair.first, trial.second.version: pair.second}


def _winner(trial: Trial, rating: Preference) -> Winner:
    if rating.better in ("tie", "neither"):
        return rating.better
    better = rating.left if rating.better == "left" else rating.right
    return "second" if better.version == trial.second.version else "first"


def _is_turned(trial: Trial, rater: str, number: int) -> bool:
    """Whether the second version's reply stands on the left for him."""
    odd = int(_digest(trial.id, rater, "side", number), 16) % 2 == 1
    # Whichever version was named first.
    return odd == (trial.first.version < trial.second.version)


def _digest(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
