"""`actor_config`: the model that talks."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.efficiency import PRECISION, Precision, SupervisedEfficiency
from chatllama_pipeline.settings.lora import PEFT_CONFIG_FILE, LoraSettings
from chatllama_pipeline.settings.section import (
    SCRATCH,
    NonNegative,
    Paths,
    Positive,
    PositiveFloat,
    Rate,
    ScratchFamily,
    Share,
)
from chatllama_pipeline.settings.training import SupervisedSection


class ActorSettings(SupervisedSection, SupervisedEfficiency):
    """`actor_config`: the model that talks; its SFT stage."""

    model: str = Field(default="facebook/opt-1.3b", description="hub id, local folder, or scratch")
    tokenizer_path: str | None = None
    trust_remote_code: bool = Field(
        default=False, description="run the Python code that comes with this model"
    )
    scratch_family: ScratchFamily = Field(
        default="llama", description="architecture of a model made from nothing"
    )
    scratch_hidden_size: Positive = 128
    scratch_layers: Positive = 2
    scratch_heads: Positive = 4
    scratch_vocabulary: Annotated[int, Field(ge=300)] = 1024
    train_dataset_path: Paths = "datasets/actor_training_data.json"
    froze_embeddings: bool = False
    max_sequence_length: Positive = Field(default=2048, description="prompt and reply, in tokens")
    max_tokens: Positive = Field(default=256, description="longest reply, in tokens")
    temperature: NonNegative = Field(
        default=0.7, description="of the released assistant when it chats"
    )
    batch_size: Positive = 8
    micro_batch_size: Positive | None = Field(
        default=None, description="rows per forward; costs only memory"
    )
    packing: bool = Field(
        default=False,
        description="a micro-batch's conversations behind one another, unseen by each other",
    )
    lr: Rate = 9e-6
    warmup_ratio: Share = 0.03
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = 1.0
    epochs: Positive = 1
    max_steps: Positive | None = Field(
        default=None, description="optimizer steps; wins over epochs"
    )
    evaluations: Positive = Field(default=8, description="validation passes over the training")
    precision: Precision = PRECISION
    peft_enable: bool = Field(default=False, description="train a LoRA adapter, not every weight")
    peft_config_path: str = Field(default=PEFT_CONFIG_FILE, description="fills lora")
    lora: LoraSettings = LoraSettings()
    checkpoint_steps: Positive = Field(
        default=200, description="steps between saves of the resume state"
    )

    @model_validator(mode="after")
    def _random_embeddings_must_learn(self) -> Self:
        if self.froze_embeddings and self.model == SCRATCH:
            raise ValueError(
                "froze_embeddings: true with model: scratch would freeze random embeddings; "
                "set froze_embeddings: false"
            )
        return self
