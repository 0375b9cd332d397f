"""What of a declaration doesn't count for an assistant: upstream assets, and settings."""

from __future__ import annotations

from collections.abc import Collection

from chatllama_pipeline.lineage.declaring.groups import IMPROVEMENT, OF_GGUF, REWARDS, WATCH
from chatllama_pipeline.lineage.declaring.ratings import FEEDBACK
from chatllama_pipeline.settings import SCRATCH, AssistantSettings
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.training.methods import FROM_ROWS, SUPERVISED, reads
from chatllama_pipeline.settings.training.rewards import JUDGE


def sources_left_out(settings: AssistantSettings) -> Collection[str]:
    return set(SOURCES) - set(settings.data.sources) | {*unheard(settings)}


def unheard(settings: AssistantSettings) -> Collection[str]:
    return (FEEDBACK,) if settings.feedback.min_new is None else ()


def published_actor(settings: AssistantSettings) -> Collection[str]:
    """A published tokenizer isn't trained on the data."""
    return () if settings.actor_config.model == SCRATCH else ("actor_training_data",)


def published_reward(settings: AssistantSettings) -> Collection[str]:
    return () if settings.reward_config.model == SCRATCH else ("actor_training_data",)


def not_evaluated_by(settings: AssistantSettings) -> Collection[str]:
    unused = [*unheard(settings)]
    if not settings.role("evaluation_judge").asks_a_model:
        unused.append("personal_data")  # Its templates are an LLM's to judge by.
    if settings.evaluation.known_answers is None:
        unused.append("actor_base")
    if settings.improve_by in FROM_ROWS:
        unused.append("reward_model")  # nobody is paid by one
    return unused


def not_learned_from(settings: AssistantSettings) -> Collection[str]:
    """DPO and KTO learn from rows alone, all others from prompts and what is paid for replies."""
    if settings.improve_by in FROM_ROWS:
        return ("reward_model", "rlhf_training_data", "personal_data", "reward_training_data")
    unused: list[str] = []
    if settings.improve_by in SUPERVISED or not settings.rewards.cheat_prompts:
        unused += ["preference_data", "reward_training_data"]
    pays = JUDGE in settings.rewards.weights and settings.role("judge").asks_a_model
    looks = not settings.watch_fault() and settings.role("evaluation_judge").asks_a_model
    if not (pays or looks):
        unused.append("personal_data")  # Its templates are an LLM's to judge by.
    return unused


def not_released_from(settings: AssistantSettings) -> Collection[str]:
    unused = {"actor_sft", "actor_ppo"} - {settings.release.stage}
    if not (settings.release.gguf and settings.role("evaluation_judge").asks_a_model):
        unused.add("personal_data")  # Its templates are an LLM's to judge by.
    return unused


def without_gguf(settings: AssistantSettings) -> Collection[str]:
    """In as many words as ever where no GGUF file is wanted."""
    return () if settings.release.gguf else OF_GGUF


def not_improved_by(settings: AssistantSettings) -> Collection[str]:
    """What a method makes nothing of; what is said of PPO in as many words as ever."""
    method, shared = settings.improve_by, settings.has_shared_trunk
    uncounted = {key for key in IMPROVEMENT if not reads(method, key, shared_trunk=shared)}
    if method == "ppo":
        uncounted.add("improve_by")
    if not shared:
        uncounted.add("critic_config.trunk")
    if method in FROM_ROWS:  # replies are the data's, and read whole
        uncounted |= {"actor_config.max_tokens", "actor_config.thoughts"}
    if method in SUPERVISED:
        uncounted.add("checks.max_cheat_wins")
    if settings.watch_fault():
        uncounted |= set(WATCH)
    if settings.trainer_config.replies_per_prompt == 1:
        uncounted.add("trainer_config.replies_per_prompt")
    return uncounted | {*paid_as_ever(settings)}


def paid_as_ever(settings: AssistantSettings) -> Collection[str]:
    """By the reward model alone: in as many words as ever."""
    return REWARDS if settings.rewards.default_alone else ()
