"""`kto_config`: Kahneman-Tversky optimisation, where `improve_by` is kto."""

from __future__ import annotations

from pydantic import Field

from chatllama_pipeline.settings.section import Positive, PositiveFloat, Rate, Share
from chatllama_pipeline.settings.training.trained import SupervisedSection


class KtoSettings(SupervisedSection):
    """`kto_config`: the actor learns from thumbs alone, where `improve_by` is kto.

    Lengths are those of `actor_config`, and so is the adapter's `lora`.
    """

    beta: PositiveFloat = Field(
        default=0.1, description="how dear it is to leave the SFT actor: the paper's beta"
    )
    desirable_weight: PositiveFloat | None = Field(
        default=None,
        description="what a thumb up counts, the paper's lambda_D; null: so much that all thumbs "
        "up count as much as all thumbs down",
    )
    undesirable_weight: PositiveFloat | None = Field(
        default=None,
        description="what a thumb down counts, the paper's lambda_U; null: likewise",
    )
    batch_size: Positive = Field(
        default=16, description="thumbs per step; the KL from the SFT actor is estimated over them"
    )
    lr: Rate = Field(default=1e-6, description="highest learning rate of AdamW")
    warmup_ratio: Share = Field(
        default=0.1, description="share of the steps in which the learning rate rises to lr"
    )
    peft_enable: bool | None = Field(
        default=None, description="KTO trains an adapter of the actor; as actor_config if null"
    )

    def weights(self, up: int, down: int) -> tuple[float, float]:
        """What a thumb up and one down count, of so many of each (at least 1).

        What is left open makes both kinds count alike; where both are, the rarer kind counts more.
        """
        desirable, undesirable = self.desirable_weight, self.undesirable_weight
        if desirable is None:
            desirable = max(1.0, down / up) if undesirable is None else undesirable * down / up
        if undesirable is None:
            undesirable = desirable * up / down
        return desirable, undesirable
