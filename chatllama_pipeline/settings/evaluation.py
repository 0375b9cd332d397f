"""`evaluation`, `release` and `checks`: comparing, letting through, warning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from chatllama_pipeline.settings.llm.provider import LlmRole
from chatllama_pipeline.settings.section import Count, Positive, PositiveFloat, Section, Share


class EvaluationSettings(Section):
    """How the actors are compared on test prompts."""

    prompts: Positive = Field(default=200, description="test prompts, at most")
    replies: Positive = Field(
        default=4,
        description="replies to a prompt, of the candidate and of the release in use each, that "
        "they are compared by; one where an LLM judges, which is paid by the reply",
    )
    judge: LlmRole = Field(
        default_factory=LlmRole,
        description="as llm.judge if empty; a provider's name alone will do",
    )
    temperature: PositiveFloat = Field(default=1.0, description="of the replies that are compared")
    known_answers: str | None = Field(
        default=None, description="a JSON file of questions whose answers should not get lost"
    )
    bootstrap_samples: Positive = Field(
        default=2000, description="resamplings behind the win rate's interval"
    )
    table_rows: Positive = Field(
        default=12, description="prompts whose replies the report shows side by side"
    )

    @field_validator("judge", mode="before")
    @classmethod
    def _provider_alone(cls, judge: Any) -> Any:
        if judge is None:
            return {}
        return {"provider": judge} if isinstance(judge, str) else judge


class ReleaseSettings(Section):
    """What is released, and what holds it back."""

    stage: Literal["actor_ppo", "actor_sft"] = Field(
        default="actor_ppo", description="whose weights are released"
    )
    by: Literal["gate", "person"] = Field(
        default="gate",
        description="who lets a model through: the gate alone, or a person after it "
        "(`chatllama approve`)",
    )
    judge: Literal["evaluation", "people"] = Field(
        default="evaluation",
        description="whose word lets a candidate take the place of a release: the evaluation's "
        "alone, or people's after it, in a blind trial (`chatllama compare`)",
    )
    min_win_rate: Share = Field(default=0.5, description="the win rate's lower bound must pass it")
    min_win_rate_over_release: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.4,
        description="the lower bound of the win rate over the release in use must pass it, and the "
        "win rate itself be one half or more; 0: they are not compared",
    )
    max_kl: PositiveFloat = Field(
        default=10.0,
        description="nats per reply from the SFT actor above which nothing is released "
        "(`checks.max_kl` only warns)",
    )
    max_length_ratio: Annotated[float, Field(gt=1)] = Field(
        default=2.0,
        description="length of replies over SFT's, or the other way round, beyond which nothing is "
        "released (`checks.max_length_ratio` only warns)",
    )
    gguf: tuple[Literal["f16", "q8_0", "q4_k_m"], ...] = Field(
        default=(),
        description="llama.cpp's files that the release holds too, each compared with it first; a "
        "base that can't be written so is refused before it is trained",
    )


class CheckSettings(Section):
    """The number behind each check."""

    min_reward_rows: Count = Field(
        default=100, description="scored replies without which no reward model is trained on scores"
    )
    few_rows: Count = Field(
        default=1000, description="rows of a table below which a warning is given"
    )
    max_identical_pairs: Share = Field(
        default=0.2, description="of the pairs read: same text as both replies; more block"
    )
    max_length_only_accuracy: Share = Field(
        default=0.65, description="how well length alone may tell the preferred reply"
    )
    max_near_duplicates: Share = Field(
        default=0.05, description="of the prompts: nearly the same as another"
    )
    max_alike_pairs: Share = Field(
        default=0.05, description="of the pairs: replies that hardly differ"
    )
    max_personal_data: Count = Field(
        default=0, description="places with personal data in all tables"
    )
    min_judge_agreement: Share = Field(
        default=0.6, description="of the scored pairs: the judge prefers what people chose"
    )
    max_judge_unread: Share = Field(
        default=0.05, description="of a judge's verdicts; where most can't be read, it blocks"
    )
    min_reward_accuracy: Share = Field(
        default=0.6, description="of the test pairs: the chosen reply scores higher"
    )
    max_known_answers_lost: Share = Field(
        default=0.1, description="of what the base answers: what the released stage doesn't"
    )
    max_cheat_wins: Share = Field(
        default=0.5, description="of held-out prompts: a cheat is paid more than the good reply"
    )
    min_gguf_agreement: Share = Field(
        default=0.9,
        description="of the next tokens that the full model finds likeliest, what a GGUF file does "
        "too; below it nothing is released or exported",
    )
    max_kl: PositiveFloat = Field(
        default=10.0,
        description="nats per reply from the SFT actor above which a warning is given "
        "(`release.max_kl` holds back)",
    )
    max_length_ratio: Annotated[float, Field(gt=1)] = Field(
        default=2.0,
        description="length of replies over SFT's, or the other way round, beyond which a warning "
        "is given (`release.max_length_ratio` holds back)",
    )
