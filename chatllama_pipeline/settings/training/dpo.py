"""`dpo_config`: direct preference optimisation, where `improve_by` is dpo."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chatllama_pipeline.settings.section import NonNegative, Positive, PositiveFloat, Rate, Share
from chatllama_pipeline.settings.training.trained import SupervisedSection


class DpoSettings(SupervisedSection):
    """`dpo_config`: the actor learns from preference pairs alone, where `improve_by` is dpo.

    Lengths are those of `actor_config`, and so is the adapter's `lora`.
    """

    beta: PositiveFloat = Field(
        default=0.1, description="how dear it is to leave the SFT actor: the paper's beta"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="share of the pairs that are taken to be labelled the wrong way"
    )
    rpo_alpha: NonNegative = Field(
        default=1.0,
        description="weight of what SFT would lose by the chosen reply, in nats a token, beside "
        "DPO's loss: keeps chosen replies likely, and replies ended; 0: DPO alone",
    )
    batch_size: Positive = Field(default=8, description="pairs per step")
    lr: Rate = Field(default=1e-6, description="highest learning rate of AdamW")
    warmup_ratio: Share = Field(
        default=0.1, description="share of the steps in which the learning rate rises to lr"
    )
    peft_enable: bool | None = Field(
        default=None, description="DPO trains an adapter of the actor; as actor_config if null"
    )
