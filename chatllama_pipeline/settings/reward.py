"""`reward_config`: the model that scores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chatllama_pipeline.settings.efficiency import PRECISION, Precision, SupervisedEfficiency
from chatllama_pipeline.settings.lora import PEFT_CONFIG_FILE, LoraSettings
from chatllama_pipeline.settings.section import (
    NonNegative,
    Paths,
    Positive,
    PositiveFloat,
    Rate,
    ScratchFamily,
    Share,
)
from chatllama_pipeline.settings.training import SupervisedSection


class RewardSettings(SupervisedSection, SupervisedEfficiency):
    """`reward_config`: the model that scores; its training stage."""

    model: str = Field(default="facebook/opt-125m", description="hub id, local folder, or scratch")
    tokenizer_path: str | None = None
    trust_remote_code: bool = Field(
        default=False, description="run the Python code that comes with this model"
    )
    train: bool = Field(default=True, description="false takes a pre-trained reward model as it is")
    scratch_family: ScratchFamily = Field(
        default="llama", description="architecture of a model made from nothing"
    )
    scratch_hidden_size: Positive = 128
    scratch_layers: Positive = 2
    scratch_heads: Positive = 4
    scratch_vocabulary: Annotated[int, Field(ge=300)] = 1024
    train_dataset_path: Paths = "datasets/reward_training_data.json"
    objective: Literal["both", "pairwise", "scores"] = Field(
        default="both", description="learn from preference pairs, from 0..5 scores, or from both"
    )
    margin: Literal["strength", "none"] = Field(
        default="strength",
        description="replies of a pair should lie apart by the logarithm of its strength, or by 0",
    )
    max_sequence_length: Positive = 2048
    batch_size: Positive = Field(default=8, description="pairs (or scored replies) per step")
    micro_batch_size: Positive | None = None
    lr: Rate = 9e-6
    warmup_ratio: Share = 0.03
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = 1.0
    centering: NonNegative = Field(default=0.01, description="weight of (chosen + rejected)^2")
    epochs: Positive = 1
    max_steps: Positive | None = None
    evaluations: Positive = 8
    precision: Precision = PRECISION
    peft_enable: bool = Field(default=False, description="train a LoRA adapter, not every weight")
    peft_config_path: str = Field(default=PEFT_CONFIG_FILE, description="fills lora")
    lora: LoraSettings = LoraSettings()
    checkpoint_steps: Positive = 200
