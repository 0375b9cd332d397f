"""How often a judge prefers the reply that people chose, with the interval of that share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatllama_pipeline.llm.judge.questions import Judgement, Preference
from chatllama_pipeline.records import Check
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.statistics import bootstrap_interval, mean, preferences

_BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Agreement:
    """Share of `pairs` in which the judge prefers the chosen reply, ties half, with its 95 %
    interval. `flip_rate` is the share in which it answered otherwise when the replies changed
    places; None where it scored them one by one."""

    share: float
    low: float
    high: float
    pairs: int
    flip_rate: float | None = None

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "judge_agreement": self.share,
            "judge_agreement_low": self.low,
            "judge_agreement_high": self.high,
            "judge_agreement_pairs": self.pairs,
        }
        return found if self.flip_rate is None else {**found, "judge_flip_rate": self.flip_rate}


def agreement_by_scores(judgements: Sequence[Judgement], seed: int) -> Agreement | None:
    """From judgements of chosen and rejected replies in turn; None if no pair has both scores."""
    pairs = [
        (rejected.score, chosen.score)
        for chosen, rejected in zip(judgements[::2], judgements[1::2], strict=True)
        if chosen.score is not None and rejected.score is not None
    ]
    return _agreement(preferences([r for r, _ in pairs], [c for _, c in pairs]), seed)


def agreement_by_comparison(found: Sequence[Preference], seed: int) -> Agreement | None:
    """From comparisons of the rejected with the chosen reply; None if none could be read."""
    read = [one for one in found if one.second_wins is not None]
    flips = mean(one.flipped for one in read)
    return _agreement([one.second_wins for one in read if one.second_wins is not None], seed, flips)


def _agreement(
    wins: Sequence[float], seed: int, flip_rate: float | None = None
) -> Agreement | None:
    share = mean(wins)
    low, high = bootstrap_interval(wins, _BOOTSTRAP_SAMPLES, stage_seed(seed, "judge_agreement"))
    if share is None or low is None or high is None:
        return None
    return Agreement(share, low, high, len(wins), flip_rate)


def agreement_check(found: Agreement | None, limit: float) -> Check:
    """A warning where the judge and people often disagree."""
    if found is None:
        told = "not measured: it takes a judge, llm.scored_pairs and preference pairs"
        return Check("judge_agreement", True, False, 0.0, limit, told)
    told = (
        f"the judge prefers the reply that people chose in {found.share:.0%} of {found.pairs} pairs"
        f" (95 % interval {found.low:.0%} to {found.high:.0%}; ties count half)"
    )
    if found.flip_rate is not None:
        told += f"; in {found.flip_rate:.0%} it answered otherwise when they changed places"
    return Check("judge_agreement", found.share >= limit, False, found.share, limit, told)
