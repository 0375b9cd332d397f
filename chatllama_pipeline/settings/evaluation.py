"""`evaluation`, `release` and `checks`: comparing, letting through, warning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from chatllama_pipeline.settings.llm.provider import LlmRole
from chatllama_pipeline.settings.section import Count, Positive, PositiveFloat, Section, Share


class EvaluationSettings(Section):
    """How the actors are compared on test prompts."""

    prompts: Positive = Field(default=200, description="test prompts, at most")
    judge: LlmRole = Field(
        default=LlmRole(), description="as llm.judge if empty; a provider's name alone will do"
    )
    temperature: PositiveFloat = 1.0
    known_answers: str | None = Field(
        default=None, description="a JSON file of questions whose answers should not get lost"
    )
    bootstrap_samples: Positive = 2000
    table_rows: Positive = 12

    @field_validator("judge", mode="before")
    @classmethod
    def _provider_alone(cls, judge: Any) -> Any:
        if judge is None:
            return {}
        return {"provider": judge} if isinstance(judge, str) else judge


class ReleaseSettings(Section):
    """What is released, and what holds it back."""

    stage: Literal["actor_ppo", "actor_sft"] = "actor_ppo"
    min_win_rate: Share = Field(default=0.5, description="the win rate's lower bound must pass it")
    max_kl: PositiveFloat = Field(default=10.0, description="nats per reply")
    max_length_ratio: Annotated[float, Field(gt=1)] = 2.0


class CheckSettings(Section):
    """The number behind each check."""

    min_reward_rows: Count = 100
    few_rows: Count = 1000
    max_identical_pairs: Share = 0.2
    max_length_only_accuracy: Share = 0.65
    max_near_duplicates: Share = 0.05
    max_alike_pairs: Share = 0.05
    max_personal_data: Count = 0
    min_judge_agreement: Share = 0.6
    max_judge_unread: Share = Field(
        default=0.05, description="of a judge's verdicts; where most can't be read, it blocks"
    )
    min_reward_accuracy: Share = 0.6
    max_known_answers_lost: Share = 0.1
    max_kl: PositiveFloat = 10.0
    max_length_ratio: Annotated[float, Field(gt=1)] = 2.0
