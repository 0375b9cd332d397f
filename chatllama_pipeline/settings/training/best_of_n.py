"""`best_of_n_config`: imitation of the best sampled replies, where `improve_by` is best_of_n."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chatllama_pipeline.settings.section import Positive, PositiveFloat, Rate
from chatllama_pipeline.settings.training.trained import SupervisedSection


class BestOfNSettings(SupervisedSection):
    """`best_of_n_config`: the actor imitates the best of its own replies, where `improve_by` is
    best_of_n.

    Lengths are those of `actor_config`, and so is the adapter's `lora`; what is best `rewards` say.
    """

    replies_per_prompt: Annotated[int, Field(ge=2)] = Field(
        default=8, description="replies sampled to each prompt, of which the best is imitated: n"
    )
    prompts: Positive | None = Field(
        default=None, description="most training prompts that are answered; all if null"
    )
    temperature: PositiveFloat = Field(default=1.0, description="of the sampled replies")
    rollout_batch_size: Positive = Field(default=64, description="replies sampled at once")
    batch_size: Positive = Field(default=8, description="best replies per step")
    lr: Rate = Field(default=9e-6, description="highest learning rate of AdamW")
    peft_enable: bool | None = Field(
        default=None, description="it trains an adapter of the actor; as actor_config if null"
    )
