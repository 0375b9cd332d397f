"""A watch: held-out prompts, who judges the replies to them, what pays for them, and how often."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatllama_pipeline.llm.judge.questions import LlmJudge
from chatllama_pipeline.llm.plans import Plan, estimate_lines
from chatllama_pipeline.llm.providers import Judge
from chatllama_pipeline.progress import phase
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.terms.weighing import Scales, Term
from chatllama_pipeline.training.watching.looks import Answers, Look, Pay, Watched
from chatllama_pipeline.training.watching.report import WatchReport

# The judge's best score.
BEST = 5.0
# Looks at a training whose settings don't say how often, beside the first and the last.
USUAL_LOOKS = 10
# A look costs what an iteration does until it learns: decoding, and reading what was written.
MOST_LOOKED_AT = 0.5
_ESTIMATED = "word "


@dataclass(frozen=True)
class Watch:
    """What a look needs beside the policy's replies to `prompts`, whose token ids are `ids`.

    `paid` gives the scores of B replies, `[B]` or `[B,K]` of K `terms`, asked by one process alone.
    `judge` is None in processes that don't ask; `name` is its name in all of them. A look follows
    every so-manieth iteration.
    """

    prompts: list[Prompt]
    ids: list[list[int]]
    judge: Judge | None
    name: str
    paid: Callable[[list[Prompt], list[str]], Tensor]
    terms: Sequence[Term]
    every: int
    falls: int | None
    missing_eos_penalty: float

    def is_due(self, iteration: int, last: bool) -> bool:
        return last or iteration % self.every == 0

    def look(self, iteration: int, answers: Answers) -> Look:
        """What reward and judge say of the policy's replies; for the process that asks.

        Raises DataError, ProviderError and BudgetError as they do.
        """
        assert self.judge is not None
        texts = answers.texts
        given = self.paid(self.prompts, texts).double().reshape(len(texts), -1)
        scores = [[None if math.isnan(one) else one for one in row] for row in given.tolist()]
        counter = phase(f"{self.name} judges {len(texts)} replies", len(texts), "replies")
        rows = list(zip(self.prompts, texts, strict=True))
        said = self.judge.score_all(rows, 1, lambda done, _: counter.reach(done))
        judged = [None if one.score is None else one.score / BEST for one in said]
        return Look(iteration, answers, scores, judged)

    def report(self, watched: Watched, scales: Scales) -> WatchReport | None:
        """What was seen, for the payload; None where nothing was."""
        if not watched.looks:
            return None
        names = [term.name for term in self.terms]
        return WatchReport.of(watched, self.name, self.prompts, names, self.pay_by(scales))

    def pay_by(self, scales: Scales) -> Pay:
        """What replies earn on the scale that the terms have by now."""

        def pay(look: Look) -> list[float]:
            scores = torch.tensor(
                [[math.nan if one is None else one for one in row] for row in look.scores],
                dtype=torch.float64,
            )
            given = scores if self.terms else scores[:, 0]
            totals = scales.weigh(given, self.terms, learn=False).total.tolist()
            ended = zip(totals, look.answers.finished, strict=True)
            return [total - (0 if end else self.missing_eos_penalty) for total, end in ended]

        return pay

    def forecast(self, iterations: int, reply_tokens: int, max_usd: float) -> list[str]:
        """What an LLM's word would cost; nothing of a judge that costs nothing."""
        if not isinstance(self.judge, LlmJudge):
            return []
        looks = sum(self.is_due(n, n == iterations) for n in range(iterations + 1))
        reply = _ESTIMATED * (3 * reply_tokens // 4)
        rows = [(prompt, f"{n} {reply}") for prompt in self.prompts for n in range(looks)]
        plan = Plan(self.judge.score_requests(rows), [], exact=False)
        return estimate_lines(self.judge.client, plan, max_usd)


def interval(settings: PpoSettings, prompts: int) -> int:
    """Iterations from look to look, where a look is at the replies to so many prompts.

    As set, else such that there are about `USUAL_LOOKS`, or as many fewer as it takes for a look to
    write no more than `MOST_LOOKED_AT` of what training writes meanwhile.
    """
    if settings.watch_every:
        return settings.watch_every
    written = MOST_LOOKED_AT * settings.rollouts_per_iteration
    return max(math.ceil(settings.iterations / USUAL_LOOKS), math.ceil(prompts / written))
