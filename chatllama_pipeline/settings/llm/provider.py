"""`llm`: who writes and who judges, by which model, and what it may cost.

What is set at `llm` itself holds for all three roles: `llm.writer`, `llm.judge` and, outside of
this section, `evaluation.judge`. A role's own keys come first; `role.py` puts them together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from chatllama_pipeline.settings.section import Count, NonNegative, Positive, PositiveFloat, Section

ProviderName = Literal["none", "rules", "rubric", "openai", "transformers"]
Style = Literal["chat", "completion"]


class Price(Section):
    """US dollars per million tokens."""

    input: NonNegative = Field(description="of the prompt")
    output: NonNegative = Field(description="of the reply")


ModelPrice = Annotated[
    Price | Literal["free", "unknown"],
    Field(description="{input, output} in US dollars per million tokens, free, or unknown"),
]


class CallSettings(Section):
    """How a model is reached and sampled. Null: as the roles above say, else the default."""

    model: str | None = Field(
        default=None, description="name at the provider; for transformers a local folder or hub id"
    )
    base_url: str | None = Field(
        default=None,
        pattern="^https?://",
        description="an OpenAI-compatible server's URL, /v1 included; OpenAI's if null",
    )
    api_key_env: str | None = Field(
        default=None,
        pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the key; if null, OPENAI_API_KEY for "
        "OpenAI itself and no key for others",
    )
    style: Style | None = Field(
        default=None, description="chat, or completion for models without chat; chosen if null"
    )
    temperature: NonNegative | None = Field(
        default=None, description="0.1 for judges and 1.0 for writers if null"
    )
    max_tokens: Positive | None = Field(default=None, description="longest reply; 512 if null")
    timeout: PositiveFloat | None = Field(
        default=None, description="seconds for one call, the whole reply included; 120 if null"
    )
    concurrency: Positive | None = Field(default=None, description="calls at once; 16 if null")
    requests_per_minute: Positive | None = Field(
        default=None, description="calls sent in a minute, at most; no limit if null"
    )
    tokens_per_minute: Positive | None = Field(
        default=None,
        description="tokens of prompts and longest replies in a minute, at most; no limit if null",
    )
    price: ModelPrice | None = Field(default=None, description="of `model`; else llm.prices has it")
    batch: bool | None = Field(
        default=None, description="ask through OpenAI's Batch API: half the price, within a day"
    )
    omit: list[Literal["temperature", "max_tokens", "seed", "json_schema"]] | None = Field(
        default=None, description="what isn't sent, since the model or server refuses it"
    )
    extra_body: dict[str, Any] | None = Field(
        default=None, description="sent along as it is, such as reasoning_effort: low"
    )
    batch_size: Positive | None = Field(
        default=None, description="prompts at once in a local model; 8 if null"
    )


class LlmRole(CallSettings):
    """One role's own provider and settings."""

    provider: ProviderName | None = Field(default=None, description="as llm.provider if null")


class LlmSettings(CallSettings):
    """Who writes synthetic data and who scores."""

    provider: ProviderName = Field(
        default="none",
        description="rules is the embedded one and knows only the grammar; rubric judges by the "
        "section of that name; openai is any server that speaks its API; transformers is a local "
        "model",
    )
    writer: LlmRole = Field(
        default_factory=LlmRole,
        description="who writes synthetic data, where another than stands at llm",
    )
    judge: LlmRole = Field(
        default_factory=LlmRole, description="who scores replies, where another than stands at llm"
    )
    max_usd: NonNegative = Field(
        default=1.0, description="US dollars that making one asset may cost, restarts included"
    )
    prices: dict[str, ModelPrice] = Field(default={}, description="model: its price")
    synthetic_conversations: Count = Field(
        default=0, description="questions with good replies to write, for the actor to imitate"
    )
    synthetic_prompts: Count = Field(
        default=0, description="questions to write, for PPO to practise on"
    )
    synthetic_completions: Count = Field(
        default=0, description="replies of five qualities to write, for the judge to score"
    )
    scored_pairs: Count = Field(
        default=0, description="preference pairs whose replies are scored too, to measure agreement"
    )
    conversations_by: Literal["self_instruct", "question_answer", "personas"] = Field(
        default="self_instruct", description="how synthetic_conversations are written"
    )
    turns: Positive = Field(default=3, description="replies in a talk of personas")
    rows_per_call: Positive = Field(
        default=4, description="rows that a writer is asked for at once"
    )
    judge_samples: Positive = Field(
        default=1, description="times that a judge scores a reply; their mean is its score"
    )
    agreement_by: Literal["scores", "pairwise"] = Field(
        default="scores",
        description="how scored_pairs measure agreement: by two scores, which then train too, or "
        "by comparing the replies in both orders",
    )
