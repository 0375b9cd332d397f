"""What the trained sections share: memory and speed, resume states, guards, DeepSpeed."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.section import (
    NonNegative,
    Positive,
    PositiveFloat,
    Rate,
    Section,
    Share,
)
from chatllama_pipeline.settings.training.lora import PEFT_CONFIG_FILE, LoraSettings

# Which section of config.yaml a training goes by: see `AssistantSettings.trained_as`.
SECTION_OF = {
    "reward_model": "reward_config",
    "actor_sft": "actor_config",
    "actor_ppo": "trainer_config",
    "actor_dpo": "dpo_config",
    "actor_kto": "kto_config",
    "actor_best_of_n": "best_of_n_config",
}


def model_section(training: str) -> str:
    """The section that names the model of a training, its longest row, and how it is sharded."""
    return "reward_config" if training == "reward_model" else "actor_config"


class TrainedSection(Section):
    """What holds of every training."""

    micro_batch_size: Positive | None = Field(
        default=None, description="rows per forward, their gradients added up: costs only memory"
    )
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="longer gradients are cut to this norm"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of matrix products, over float32 weights; auto: bfloat16 on a GPU that has it",
    )
    activation_checkpointing: bool | None = Field(
        default=None,
        description="compute activations again in the backward pass; null: where memory is short",
    )
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        default=None, description="null: the best that transformers finds for the model"
    )
    checkpoint_seconds: Positive = Field(
        default=600,
        description="seconds between saves of the resume state, beside checkpoint_steps",
    )
    n_checkpoints_to_keep: Positive = Field(
        default=2, description="resume states kept of an unfinished training"
    )

    @property
    def minibatch_size(self) -> int:
        """Rows of an optimizer step, over all processes."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _micro_batches_must_fill_a_minibatch(self) -> Self:
        micro = self.micro_batch_size
        if micro is not None and self.minibatch_size % micro:
            raise ValueError(
                f"batch_size {self.minibatch_size} is not a multiple of micro_batch_size {micro}: "
                "choose a micro_batch_size that divides it"
            )
        return self

    def rows_per_forward(self, processes: int) -> int:
        """Rows that each of `processes` reads at once."""
        share = max(1, self.minibatch_size // processes)
        return min(self.micro_batch_size or share, share)


class SupervisedSection(TrainedSection):
    """Settings that SFT, reward training and the methods of `SUPERVISED` share."""

    batch_size: Positive = Field(default=8, description="rows per step")
    lr: Rate = Field(default=9e-6, description="highest learning rate of AdamW")
    warmup_ratio: Share = Field(
        default=0.03, description="share of the steps in which the learning rate rises to lr"
    )
    weight_decay: NonNegative = Field(default=0.0, description="AdamW's weight decay")
    epochs: Positive = Field(default=1, description="passes over the training rows")
    max_steps: Positive | None = Field(
        default=None,
        description="optimizer steps, what ratings add on top; wins over epochs",
    )
    evaluations: Positive = Field(default=8, description="validation passes over the training")
    checkpoint_steps: Positive = Field(
        default=200, description="steps between saves of the resume state"
    )
    length_bucketing: bool = Field(
        default=False, description="batches of like length: less padding, another order"
    )
    compile: bool = Field(default=False, description="torch.compile; worth it in long trainings")
    early_stopping: Positive | None = Field(
        default=None, description="validation passes without a better figure that end the training"
    )
    keep_weights: Literal["last", "best"] = Field(
        default="last", description="best: those of the best validation pass"
    )

    @property
    def minibatch_size(self) -> int:
        return self.batch_size


class OwnModelSection(SupervisedSection):
    """Settings of a training that brings a model of its own.

    Whatever improves the actor trains that one's, and takes DeepSpeed's from `actor_config`.
    """

    peft_enable: bool = Field(default=False, description="train a LoRA adapter, not every weight")
    peft_config_path: str = Field(default=PEFT_CONFIG_FILE, description="fills lora")
    lora: LoraSettings = Field(
        default_factory=LoraSettings, description="the adapter that peft_enable trains"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=0,
        description="DeepSpeed shards optimizer (1), gradients too (2), weights too (3); 0 is off",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="to the CPU's memory; all: optimizer and weights, at stage 3"
    )
    deepspeed_enable: bool = Field(default=False, description="train by ds_config.json")
    deepspeed_config_path: str = Field(
        default="ds_config.json", description="DeepSpeed's file, where deepspeed_enable is true"
    )

    @model_validator(mode="after")
    def _one_word_on_sharding(self) -> Self:
        if self.deepspeed_enable and (self.zero_stage or self.offload != "none"):
            raise ValueError(
                f"deepspeed_enable: true takes stage and offload from deepspeed_config_path "
                f"({self.deepspeed_config_path}), and zero_stage {self.zero_stage} with offload "
                f"{self.offload} says it once more; keep one of the two"
            )
        needed = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if not self.deepspeed_enable and self.zero_stage < needed:
            raise ValueError(
                f"offload: {self.offload} needs zero_stage {needed} or more, it is "
                f"{self.zero_stage}; raise zero_stage, or set offload: none"
            )
        return self
