"""All of one assistant's `config.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.data import DataSettings, FeedbackSettings
from chatllama_pipeline.settings.evaluation import (
    CheckSettings,
    EvaluationSettings,
    ReleaseSettings,
)
from chatllama_pipeline.settings.limited import limited_to
from chatllama_pipeline.settings.llm.provider import LlmSettings
from chatllama_pipeline.settings.llm.role import RoleName, RoleSettings, resolve
from chatllama_pipeline.settings.llm.rubric import Criterion
from chatllama_pipeline.settings.retrain import RetrainSettings
from chatllama_pipeline.settings.section import Count, Positive, Section
from chatllama_pipeline.settings.training.actor import ActorSettings
from chatllama_pipeline.settings.training.best_of_n import BestOfNSettings
from chatllama_pipeline.settings.training.dpo import DpoSettings
from chatllama_pipeline.settings.training.kto import KtoSettings
from chatllama_pipeline.settings.training.methods import (
    GROUPED,
    SUPERVISED,
    MethodName,
    with_usual_replies,
)
from chatllama_pipeline.settings.training.ppo import CriticSettings, PpoSettings
from chatllama_pipeline.settings.training.reward import RewardSettings
from chatllama_pipeline.settings.training.rewards import JUDGE, RewardsSettings
from chatllama_pipeline.settings.training.tracking import TrackingSettings
from chatllama_pipeline.settings.training.trained import SECTION_OF, TrainedSection

if TYPE_CHECKING:
    from chatllama_pipeline.records import StageSpec

ROLES: tuple[RoleName, ...] = ("writer", "judge", "evaluation_judge")


class StoreSettings(Section):
    """Which versions stay, and which are used."""

    keep_versions: Positive | None = Field(
        default=10,
        description="newest versions kept per asset, beside those that are in use; null: all",
    )
    keep_days: Count = Field(
        default=0, description="versions made in so many days stay, however many they are"
    )
    pins: dict[str, str] = Field(
        default={}, description="asset: version to use instead of the current one"
    )


class AssistantSettings(Section):
    """All of one assistant's `config.yaml`."""

    seed: Count = Field(default=0, description="everything random follows from it")
    improve_by: MethodName = Field(
        default="ppo",
        description="how the SFT actor is improved: ppo; rloo or grpo, which need no critic; dpo, "
        "which needs pairs and no reward model; kto, which needs thumbs and none either; "
        "best_of_n, which imitates the best of several replies",
    )
    data: DataSettings = Field(
        default_factory=DataSettings,
        description="public sources and what is taken of them, limits in tokens, shares of "
        "validation and test, own columns, personal data to redact",
    )
    llm: LlmSettings = Field(
        default_factory=LlmSettings,
        description="who writes and scores, by which model, at what price, and how many rows",
    )
    actor_config: ActorSettings = Field(
        default_factory=ActorSettings, description="the model that talks, and its SFT"
    )
    reward_config: RewardSettings = Field(
        default_factory=RewardSettings, description="the model that scores, and its training"
    )
    critic_config: CriticSettings = Field(
        default_factory=CriticSettings,
        description="where PPO's values come from; all else follows from the other models",
    )
    trainer_config: PpoSettings = Field(
        default_factory=PpoSettings,
        description="PPO, and RLOO and GRPO, which are PPO without a critic",
    )
    dpo_config: DpoSettings = Field(
        default_factory=DpoSettings, description="DPO, where `improve_by` is dpo"
    )
    kto_config: KtoSettings = Field(
        default_factory=KtoSettings, description="KTO, where `improve_by` is kto"
    )
    best_of_n_config: BestOfNSettings = Field(
        default_factory=BestOfNSettings, description="best of n, where `improve_by` is best_of_n"
    )
    rewards: RewardsSettings = Field(
        default_factory=RewardsSettings,
        description="what PPO pays for: the reward model, a judge, functions of your own",
    )
    rubric: list[Criterion] = Field(
        default=[], description="what the judge `rubric` gives points for"
    )
    evaluation: EvaluationSettings = Field(
        default_factory=EvaluationSettings,
        description="test prompts, judge, temperature, known answers",
    )
    release: ReleaseSettings = Field(
        default_factory=ReleaseSettings,
        description="which stage is released, and what holds it back",
    )
    feedback: FeedbackSettings = Field(
        default_factory=FeedbackSettings,
        description="what is learned from people's ratings, and when",
    )
    retrain: RetrainSettings = Field(
        default_factory=RetrainSettings, description="when an assistant is made again"
    )
    store: StoreSettings = Field(
        default_factory=StoreSettings, description="versions kept, versions pinned"
    )
    checks: CheckSettings = Field(
        default_factory=CheckSettings, description="the number behind each check"
    )
    tracking: TrackingSettings = Field(
        default_factory=TrackingSettings, description="trackers of a training's figures"
    )

    @classmethod
    def of_stage(cls, spec: StageSpec) -> Self:
        """The settings of a stage, those left out that its asset doesn't declare."""
        whole = cls.model_validate(spec.settings)
        return whole if spec.readable is None else limited_to(whole, spec.readable)

    @model_validator(mode="before")
    @classmethod
    def _grouped_methods_write_several_replies(cls, values: Any) -> Any:
        return with_usual_replies(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _a_group_must_have_several_replies(self) -> Self:
        replies = self.trainer_config.replies_per_prompt
        if self.improve_by in GROUPED and replies == 1:
            raise ValueError(
                f"improve_by: {self.improve_by} compares the replies to one prompt with each other,"
                " and trainer_config.replies_per_prompt is 1; set it to 2 or more, or improve_by: "
                "ppo"
            )
        return self

    @model_validator(mode="after")
    def _every_role_can_be_played(self) -> Self:
        others = [name for name in self.data.sources if name != "grammar"]
        for name in ROLES:
            role = self.role(name)
            if role.provider == "rules" and others:
                key = role.key if role.key == "evaluation.judge" else f"{role.key}.provider"
                raise ValueError(
                    f"{key}: rules knows only the grammar, and data.sources names "
                    f"{', '.join(others)}; set {key}: none"
                )
            if faults := role.faults():
                raise ValueError(faults[0])
        written = self.llm.synthetic_conversations + self.llm.synthetic_prompts
        written += self.llm.synthetic_completions
        writer = self.role("writer")
        if writer.provider == "rubric" and written:
            raise ValueError(
                f"{writer.key}.provider: rubric judges and writes nothing, and {written} synthetic "
                "rows are asked for; set llm.writer.provider to who shall write them, or their "
                "numbers to 0"
            )
        return self

    @model_validator(mode="after")
    def _a_judge_can_be_a_reward(self) -> Self:
        if fault := self.reward_judge_fault():
            raise ValueError(fault)
        return self

    def reward_judge_fault(self) -> str | None:
        """What keeps the judge from being a reward, with the cure; None where nothing does."""
        key = f"rewards.weights.{JUDGE}"
        if JUDGE not in self.rewards.weights:
            return None
        role, gate = self.role("judge"), self.role("evaluation_judge")
        if role.provider == "none":
            return f"{key} asks llm.judge, and nobody plays it: set llm.judge.provider"
        if role.batch:
            return (
                f"{key}: llm.judge.batch is true, which answers within a day, and PPO asks in "
                "every iteration: set llm.judge.batch: false"
            )
        if self.rewards.pays_by(JUDGE) and role.is_the_model_of(gate):
            return (
                f"{key}: {role.provider} {role.model}".rstrip()
                + " also judges for the release gate (evaluation.judge), and a policy learns to "
                "please what it is paid by: set evaluation.judge to another, or to none, so that a "
                "person decides"
            )
        return None

    def watch_fault(self) -> str | None:
        """What keeps the gate's judge from looking on while the actor is improved, if anything."""
        every, gate = self.trainer_config.watch_every, self.role("evaluation_judge")
        if self.improve_by in SUPERVISED:
            return f"improve_by: {self.improve_by} climbs no reward"
        if every == 0:
            return "trainer_config.watch_every is 0"
        if gate.provider == "none":
            return "nobody plays evaluation.judge"
        if gate.batch:
            return f"{gate.key}.batch is true, which answers within a day"
        if gate.provider == "transformers" and every is None:
            return (
                f"{gate.key} is a local model, which would stand in memory beside those of the "
                "training; set trainer_config.watch_every to have it asked all the same"
            )
        return None

    @property
    def judge(self) -> str:
        """Who judges in evaluation: its own setting, else the provider."""
        return self.role("evaluation_judge").provider

    def role(self, name: RoleName) -> RoleSettings:
        """All that is set for a role, with what it takes over and the defaults."""
        return resolve(name, self.llm, self.evaluation.judge, self.rubric)

    @property
    def policy_has_adapter(self) -> bool:
        """Whether the method that improves the actor trains an adapter of it."""
        section = getattr(self, SUPERVISED.get(self.improve_by, "trainer_config"))
        own: bool | None = section.peft_enable
        return self.actor_config.peft_enable if own is None else own

    @property
    def critic_has_adapter(self) -> bool:
        """Whether PPO trains an adapter of the critic."""
        own = self.critic_config.peft_enable
        return self.policy_has_adapter if own is None else own

    @property
    def has_shared_trunk(self) -> bool:
        """Whether PPO's values come from a head on the actor's own hidden states."""
        return self.improve_by == "ppo" and self.critic_config.trunk == "shared"

    def trained_as(self, stage: str) -> str:
        """The training by which `stage` is made: actor_dpo is that of actor_ppo by DPO."""
        # Which of them it is other stages don't ask.
        if stage == "actor_ppo" and self.improve_by in SUPERVISED:
            return f"actor_{self.improve_by}"
        return stage

    def training(self, stage: str) -> TrainedSection:
        """The section that the training `stage` goes by."""
        section: TrainedSection = getattr(self, SECTION_OF[self.trained_as(stage)])
        return section

    def learns(self, training: str) -> bool:
        """Whether `training` moves any weights: a reward model may be taken as it is."""
        return training != "reward_model" or self.reward_config.train

    def at(self, dotted: str) -> Any:
        """The plain value at a dotted key."""
        *sections, name = dotted.split(".")
        section: Section = self
        for part in sections:
            section = getattr(section, part)
        getattr(section, name)  # where it was left out, that is the error
        return section.model_dump(mode="json", include={name})[name]
