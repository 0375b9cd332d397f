"""Settings: flat, frozen, validated; one class per section of an assistant's `config.yaml`.

The four sections of the original ChatLLaMA keep their names and keys; those of its keys that no
longer do what their name said stand in `original.py`. Which settings an asset is made from stands
in `recipes.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

SCRATCH = "scratch"

SourceName = Literal["shp", "hh_rlhf", "grammar"]
# The original's names.
SOURCE_ALIASES = {"SHP": "shp", "ARLHF": "hh_rlhf"}
ProviderName = Literal["none", "rules"]


class Section(BaseModel):
    """A section of `config.yaml`: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataSettings(Section):
    """Which rows an assistant draws on, and how they are split."""

    sources: list[SourceName] = Field(default=[], description="public sources to draw pairs from")
    number_of_samples: Positive | None = Field(
        default=None, description="pairs per source, at most"
    )
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="share of pairs whose label is flipped (an experiment's control)"
    )
    actor_replies: Literal["chosen", "both"] = Field(
        default="chosen", description="which replies of a pair the actor imitates"
    )
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05

    @field_validator("sources", mode="before")
    @classmethod
    def _original_names(cls, names: Any) -> Any:
        if not isinstance(names, list):
            return names
        return sorted({SOURCE_ALIASES.get(name, name) for name in names if isinstance(name, str)})


class LlmSettings(Section):
    """Who writes synthetic data and who scores."""

    provider: ProviderName = Field(
        default="none", description="rules is the embedded one and knows only the grammar"
    )
    synthetic_conversations: Count = 0
    synthetic_prompts: Count = 0
    synthetic_completions: Count = 0
    scored_pairs: Count = Field(
        default=0, description="preference pairs whose replies are scored too, to measure agreement"
    )


class ActorSettings(Section):
    """`actor_config`: the model that talks; its SFT stage."""

    model: str = Field(default="facebook/opt-1.3b", description="hub id, local folder, or scratch")
    tokenizer_path: str | None = None
    scratch_hidden_size: Positive = 128
    scratch_layers: Positive = 2
    scratch_heads: Positive = 4
    scratch_vocabulary: Annotated[int, Field(ge=300)] = 1024
    train_dataset_path: str = "datasets/actor_training_data.json"
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
    lr: Rate = 9e-6
    warmup_ratio: Share = 0.03
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = 1.0
    epochs: Positive = 1
    max_steps: Positive | None = Field(
        default=None, description="optimizer steps; wins over epochs"
    )
    evaluations: Positive = Field(default=8, description="validation passes over the training")
    precision: Literal["float32", "bfloat16"] = "float32"
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


class RewardSettings(Section):
    """`reward_config`: the model that scores; its training stage."""

    model: str = Field(default="facebook/opt-125m", description="hub id, local folder, or scratch")
    tokenizer_path: str | None = None
    scratch_hidden_size: Positive = 128
    scratch_layers: Positive = 2
    scratch_heads: Positive = 4
    scratch_vocabulary: Annotated[int, Field(ge=300)] = 1024
    train_dataset_path: str = "datasets/reward_training_data.json"
    objective: Literal["both", "pairwise", "scores"] = Field(
        default="both", description="learn from preference pairs, from 0..5 scores, or from both"
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
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_steps: Positive = 200


class PpoSettings(Section):
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
    max_grad_norm: PositiveFloat = 1.0
    temperature: PositiveFloat = Field(default=1.0, description="of rollouts and updates alike")
    examples_path: str = "datasets/rlhf_training_data.json"
    num_episodes: Positive = 100
    max_timesteps: Positive = 32
    update_timesteps: Positive = 32
    num_examples: Positive = 1
    batch_size: Positive | None = Field(
        default=None, description="rollouts per minibatch; the whole iteration if null"
    )
    micro_batch_size: Positive | None = None
    rollout_batch_size: Positive | None = None
    epochs: Positive = Field(default=1, description="passes over each iteration's rollouts")
    precision: Literal["float32", "bfloat16"] = "float32"
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
    """`critic_config`: the critic follows from the other models; nothing is left to set."""


class EvaluationSettings(Section):
    """How the actors are compared on test prompts."""

    prompts: Positive = Field(default=200, description="test prompts, at most")
    judge: ProviderName | None = Field(default=None, description="the llm provider if null")
    temperature: PositiveFloat = 1.0
    bootstrap_samples: Positive = 2000
    table_rows: Positive = 12


class ReleaseSettings(Section):
    """What is released, and what holds it back."""

    stage: Literal["actor_ppo", "actor_sft"] = "actor_ppo"
    min_win_rate: Share = Field(default=0.5, description="the win rate's lower bound must pass it")
    max_kl: PositiveFloat = Field(default=10.0, description="nats per reply")
    max_length_ratio: Annotated[float, Field(gt=1)] = 2.0


class RetrainSettings(Section):
    """When an assistant is made again; the schedule starts stopped."""

    cron: Annotated[str, Field(pattern=r"^(\S+\s+){4}\S+$")] = Field(
        default="0 3 * * 1", description="minute, hour, day of month, month, day of week"
    )
    timezone: str = "UTC"


class StoreSettings(Section):
    """Which versions stay, and which are used."""

    keep_versions: Positive | None = Field(
        default=None,
        description="newest versions kept per asset, beside those that are in use",
    )
    pins: dict[str, str] = Field(
        default={}, description="asset: version to use instead of the current one"
    )


class CheckSettings(Section):
    """The number behind each check."""

    min_reward_rows: Count = 100
    few_rows: Count = 1000
    max_identical_pairs: Share = 0.2
    max_length_only_accuracy: Share = 0.65
    min_judge_agreement: Share = 0.6
    min_reward_accuracy: Share = 0.6
    max_kl: PositiveFloat = 10.0
    max_length_ratio: Annotated[float, Field(gt=1)] = 2.0


class AssistantSettings(Section):
    """All of one assistant's `config.yaml`."""

    seed: Count = 0
    data: DataSettings = DataSettings()
    llm: LlmSettings = LlmSettings()
    actor_config: ActorSettings = ActorSettings()
    reward_config: RewardSettings = RewardSettings()
    critic_config: CriticSettings = CriticSettings()
    trainer_config: PpoSettings = PpoSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    release: ReleaseSettings = ReleaseSettings()
    retrain: RetrainSettings = RetrainSettings()
    store: StoreSettings = StoreSettings()
    checks: CheckSettings = CheckSettings()

    @model_validator(mode="after")
    def _rules_know_only_the_grammar(self) -> Self:
        others = [name for name in self.data.sources if name != "grammar"]
        for key, who in (("llm.provider", self.llm.provider), ("evaluation.judge", self.judge)):
            if who == "rules" and others:
                raise ValueError(
                    f"{key}: rules knows only the grammar, and data.sources names "
                    f"{', '.join(others)}; set {key}: none"
                )
        return self

    @property
    def judge(self) -> str:
        """Who judges in evaluation: its own setting, else the provider."""
        return self.evaluation.judge or self.llm.provider

    def at(self, dotted: str) -> Any:
        """The plain value at a dotted key."""
        value: Any = self.model_dump(mode="json")
        for part in dotted.split("."):
            value = value[part]
        return value
