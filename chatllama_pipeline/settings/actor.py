"""`actor_config`: the model that talks."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.base_model import BaseModelSettings
from chatllama_pipeline.settings.section import (
    SCRATCH,
    NonNegative,
    Paths,
    Positive,
)
from chatllama_pipeline.settings.training import SupervisedSection


class ActorSettings(BaseModelSettings, SupervisedSection):
    """`actor_config`: the model that talks; its SFT stage."""

    model: str = Field(
        default="facebook/opt-1.3b", description="hub id, local folder, GGUF file, or scratch"
    )
    train_dataset_path: Paths = "datasets/actor_training_data.json"
    froze_embeddings: bool = False
    max_sequence_length: Positive = Field(default=2048, description="prompt and reply, in tokens")
    max_tokens: Positive = Field(default=256, description="longest reply, in tokens")
    temperature: NonNegative = Field(
        default=0.7, description="of the released assistant when it chats"
    )
    packing: bool = Field(
        default=False,
        description="a micro-batch's conversations behind one another, unseen by each other",
    )

    @model_validator(mode="after")
    def _random_embeddings_must_learn(self) -> Self:
        if self.froze_embeddings and self.model == SCRATCH:
            raise ValueError(
                "froze_embeddings: true with model: scratch would freeze random embeddings; "
                "set froze_embeddings: false"
            )
        return self
