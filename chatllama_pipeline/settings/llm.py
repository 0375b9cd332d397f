"""`llm`: who writes and who judges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chatllama_pipeline.settings.section import Count, Section

ProviderName = Literal["none", "rules"]


class LlmSettings(Section):
    """Who writes synthetic data and who scores."""

    provider: ProviderName = Field(
        default="none", description="rules is the embedded one and knows only the grammar"
    )
    synthetic_conversations: Count = 0
    synthetic_prompts: Count = 0
    synthetic_completions: Count = 0
    scored_pairs: Count = Field(
        default=0, description="preference pairs whose replies are scored too, to measure agreement"
    )
