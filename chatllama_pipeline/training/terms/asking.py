"""Asks each term of the reward for its word on replies: reward model, judge, own functions."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.judge.questions import LlmJudge
from chatllama_pipeline.llm.judge.readable import cures, listed_reasons
from chatllama_pipeline.llm.local.server import Machine
from chatllama_pipeline.llm.providers import Judge, open_judge
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.progress import phase
from chatllama_pipeline.records import Prompt, StageSpec
from chatllama_pipeline.settings import AssistantSettings, RewardsSettings
from chatllama_pipeline.settings.training.rewards import JUDGE, REWARD_MODEL
from chatllama_pipeline.training.terms.functions import Functions
from chatllama_pipeline.training.terms.weighing import Term

# (prompts, replies), B each -> scores [B].
Scorer = Callable[[list[Prompt], list[str]], Tensor]
# Makes one process do for all what must be done once: (what, of these rows) -> its part of it.
Once = Callable[[Callable[[list[Any]], list[Any]], list[Any]], list[Any]]
# Of an iteration's verdicts, so many that can't be read leave nothing to learn from.
MOST_UNREAD_SHARE = 0.5


def terms_of(rewards: RewardsSettings) -> tuple[Term, ...]:
    """In the order of the columns; none where the reward model's score is all there is."""
    if rewards.default_alone:
        return ()
    return tuple(
        Term(name, weight, scaled=name == REWARD_MODEL) for name, weight in rewards.weights.items()
    )


@dataclass
class Asking:
    """Who is asked, and what a judge's unreadable verdicts said, by reason.

    `beside` runs what is asked of the judge while models read.
    """

    rewards: RewardsSettings
    functions: Functions | None
    judge: Judge | None
    beside: Executor
    judge_samples: int = 1
    asked: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    begun: bool = False
    judging: Future[list[float]] | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        return terms_of(self.rewards)

    def begin(self, prompts: list[Prompt], replies: list[str], judge: bool) -> None:
        """Ask the functions, and the `judge` too, of B replies that `paid` is asked about next.

        They answer while models read. Only one process that trains alone may ask the judge so:
        several ask it together, in step.
        """
        if self.functions:
            self.functions.begin(prompts, replies)
        if self.judge is not None and judge:
            rows = list(zip(prompts, replies, strict=True))
            self.judging = self.beside.submit(copy_context().run, self._judged, rows)
        self.begun = True

    def paid(
        self,
        prompts: list[Prompt],
        replies: list[str],
        scorer: Scorer,
        once: Once = lambda ask, rows: ask(rows),
    ) -> Tensor:
        """What B replies are paid by: the scores `[B]` of a reward model that is all there is, else
        the `columns` of all terms."""
        if not self.terms:
            return scorer(prompts, replies)
        return self.columns(prompts, replies, scorer, once)

    def columns(
        self,
        prompts: list[Prompt],
        replies: list[str],
        scorer: Scorer,
        once: Once = lambda ask, rows: ask(rows),
    ) -> Tensor:
        """What each of K terms says of B replies, `[B,K]`, NaN where a judge can't be read.

        The functions work while models are asked. Raises DataError for a value of theirs that is no
        number, ProviderError and BudgetError where a judge gives no answer.
        """
        if not self.begun:
            self.begin(prompts, replies, judge=False)
        judging, self.judging, self.begun = self.judging, None, False
        found: dict[str, Any] = {}
        if REWARD_MODEL in self.rewards.weights:
            found[REWARD_MODEL] = scorer(prompts, replies).double().cpu()
        if self.judge is not None:
            rows = list(zip(prompts, replies, strict=True))
            found[JUDGE] = judging.result() if judging else once(self._judged, rows)
        if self.functions:
            found |= self.functions.finish()
        listed = [torch.as_tensor(found[name]).double() for name in self.rewards.weights]
        return torch.stack(listed, dim=1)

    def _judged(self, rows: list[tuple[Prompt, str]]) -> list[float]:
        assert self.judge is not None
        counter = phase(f"{self.judge.name} judges {len(rows)} replies", len(rows), "replies")
        found = self.judge.score_all(rows, self.judge_samples, lambda done, _: counter.reach(done))
        reasons = Counter(one.reason for one in found if one.score is None)
        self.asked += len(rows)
        self.unread += reasons
        if reasons.total() > MOST_UNREAD_SHARE * len(rows):
            raise ProviderError(
                f"llm.judge: {reasons.total()} of {len(rows)} verdicts on PPO's replies could not "
                f"be read ({listed_reasons(reasons)}){cures(reasons, 'llm.judge')}; try another "
                "model as judge, or take judge out of rewards.weights"
            )
        return [math.nan if one.score is None else one.score for one in found]

    def warnings(self) -> list[str]:
        """What a person should know of the judge's answers."""
        told = warnings_of(self.judge)
        if self.unread:
            told = [
                *told,
                f"{self.unread.total()} of {self.asked} verdicts of llm.judge could not be read, "
                f"and count as neither good nor bad: {listed_reasons(self.unread)}"
                f"{cures(self.unread, 'llm.judge')}",
            ]
        return told

    def metrics(self) -> dict[str, Any]:
        """What the judge's answers cost."""
        return paid_for(self.judge)


def paid_for(*judges: Judge | None) -> dict[str, Any]:
    """What the answers of all judges that are LLMs cost together; nothing without such."""
    ledgers = [judge.client.ledger() for judge in judges if isinstance(judge, LlmJudge)]
    return functools.reduce(operator.add, ledgers).metrics() if ledgers else {}


def warnings_of(judge: Judge | None) -> list[str]:
    """What an LLM's client has to tell; nothing of any other judge."""
    return judge.client.warnings() if isinstance(judge, LlmJudge) else []


@contextlib.contextmanager
def open_rewards(
    settings: AssistantSettings, templates: Path, run_folder: Path, machine: Machine | None = None
) -> Iterator[Asking]:
    """Who is asked for PPO's rewards, ready: what doesn't import or has no key is told here.

    `templates` is the folder whose `templates.json` the judge goes by; what the makings in
    `run_folder` have paid counts against llm.max_usd.
    """
    rewards = settings.rewards
    with contextlib.ExitStack() as stack:
        functions = stack.enter_context(Functions(rewards)) if rewards.functions else None
        judge, samples = None, 1
        if JUDGE in rewards.weights:
            template, role = load_templates(templates)["reward"], settings.role("judge")
            judge = stack.enter_context(open_judge(role, template, run_folder, machine))
            samples = settings.llm.judge_samples
        # Closed first: whom it asks must be there until it is done.
        beside = stack.enter_context(ThreadPoolExecutor(1))
        yield Asking(rewards, functions, judge, beside, samples)


def open_of_stage(
    spec: StageSpec, settings: AssistantSettings
) -> contextlib.AbstractContextManager[Asking]:
    """The same for a stage's child process."""
    # Without an LLM that judges by them, the person's templates are no input.
    templates = spec.inputs.get("personal_data", spec.output)
    machine = Machine(spec.device, spec.threads)
    return open_rewards(settings, Path(templates), Path(spec.run_folder), machine)
