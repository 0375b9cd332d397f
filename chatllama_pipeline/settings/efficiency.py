"""Settings that make a training smaller or faster."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from chatllama_pipeline.settings.section import Section

Precision = Literal["auto", "float32", "bfloat16"]
PRECISION: Any = Field(
    default="auto",
    description="of matrix products, over float32 weights; auto: bfloat16 on a GPU that has it",
)


class EfficiencySettings(Section):
    """Memory and speed of every training."""

    activation_checkpointing: bool | None = Field(
        default=None,
        description="compute activations again in the backward pass; null: where memory is short",
    )
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        default=None, description="null: the best that transformers finds for the model"
    )


class SupervisedEfficiency(EfficiencySettings):
    """Of SFT and reward training alone."""

    length_bucketing: bool = Field(
        default=False, description="batches of like length: less padding, another order"
    )
    compile: bool = Field(default=False, description="torch.compile; worth it in long trainings")
