"""What the trained sections share: resume states, guards, DeepSpeed."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.section import Positive, Section


class TrainedSection(Section):
    """Settings of every training's resume state."""

    checkpoint_seconds: Positive = Field(
        default=600,
        description="seconds between saves of the resume state, beside checkpoint_steps",
    )
    n_checkpoints_to_keep: Positive = Field(
        default=2, description="resume states kept of an unfinished training"
    )


class SupervisedSection(TrainedSection):
    """Settings that SFT and reward training share; PPO takes DeepSpeed's from `actor_config`."""

    early_stopping: Positive | None = Field(
        default=None, description="validation passes without a better figure that end the training"
    )
    keep_weights: Literal["last", "best"] = Field(
        default="last", description="best: those of the best validation pass"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=0,
        description="DeepSpeed shards optimizer (1), gradients too (2), weights too (3); 0 is off",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="to the CPU's memory; all: optimizer and weights, at stage 3"
    )
    deepspeed_enable: bool = Field(default=False, description="train by ds_config.json")
    deepspeed_config_path: str = "ds_config.json"

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
