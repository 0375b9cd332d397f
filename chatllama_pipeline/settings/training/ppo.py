"""`trainer_config` and `critic_config`: PPO."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.section import (
    Count,
    NonNegative,
    Paths,
    Positive,
    PositiveFloat,
    Rate,
    Section,
    Share,
)
from chatllama_pipeline.settings.training.lora import PEFT_CONFIG_FILE, LoraSettings
from chatllama_pipeline.settings.training.trained import TrainedSection


class PpoSettings(TrainedSection):
    """`trainer_config`: the reinforcement-learning stage.

    Prompts per iteration are `num_examples * update_timesteps`, each of which is replied to
    `replies_per_prompt` times; iterations are `num_episodes * max_timesteps / update_timesteps`,
    as in the original.
    """

    actor_lr: Rate = Field(default=3e-6, description="the actor's learning rate")
    critic_lr: Rate = Field(default=1e-5, description="the critic's learning rate")
    actor_eps_clip: Rate = Field(
        default=0.2,
        description="how far a token's probability may move from the rollout's before its gain is "
        "cut: ratio 1 - this to 1 + this",
    )
    critic_eps_clip: Rate = Field(
        default=0.2,
        description="how far a value may move from the rollout's before its loss is cut",
    )
    beta_s: NonNegative = Field(default=0.0, description="entropy coefficient")
    gamma_discounted: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="discount of rewards, token by token"
    )
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.95, description="lambda of generalised advantage estimation"
    )
    kl_beta: NonNegative = Field(
        default=0.05, description="price of a nat of divergence from the SFT actor"
    )
    kl_target: PositiveFloat | None = Field(
        default=None, description="nats per reply; set it to adapt kl_beta towards it"
    )
    kl_horizon: Positive = Field(
        default=10_000,
        description="replies in which kl_beta moves by a fifth at most, towards kl_target",
    )
    update_kl_limit: PositiveFloat = Field(
        default=0.02, description="nats per token that end an epoch early"
    )
    value_coefficient: NonNegative = Field(
        default=0.1, description="weight of the critic's loss beside the actor's"
    )
    score_clip: PositiveFloat = Field(
        default=10.0, description="rewards of replies are cut to minus this and this"
    )
    missing_eos_penalty: NonNegative = Field(
        default=1.0, description="taken off the reward of a reply that doesn't end"
    )
    temperature: PositiveFloat = Field(default=1.0, description="of rollouts and updates alike")
    examples_path: Paths = Field(
        default="datasets/rlhf_training_data.json",
        description="own prompts: a file, folder, glob, or a list of them; as it stands here, any "
        "ending is found",
    )
    num_episodes: Positive = Field(
        default=100, description="with max_timesteps, how long PPO lasts"
    )
    max_timesteps: Positive = Field(default=32, description="timesteps of an episode")
    update_timesteps: Positive = Field(default=32, description="timesteps between updates")
    num_examples: Positive = Field(default=1, description="prompts of a timestep")
    replies_per_prompt: Positive = Field(
        default=1,
        description="replies to each prompt of an iteration; `rloo` and `grpo`, which compare "
        "them with each other, take 4 where nothing is set",
    )
    batch_size: Positive | None = Field(
        default=None, description="rollouts per minibatch; the whole iteration if null"
    )
    rollout_batch_size: Positive | None = Field(
        default=None, description="replies sampled at once; all of an iteration if null"
    )
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
    watch_every: Count | None = Field(
        default=None,
        description="iterations between looks of the gate's judge at replies to held-out prompts; "
        "null: a tenth of all, or as many as write twice a look's replies; none for a local model "
        "as judge; 0: it never looks",
    )
    watch_prompts: Positive = Field(default=64, description="held-out prompts of a look, at most")
    watch_falls: Positive | None = Field(
        default=2,
        description="looks in a row at which the judge has fallen while the reward rose, that end "
        "the training; null: none do",
    )
    checkpoint_steps: Positive = Field(
        default=160, description="timesteps between saves of the resume state"
    )

    @model_validator(mode="after")
    def _minibatches_must_fill_an_iteration(self) -> Self:
        if self.rollouts_per_iteration % self.minibatch_size:
            raise ValueError(
                f"{self.rollouts_in_words} is not a multiple of batch_size {self.minibatch_size}"
            )
        return self

    @property
    def prompts_per_iteration(self) -> int:
        return self.num_examples * self.update_timesteps

    @property
    def rollouts_per_iteration(self) -> int:
        return self.prompts_per_iteration * self.replies_per_prompt

    @property
    def rollouts_in_words(self) -> str:
        """How the rollouts of an iteration come about, for an error about their number."""
        factors = "num_examples * update_timesteps"
        if self.replies_per_prompt > 1:
            factors += " * replies_per_prompt"
        return f"{factors} = {self.rollouts_per_iteration}"

    @property
    def iterations(self) -> int:
        return max(1, self.num_episodes * self.max_timesteps // self.update_timesteps)

    @property
    def minibatch_size(self) -> int:
        return self.batch_size or self.rollouts_per_iteration


class CriticSettings(Section):
    """`critic_config`: where PPO's values come from; all else follows from the other models."""

    trunk: Literal["own", "shared"] = Field(
        default="own",
        description="own: the critic is a model of its own; shared: a value head on the actor's "
        "hidden states, which costs no second model",
    )
    peft_enable: bool | None = Field(
        default=None, description="the critic trains an adapter; as PPO's actor if null"
    )
    peft_config_path: str = Field(default=PEFT_CONFIG_FILE, description="fills lora")
    lora: LoraSettings = Field(
        default_factory=LoraSettings,
        description="of a critic that continues no adapter of reward model or SFT",
    )

    @model_validator(mode="after")
    def _a_head_has_no_adapter(self) -> Self:
        if self.trunk == "shared" and self.peft_enable:
            raise ValueError(
                "trunk: shared makes the critic a head on the actor, and peft_enable: true gives "
                "it an adapter of its own; take peft_enable out (the actor's stands in "
                "trainer_config.peft_enable), or set trunk: own"
            )
        return self
