"""`trainer_config` and `critic_config`: PPO."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.section import (
    NonNegative,
    Paths,
    Positive,
    PositiveFloat,
    Rate,
    Section,
    Share,
)
from chatllama_pipeline.settings.training.common import TrainedSection
from chatllama_pipeline.settings.training.lora import PEFT_CONFIG_FILE, LoraSettings


class PpoSettings(TrainedSection):
    """`trainer_config`: the reinforcement-learning stage.

    Prompts per iteration are `num_examples * update_timesteps`; iterations are
    `num_episodes * max_timesteps / update_timesteps`, as in the original.
    """

    actor_lr: Rate = 3e-6
    critic_lr: Rate = 1e-5
    actor_eps_clip: Rate = 0.2
    critic_eps_clip: Rate = 0.2
    beta_s: NonNegative = Field(default=0.0, description="entropy coefficient")
    gamma_discounted: Annotated[float, Field(gt=0, le=1)] = 1.0
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    kl_beta: NonNegative = Field(
        default=0.05, description="price of a nat of divergence from the SFT actor"
    )
    kl_target: PositiveFloat | None = Field(
        default=None, description="nats per reply; set it to adapt kl_beta towards it"
    )
    kl_horizon: Positive = 10_000
    update_kl_limit: PositiveFloat = Field(
        default=0.02, description="nats per token that end an epoch early"
    )
    value_coefficient: NonNegative = 0.1
    score_clip: PositiveFloat = 10.0
    missing_eos_penalty: NonNegative = 1.0
    temperature: PositiveFloat = Field(default=1.0, description="of rollouts and updates alike")
    examples_path: Paths = "datasets/rlhf_training_data.json"
    num_episodes: Positive = 100
    max_timesteps: Positive = 32
    update_timesteps: Positive = 32
    num_examples: Positive = 1
    batch_size: Positive | None = Field(
        default=None, description="rollouts per minibatch; the whole iteration if null"
    )
    rollout_batch_size: Positive | None = None
    epochs: Positive = Field(default=1, description="passes over each iteration's rollouts")
    peft_enable: bool | None = Field(
        default=None, description="PPO trains an adapter of the actor; as actor_config if null"
    )
    collapse: Literal["warn", "stop", "ignore"] = Field(
        default="warn", description="where replies become repetitions, or shrink, or never end"
    )
    collapse_share: Share = Field(
        default=0.3, description="of the first iterations' variety or length, below which they have"
    )
    checkpoint_steps: Positive = Field(
        default=160, description="timesteps between saves of the resume state"
    )

    @model_validator(mode="after")
    def _minibatches_must_fill_an_iteration(self) -> Self:
        if self.prompts_per_iteration % self.minibatch_size:
            raise ValueError(
                f"num_examples * update_timesteps = {self.prompts_per_iteration} is not a multiple "
                f"of batch_size {self.minibatch_size}"
            )
        return self

    @property
    def prompts_per_iteration(self) -> int:
        return self.num_examples * self.update_timesteps

    @property
    def iterations(self) -> int:
        return max(1, self.num_episodes * self.max_timesteps // self.update_timesteps)

    @property
    def minibatch_size(self) -> int:
        return self.batch_size or self.prompts_per_iteration


class CriticSettings(Section):
    """`critic_config`: the critic follows from the other models; its adapter alone is set."""

    peft_enable: bool | None = Field(
        default=None, description="the critic trains an adapter; as PPO's actor if null"
    )
    peft_config_path: str = Field(default=PEFT_CONFIG_FILE, description="fills lora")
    lora: LoraSettings = Field(
        default=LoraSettings(),
        description="of a critic that continues no adapter of reward model or SFT",
    )
