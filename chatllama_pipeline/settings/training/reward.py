"""`reward_config`: the model that scores."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.section import SCRATCH, NonNegative, Paths, Positive
from chatllama_pipeline.settings.training.base_model import BaseModelSettings
from chatllama_pipeline.settings.training.trained import OwnModelSection


class RewardSettings(BaseModelSettings, OwnModelSection):
    """`reward_config`: the model that scores; its training stage."""

    model: str = Field(
        default="facebook/opt-125m", description="hub id, local folder, GGUF file, or scratch"
    )
    train: bool = Field(default=True, description="false takes a pre-trained reward model as it is")
    train_dataset_path: Paths = Field(
        default="datasets/reward_training_data.json",
        description="own scored replies or pairs: a file, folder, glob, or a list of them; as it "
        "stands here, any ending is found",
    )
    objective: Literal["both", "pairwise", "scores"] = Field(
        default="both", description="learn from preference pairs, from 0..5 scores, or from both"
    )
    margin: Literal["strength", "none"] = Field(
        default="strength",
        description="replies of a pair should lie apart by the logarithm of its strength, or by 0",
    )
    max_sequence_length: Positive = Field(default=2048, description="prompt and reply, in tokens")
    batch_size: Positive = Field(default=8, description="pairs (or scored replies) per step")
    centering: NonNegative = Field(default=0.01, description="weight of (chosen + rejected)^2")

    @model_validator(mode="after")
    def _random_weights_must_learn(self) -> Self:
        if self.model == SCRATCH and not self.train:
            raise ValueError(
                "train: false takes a reward model as it is, and model: scratch is one of random "
                "weights: set train: true, or name a reward model"
            )
        return self
