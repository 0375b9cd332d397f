"""What an evaluation found: one record per reply, per prompt, per actor and for the whole."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chatllama_pipeline.evaluation import EVALUATION_FILE
from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.settings.known_questions import KnownAnswers

REPLIES_FILE = "table.jsonl"


@dataclass(frozen=True)
class Reply:
    """One sampled reply. `tokens` counts the stop token; `score` is the judge's, 0..5.

    `score` is None where no judge scores (an LLM compares), `names_item` where it knows no items,
    `reward` where the way to the actor needed no reward model.
    """

    text: str
    tokens: int
    finished: bool
    reward: float | None
    score: float | None
    names_item: bool | None


@dataclass(frozen=True)
class Comparison:
    """One test prompt with the replies of both actors; `kl` in nats over PPO's reply.

    `ppo_wins` is the judge's word: 1, 0, .5 for a tie, None where there is none.
    """

    prompt: Prompt
    source: str
    actor_sft: Reply
    actor_ppo: Reply
    kl: float
    ppo_wins: float | None = None

    @property
    def gain(self) -> float:
        """How much better PPO's reply is: by the judge, or by the reward where nobody judges."""
        if self.ppo_wins is not None and self.actor_ppo.score is None:
            return self.ppo_wins - 0.5
        before, after = self.actor_sft, self.actor_ppo
        if after.score is None or before.score is None:
            return (after.reward or 0.0) - (before.reward or 0.0)
        return after.score - before.score


@dataclass(frozen=True)
class ActorFigures:
    """Means over one actor's replies; None where not measurable.

    `rubric_score` is the judge's score / 5; `distinct_2` the share of token bigrams that differ.
    """

    rubric_score: float | None
    reward: float | None
    reply_tokens: float | None
    share_finished: float | None
    names_item: float | None
    distinct_2: float | None


@dataclass(frozen=True)
class OverRelease:
    """The candidate against the release in use, over the `prompts` that both have room for.

    `win_rate` is the candidate's with its 95 % interval over `judged` prompts, of each the mean
    over `replies` of both, ties counting half; `rubric_score` is the release's mean score / 5,
    `candidate_score` the candidate's. None where not measurable.
    """

    version: str
    prompts: int
    judged: int
    win_rate: float | None
    win_rate_low: float | None
    win_rate_high: float | None
    rubric_score: float | None
    candidate_score: float | None = None
    replies: int = 1


@dataclass(frozen=True)
class Agreement:
    """In what share of `votes` for one reply over another the judge prefers the same one, ties
    counting half, with its 95 % interval; None of no votes."""

    votes: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Figures:
    """SFT against PPO; None where not measurable.

    `kl` is in nats per reply. `win_rate` is PPO's over SFT by the judge, ties counting half,
    with its 95 % interval, over `judged` prompts; `judge_flip_rate` is the share of them in which
    an LLM answered otherwise when the replies changed places. `reward_model_accuracy` is over
    `reward_model_pairs` test pairs. `known_answers` are None where no such questions are set,
    `over_release` where there is no release to compare with, or nobody judged; it is over all test
    prompts, those that people rated among them, and `on_feedback` over the latter alone, None
    where there are none. `with_people` tells how the judge agrees with those who rated replies,
    None where nobody did.
    """

    actor_sft: ActorFigures
    actor_ppo: ActorFigures
    kl: float | None
    win_rate: float | None
    win_rate_low: float | None
    win_rate_high: float | None
    reward_model_accuracy: float | None
    reward_model_pairs: int
    sft_validation_loss: float | None
    prompts: int
    judged: int = 0
    judge_flip_rate: float | None = None
    known_answers: KnownAnswers | None = None
    over_release: OverRelease | None = None
    on_feedback: OverRelease | None = None
    with_people: Agreement | None = None

    @property
    def length_ratio(self) -> float | None:
        """Mean length of PPO's replies over that of SFT's."""
        before, after = self.actor_sft.reply_tokens, self.actor_ppo.reply_tokens
        return after / before if before and after is not None else None


@dataclass(frozen=True)
class Verdict:
    """Whether the gate lets a model pass, and always why."""

    released: bool
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """`evaluation.json`: the figures with the verdict that rests on them."""

    figures: Figures
    verdict: Verdict

    def write(self, folder: Path) -> None:
        content = dataclasses.asdict(self.figures) | dataclasses.asdict(self.verdict)
        # Where nobody rated anything, nothing is said of it.
        for name in ("on_feedback", "with_people"):
            if content[name] is None:
                del content[name]
        (folder / EVALUATION_FILE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        raw = json.loads((folder / EVALUATION_FILE).read_text())
        verdict = Verdict(raw.pop("released"), raw.pop("reason"))
        sft = ActorFigures(**raw.pop("actor_sft"))
        ppo = ActorFigures(**raw.pop("actor_ppo"))
        known = raw.pop("known_answers")
        answers = None if known is None else KnownAnswers(**known)
        # Those of before there was such a comparison have no such key.
        over = raw.pop("over_release", None)
        rated, people = raw.pop("on_feedback", None), raw.pop("with_people", None)
        figures = Figures(
            actor_sft=sft,
            actor_ppo=ppo,
            known_answers=answers,
            over_release=None if over is None else OverRelease(**over),
            on_feedback=None if rated is None else OverRelease(**rated),
            with_people=None if people is None else Agreement(**people),
            **raw,
        )
        return cls(figures, verdict)


def flat_figures(figures: Figures) -> dict[str, float]:
    """Everything measured, by dotted name."""
    found: dict[str, float] = {}
    for name, value in dataclasses.asdict(figures).items():
        inner = value if isinstance(value, dict) else {"": value}
        for part, number in inner.items():
            if number is not None:
                found[f"{name}.{part}".rstrip(".")] = number
    return found


def write_comparisons(folder: Path, comparisons: list[Comparison]) -> None:
    """All replies as `table.jsonl`, one test prompt a line."""
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in comparisons]
    (folder / REPLIES_FILE).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_comparisons(folder: Path) -> list[Comparison]:
    """The rows of `table.jsonl`, in its order."""
    with (folder / REPLIES_FILE).open(encoding="utf-8") as lines:
        return [_comparison(json.loads(line)) for line in lines]


def _comparison(raw: dict[str, Any]) -> Comparison:
    return Comparison(
        prompt=[Message(**turn) for turn in raw["prompt"]],
        source=raw["source"],
        actor_sft=Reply(**raw["actor_sft"]),
        actor_ppo=Reply(**raw["actor_ppo"]),
        kl=raw["kl"],
        ppo_wins=raw["ppo_wins"],
    )
