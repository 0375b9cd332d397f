"""Settings: flat, frozen, validated; one class per section of an assistant's `config.yaml`.
What of them an asset is made from stands in `lineage.assets`; nothing here reads data or models."""

from chatllama_pipeline.settings.assistant import AssistantSettings, StoreSettings
from chatllama_pipeline.settings.data import (
    PERSONAL_KINDS,
    SOURCE_ALIASES,
    DataSettings,
    FeedbackSettings,
    PersonalKind,
    SourceName,
)
from chatllama_pipeline.settings.evaluation import (
    CheckSettings,
    EvaluationSettings,
    ReleaseSettings,
)
from chatllama_pipeline.settings.llm.provider import LlmRole, LlmSettings, Price, ProviderName
from chatllama_pipeline.settings.llm.role import RoleSettings
from chatllama_pipeline.settings.llm.rubric import Criterion
from chatllama_pipeline.settings.retrain import RetrainSettings
from chatllama_pipeline.settings.section import SCRATCH, Section
from chatllama_pipeline.settings.training.actor import ActorSettings
from chatllama_pipeline.settings.training.best_of_n import BestOfNSettings
from chatllama_pipeline.settings.training.dpo import DpoSettings
from chatllama_pipeline.settings.training.kto import KtoSettings
from chatllama_pipeline.settings.training.lora import LoraSettings
from chatllama_pipeline.settings.training.ppo import CriticSettings, PpoSettings
from chatllama_pipeline.settings.training.reward import RewardSettings
from chatllama_pipeline.settings.training.rewards import RewardsSettings
from chatllama_pipeline.settings.training.tracking import TrackingSettings
from chatllama_pipeline.settings.training.trained import (
    SECTION_OF,
    OwnModelSection,
    SupervisedSection,
    TrainedSection,
    model_section,
)

__all__ = [
    "PERSONAL_KINDS",
    "SCRATCH",
    "SECTION_OF",
    "SOURCE_ALIASES",
    "ActorSettings",
    "AssistantSettings",
    "BestOfNSettings",
    "CheckSettings",
    "Criterion",
    "CriticSettings",
    "DataSettings",
    "DpoSettings",
    "EvaluationSettings",
    "FeedbackSettings",
    "KtoSettings",
    "LlmRole",
    "LlmSettings",
    "LoraSettings",
    "OwnModelSection",
    "PersonalKind",
    "PpoSettings",
    "Price",
    "ProviderName",
    "ReleaseSettings",
    "RetrainSettings",
    "RewardSettings",
    "RewardsSettings",
    "RoleSettings",
    "Section",
    "SourceName",
    "StoreSettings",
    "SupervisedSection",
    "TrackingSettings",
    "TrainedSection",
    "model_section",
]
