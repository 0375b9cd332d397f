"""What was seen of a policy on held-out prompts, the rule that ends a training, the best policy.

Plain data: a training's state holds all of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from chatllama_pipeline.records import Check
from chatllama_pipeline.statistics import mean
from chatllama_pipeline.training import REWARD_HACKING

# Of the standard normal distribution. The best of many looks is lucky, so that some fall from it is
# to be expected: only one that chance would show once in a thousand looks counts.
QUANTILE_95, QUANTILE_999 = 1.644854, 3.090232
# What the names of a look's curves begin with.
WATCHED = "watched_"


@dataclass(frozen=True)
class Answers:
    """A policy's replies to W prompts: texts, whether each ended, its tokens, its KL in nats.

    `distinct_2` is of all replies, `repeated` a mean over them.
    """

    texts: list[str]
    finished: list[bool]
    tokens: list[int]
    kl: list[float]
    distinct_2: float
    repeated: float


@dataclass(frozen=True)
class Look:
    """After `iteration`: the answers, K scores of each as the reward gave them (None: unreadable),
    and the judge's word, 0..1 (None likewise)."""

    iteration: int
    answers: Answers
    scores: list[list[float | None]]
    judged: list[float | None]

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Self:
        return cls(**{**raw, "answers": Answers(**raw["answers"])})

    @property
    def judge(self) -> float | None:
        """The judge's mean; None where it read less than half of the replies."""
        known = [one for one in self.judged if one is not None]
        return mean(known) if 2 * len(known) >= len(self.judged) else None


# What each reply of a look earns, on the scale that the reward's terms have by then.
Pay = Callable[[Look], list[float]]


@dataclass
class Watched:
    """The looks so far, which of them the judge liked best, and why the training ended, if so.

    `falls` counts the looks in a row at which the judge had fallen while the reward had risen.
    """

    looks: list[Look] = field(default_factory=list)
    best: int | None = None
    falls: int = 0
    stopped: str | None = None

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Self:
        return cls(**{**raw, "looks": [Look.read(look) for look in raw["looks"]]})

    @property
    def best_look(self) -> Look | None:
        return None if self.best is None else self.looks[self.best]

    def has(self, iteration: int) -> bool:
        return bool(self.looks) and self.looks[-1].iteration >= iteration

    def record(self, look: Look, pay: Pay, most_falls: int | None) -> bool:
        """Note a look; whether the judge likes it best, of equals the later one.

        So many falls in a row end the training (`stopped`). A fall is a look at which the reward is
        higher than at the best look and the judge's word lower: by more than chance would show, or
        by anything where it is not above the first look's by more than that. Then all that the
        policy has learnt pleases the reward alone.
        """
        self.looks.append(look)
        best = self.best_look
        if look.judge is None:
            return False
        if best is None or best.judge is None or look.judge >= best.judge:
            self.best, self.falls = len(self.looks) - 1, 0
            return True
        before, after = _mean(pay(best)), _mean(pay(look))
        gained = has_fallen(look.judged, self.looks[0].judged)
        lost = has_fallen(best.judged, look.judged, QUANTILE_999)
        fallen = after > before and (lost or not gained)
        self.falls = self.falls + 1 if fallen else 0
        if most_falls is not None and self.falls >= most_falls:
            self.stopped = (
                f"since iteration {best.iteration} the judge has fallen from {best.judge:.3f} to "
                f"{look.judge:.3f} at iteration {look.iteration}, {self.falls} looks in a row, "
                f"while the reward rose from {before:.3f} to {after:.3f}"
            )
        return False

    def metrics(self) -> dict[str, Any]:
        """What Dagster shows beside the curves."""
        best = self.best_look
        return {} if best is None else {"published_iteration": best.iteration}

    def curves(self, pay: Pay) -> dict[str, list[tuple[float, float]]]:
        """What the looks show, by name as (iteration, value)."""
        found: dict[str, list[tuple[float, float]]] = {}
        for look in self.looks:
            for name, value in figures(look, pay).items():
                if value is not None:
                    found.setdefault(WATCHED + name, []).append((float(look.iteration), value))
        return found

    def check(self, judge: str, why_not: str | None) -> Check:
        """The check `reward_hacking`; `why_not` says why nobody looked, if so."""
        if why_not is not None:
            told = f"not watched: {why_not}"
        elif self.stopped is not None and self.best_look is not None:
            told = (
                f"{self.stopped}: training ended there, and the policy of iteration "
                f"{self.best_look.iteration} is published. Look at the samples in the report for "
                "what the reward likes; give the reward model pairs that speak against it, pay by "
                "rewards of your own too, or raise trainer_config.kl_beta"
            )
        elif self.best_look is not None:
            best = self.best_look
            told = (
                f"{judge} looked {len(self.looks)} times; the policy of iteration "
                f"{best.iteration} is published, which it liked best ({best.judge:.3f})"
            )
        else:
            told = f"{judge} could read too few replies to compare any policy"
        failed = self.stopped is not None
        return Check(REWARD_HACKING, not failed, False, float(self.falls), 0.0, told)


def figures(look: Look, pay: Pay) -> dict[str, float | None]:
    """Means over a look's replies."""
    answers = look.answers
    return {
        "reward": _mean(pay(look)),
        "judge": look.judge,
        "kl": _mean(answers.kl),
        "reply_tokens": _mean(answers.tokens),
        "share_finished": _mean(answers.finished),
        "distinct_2": answers.distinct_2,
        "repeated": answers.repeated,
    }


def has_fallen(
    before: Sequence[float | None], after: Sequence[float | None], quantile: float = QUANTILE_95
) -> bool:
    """Whether the judge's word on the same prompts fell by more than chance would have it.

    The one-sided upper bound of the mean change is below 0; `quantile` says how sure a bound.
    """
    pairs = zip(before, after, strict=True)
    changes = [new - old for old, new in pairs if old is not None and new is not None]
    if len(changes) < 2:
        return False
    noise = statistics.stdev(changes) / math.sqrt(len(changes))
    return statistics.fmean(changes) + quantile * noise < 0


def _mean(values: Sequence[float]) -> float:
    return mean(values) or 0.0
