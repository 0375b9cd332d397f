"""Who wins: the judge on both actors' replies.

The judges `rules` and `rubric` score each reply. An LLM compares the two, in both orders: absolute
scores of an LLM crowd at a few values, so that most prompts would end in a tie, while a comparison
asks just what the win rate says, and asking in both orders cancels the judge's liking for what
stands first (Zheng et al. 2023). It costs the same two calls a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chatllama_pipeline.llm.judge.questions import LlmJudge
from chatllama_pipeline.llm.judge.readable import cures, listed_reasons, readable_check
from chatllama_pipeline.llm.plans import Plan, estimate_lines
from chatllama_pipeline.llm.providers import Judge
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Prompt
from chatllama_pipeline.statistics import mean, preferences


@dataclass(frozen=True)
class Judged:
    """By prompt: scores 0..5 of both replies where the judge scores, and 1 where the second wins,
    0 where the first does, .5 for a tie; None where nobody judged or the answer was unreadable."""

    before: list[float | None]
    after: list[float | None]
    after_wins: list[float | None]
    flip_rate: float | None = None
    unread: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    told: list[str] = field(default_factory=list)

    @property
    def wins(self) -> list[float]:
        """Those that could be read."""
        return [win for win in self.after_wins if win is not None]

    def warnings(self) -> list[str]:
        if not self.unread:
            return self.told
        return [
            *self.told,
            f"{sum(self.unread.values())} of {len(self.after_wins)} comparisons by the judge were "
            f"unreadable and count for neither side: {listed_reasons(self.unread)}"
            f"{cures(self.unread, 'evaluation.judge')}",
        ]

    def readable(self, limit: float) -> Check:
        """Whether enough of an LLM's comparisons could be read."""
        return readable_check(self.asked, self.unread, limit, "evaluation.judge")


def is_free(judge: Judge | None) -> bool:
    """Whether it may be asked as often as one likes: it scores, and no model is paid."""
    return not isinstance(judge, LlmJudge)


def judge_replies(
    judge: Judge | None,
    prompts: Sequence[Prompt],
    before: Sequence[str],
    after: Sequence[str],
    progress: Progress,
    max_usd: float = 0.0,
) -> Judged:
    """Judge the two replies to each prompt; `max_usd` is what an LLM may cost, for the estimate."""
    nothing: list[float | None] = [None] * len(prompts)
    if judge is None:
        return Judged(nothing, nothing, nothing)
    if isinstance(judge, LlmJudge):
        return _compared(judge, list(zip(prompts, before, after, strict=True)), progress, max_usd)
    scores = [
        [one.score or 0.0 for one in judge.score_all(list(zip(prompts, texts, strict=True)))]
        for texts in (before, after)
    ]
    return Judged([*scores[0]], [*scores[1]], [*preferences(*scores)])


def _compared(
    judge: LlmJudge, trios: Sequence[tuple[Prompt, str, str]], progress: Progress, max_usd: float
) -> Judged:
    # Equal replies are a tie that nobody needs to be paid for.
    differ = [n for n, (_, old, new) in enumerate(trios) if old != new]
    asked = [trios[n] for n in differ]
    plan = Plan(judge.compare_requests(asked), [], exact=True)
    for line in estimate_lines(judge.client, plan, max_usd):
        progress.say(line)
    found = judge.compare(asked, progress.step)
    wins: list[float | None] = [0.5] * len(trios)
    for n, preference in zip(differ, found, strict=True):
        wins[n] = preference.second_wins
    read = [one for one in found if one.second_wins is not None]
    unread = Counter(one.reason for one in found if one.second_wins is None)
    nothing: list[float | None] = [None] * len(trios)
    return Judged(
        nothing,
        nothing,
        wins,
        mean(one.flipped for one in read),
        dict(unread.most_common()),
        judge.client.ledger().metrics(),
        len(asked),
        judge.client.warnings(),
    )
