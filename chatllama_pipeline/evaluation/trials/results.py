"""What came out of a blind trial."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatllama_pipeline.data.feedback.figures import Sides
from chatllama_pipeline.evaluation.trials.votes import Vote, raters_of
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.statistics import bootstrap_interval, krippendorff_alpha, mean
from chatllama_pipeline.store.trials import Trial

# How much a vote is worth to the second version.
WORTH = {"first": 0.0, "second": 1.0, "tie": 0.5, "neither": 0.5}


@dataclass(frozen=True)
class Agreement:
    """Share of the `prompts` on which people prefer one version where the judge does too, its ties
    counting half, with the 95 % interval."""

    judge: str
    share: float
    low: float
    high: float
    prompts: int


@dataclass(frozen=True)
class Results:
    """Figures of a trial: the win rate is that of the second version.

    `open` prompts have replies that differ, `voted` of them a vote; the win rate is over those and
    the prompts with equal replies, each prompt once, ties counting half as the gate counts them.
    `alpha` is Krippendorff's, over `shared` prompts with two votes or more.
    """

    trial: Trial
    raters: int
    counts: dict[str, int]
    open: int
    voted: int
    shared: int
    win_rate: float | None
    low: float | None
    high: float | None
    alpha: float | None
    sides: Sides

    @property
    def finished(self) -> bool:
        """Whether every pair that differs has a vote."""
        return self.voted == self.open

    @property
    def votes(self) -> int:
        return sum(self.counts.values())

    def told_rate(self) -> str:
        """The win rate in words."""
        if self.win_rate is None:
            return "win rate not measured: nobody voted"
        return (
            f"win rate {self.win_rate:.3f} of {self.trial.second} over {self.trial.first} (95 % "
            f"interval {self.low:.3f} to {self.high:.3f}) on "
            f"{self.voted + len(self.trial.pairs) - self.open} prompts"
        )

    def told_missing(self) -> str:
        """How many pairs wait for a vote."""
        return f"{self.open - self.voted} of {self.open} pairs have no vote yet"


def results_of(trial: Trial, votes: Sequence[Vote], settings: AssistantSettings) -> Results:
    """The figures that the votes give."""
    by_pair = wins_by_pair(votes)
    equal = [0.5] * (len(trial.pairs) - len(trial.open_pairs))
    # Of no vote nothing is known, whatever the equal replies say.
    wins = [*by_pair.values(), *equal] if by_pair else []
    seed = stage_seed(settings.seed, "trial")
    low, high = bootstrap_interval(wins, settings.evaluation.bootstrap_samples, seed)
    words: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for vote in votes:
        words[vote.rater][vote.pair] = vote.winner
    sides = Counter(vote.better for vote in votes)
    each = Counter(vote.pair for vote in votes)
    return Results(
        trial=trial,
        raters=len(raters_of(votes)),
        counts={winner: sum(vote.winner == winner for vote in votes) for winner in WORTH},
        open=len(trial.open_pairs),
        voted=len(by_pair),
        shared=sum(count > 1 for count in each.values()),
        win_rate=mean(wins),
        low=low,
        high=high,
        alpha=krippendorff_alpha(words.values()),
        sides=Sides(sides["left"], sides["right"]),
    )


def wins_by_pair(votes: Sequence[Vote]) -> dict[int, float]:
    """Pair -> the mean of its votes, 1 where all are for the second version."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for vote in votes:
        found[vote.pair].append(WORTH[vote.winner])
    return {pair: sum(each) / len(each) for pair, each in sorted(found.items())}


def preferred(votes: Sequence[Vote]) -> dict[int, bool]:
    """Pair -> whether people prefer the second version there; those that they do neither are
    left out."""
    return {pair: win > 0.5 for pair, win in wins_by_pair(votes).items() if win != 0.5}


def agreement_with(
    judge: str,
    people: dict[int, bool],
    second_wins: dict[int, float | None],
    settings: AssistantSettings,
) -> Agreement | None:
    """How often the judge prefers what people do; None where neither can be told."""
    said = {pair: win for pair, win in second_wins.items() if win is not None and pair in people}
    alike = [win if people[pair] else 1 - win for pair, win in said.items()]
    seed = stage_seed(settings.seed, "trial_judge")
    low, high = bootstrap_interval(alike, settings.evaluation.bootstrap_samples, seed)
    share = mean(alike)
    if share is None or low is None or high is None:
        return None
    return Agreement(judge, share, low, high, len(alike))


def result_lines(results: Results) -> Iterator[str]:
    """What `chatllama compare --results` prints, but for the judge."""
    trial, counts = results.trial, results.counts
    same = len(trial.pairs) - results.open
    yield f"trial {trial.id}, begun {trial.begun[:16].replace('T', ' ')}"
    yield (
        f"{len(trial.pairs)} prompts; both replied the same to {same}, which are ties that nobody "
        f"is asked about; {results.told_missing()}"
    )
    yield (
        f"{results.votes} votes by {results.raters} raters: {counts['second']} for {trial.second}, "
        f"{counts['first']} for {trial.first}, {counts['tie']} ties, {counts['neither']} neither"
    )
    yield results.told_rate()
    if results.alpha is None:
        yield "agreement between raters: it takes two on the same prompts, and two different words"
    else:
        yield (
            f"agreement between raters: Krippendorff's alpha {results.alpha:.2f} on "
            f"{results.shared} prompts with two votes or more (1: always, 0: as by chance)"
        )
    yield f"sides: {results.sides}"
    if results.sides.decide:
        yield "the side decides: some raters may not have read what they chose"


def agreement_line(found: Agreement | None, judge: str) -> str:
    """What is told of the judge beside people."""
    if found is None:
        return f"the judge {judge} said nothing on what people prefer one version on"
    return (
        f"the judge {found.judge} prefers what people prefer in {found.share:.0%} of "
        f"{found.prompts} prompts (95 % interval {found.low:.0%} to {found.high:.0%}; ties count "
        "half)"
    )
