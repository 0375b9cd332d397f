"""What each asset is made from: upstream assets, settings, other inputs, code.

This is where an asset's upstream, settings or code version change; everything else follows: its
place in Dagster's graph, its fingerprint, what `status` calls stale, the picture in the docs. Its
build gets the payloads and the settings named here and can read no others.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from chatllama_pipeline.lineage.declaration import Asset, Given, Input, keys
from chatllama_pipeline.lineage.groups import (
    ASKED,
    BASE,
    BATCHED,
    EVALUATION_JUDGE,
    IMPROVEMENT,
    JUDGED,
    OPTIMIZER,
    REWARD_JUDGE,
    REWARDS,
    SPLIT,
    TOKENIZER,
    WATCH,
    WRITER,
)
from chatllama_pipeline.lineage.incumbent import RELEASE, incumbent
from chatllama_pipeline.lineage.ratings import FEEDBACK, LOG, counted_log
from chatllama_pipeline.settings import SCRATCH, AssistantSettings, RoleSettings
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.training.methods import FROM_ROWS, SUPERVISED, reads
from chatllama_pipeline.settings.training.rewards import JUDGE
from chatllama_pipeline.store.approvals import is_approved
from chatllama_pipeline.store.manifests import hash_file
from chatllama_pipeline.store.versions import Store

_FILES = (
    *keys("data", "columns.actor columns.reward columns.rlhf"),
    "evaluation.known_answers",
)


def _own_files(given: Given) -> dict[str, str]:
    from chatllama_pipeline.data.own.personal import personal_fingerprint

    return personal_fingerprint(given.assistant.folder, given.assistant.settings)


def _unread_files(given: Given) -> list[str]:
    from chatllama_pipeline.data.own.unread import unread_files

    return unread_files(given.assistant.folder, given.assistant.settings)


def _tokenizer(given: Given) -> str | None:
    from chatllama_pipeline.data.audit.lengths import tokenizer_fingerprint

    return tokenizer_fingerprint(given.assistant.settings)


def _lengths(given: Given) -> dict[str, object]:
    from chatllama_pipeline.data.prepare.lengths import lengths_identity

    return lengths_identity(given.assistant.settings)


def _reward_judge(given: Given) -> dict[str, Any]:
    """The judge by whose word PPO is paid; nothing where it isn't."""
    settings = given.assistant.settings
    if settings.improve_by in FROM_ROWS or JUDGE not in settings.rewards.weights:
        return {}
    return {**_told_of(settings.role("judge")), "samples": settings.llm.judge_samples}


def _watching_judge(given: Given) -> dict[str, Any]:
    """The gate's judge, where it says which policy of a training is published."""
    settings = given.assistant.settings
    return {} if settings.watch_fault() else _told_of(settings.role("evaluation_judge"))


def _told_of(role: RoleSettings) -> dict[str, Any]:
    """All of a judge that can change its word."""
    judge = {key: getattr(role, key) for key in ASKED.split()} | {"omit": list(role.omit)}
    if (folder := Path(role.model)).is_absolute():
        files = sorted(file for file in folder.iterdir() if file.is_file())
        judge["model"] = {file.name: hash_file(file) for file in files}
    return {**judge, "rubric": [criterion.model_dump(mode="json") for criterion in role.rubric]}


def _approved(given: Given) -> bool:
    evaluation = given.upstream["evaluation"]
    return is_approved(given.store_root, given.assistant.name, evaluation)


def _release_in_use(given: Given) -> str | None:
    stage = given.assistant.settings.release.stage
    return incumbent(given.assistant, Store(given.store_root), given.upstream[stage])


_UNREAD = Input("unread", _unread_files, _FILES, always=False)
_LENGTHS = Input(
    "lengths", _lengths, (*TOKENIZER, "actor_config.max_sequence_length"), always=False
)


def _sources_left_out(settings: AssistantSettings) -> Collection[str]:
    return set(SOURCES) - set(settings.data.sources) | {*_unheard(settings)}


def _unheard(settings: AssistantSettings) -> Collection[str]:
    return (FEEDBACK,) if settings.feedback.min_new is None else ()


def _published_actor(settings: AssistantSettings) -> Collection[str]:
    """A published tokenizer isn't trained on the data."""
    return () if settings.actor_config.model == SCRATCH else ("actor_training_data",)


def _published_reward(settings: AssistantSettings) -> Collection[str]:
    return () if settings.reward_config.model == SCRATCH else ("actor_training_data",)


def _not_evaluated_by(settings: AssistantSettings) -> Collection[str]:
    unused = [*_unheard(settings)]
    if not settings.role("evaluation_judge").asks_a_model:
        unused.append("personal_data")  # Its templates are an LLM's to judge by.
    if settings.evaluation.known_answers is None:
        unused.append("actor_base")
    if settings.improve_by in FROM_ROWS:
        unused.append("reward_model")  # nobody is paid by one
    return unused


def _not_learned_from(settings: AssistantSettings) -> Collection[str]:
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


def _not_released_from(settings: AssistantSettings) -> Collection[str]:
    unused = {"actor_sft", "actor_ppo"} - {settings.release.stage}
    if not (settings.release.gguf and settings.role("evaluation_judge").asks_a_model):
        unused.add("personal_data")  # Its templates are an LLM's to judge by.
    return unused


def _without_gguf(settings: AssistantSettings) -> Collection[str]:
    """In as many words as ever where no GGUF file is wanted."""
    return () if settings.release.gguf else _OF_GGUF


def _not_improved_by(settings: AssistantSettings) -> Collection[str]:
    """What a method makes nothing of; what is said of PPO in as many words as ever."""
    method = settings.improve_by
    uncounted = {key for key in IMPROVEMENT if not reads(method, key)}
    if method == "ppo":
        uncounted.add("improve_by")
    if method in FROM_ROWS:  # replies are the data's, and read whole
        uncounted |= {"actor_config.max_tokens", "actor_config.thoughts"}
    if method in SUPERVISED:
        uncounted.add("checks.max_cheat_wins")
    if settings.watch_fault():
        uncounted |= set(WATCH)
    if settings.trainer_config.replies_per_prompt == 1:
        uncounted.add("trainer_config.replies_per_prompt")
    return uncounted | {*_paid_as_ever(settings)}


def _paid_as_ever(settings: AssistantSettings) -> Collection[str]:
    """By the reward model alone: in as many words as ever."""
    return REWARDS if settings.rewards.default_alone else ()


_OF_GGUF = ("release.gguf", "checks.min_gguf_agreement")
_OF_CONVERSATIONS = keys("llm", "conversations_by turns")


def _synthetic(name: str, rows: str, *also_reads: str) -> Asset:
    return Asset(
        name,
        code_version="2",
        upstream=("personal_data",),
        settings=("seed", *WRITER, *SPLIT, *keys("llm", rows + " rows_per_call")),
        also_reads=("rubric", *also_reads),  # a writer that is set to judge by it is refused
    )


_DECLARED = [
    Asset("shp", code_version="3"),
    Asset("hh_rlhf", code_version="3"),
    Asset("grammar", code_version="3"),
    Asset(
        "personal_data",
        code_version="3",
        settings=keys("data", "redact columns.actor columns.reward columns.rlhf"),
        inputs=(Input("files", _own_files), _UNREAD),
    ),
    Asset(
        FEEDBACK,
        code_version="1",
        # What a judge that knows the grammar alone would refuse is left out.
        settings=(
            *keys("data", "redact validation_share test_share"),
            *keys("feedback", "max_share test_share"),
            *EVALUATION_JUDGE,
        ),
        also_reads=BATCHED,
        inputs=(Input(LOG, counted_log, ("feedback.min_new",), always=False),),
        only_with=LOG,
    ),
    Asset(
        "preference_data",
        code_version="6",
        upstream=(*SOURCES, "personal_data", FEEDBACK),
        unused=_sources_left_out,
        settings=(
            "seed",
            *keys("data", "sources number_of_samples label_noise redact"),
            *SPLIT,
            # Limits of checks count too: a version is reused with its check results.
            *keys("checks", "max_identical_pairs max_length_only_accuracy"),
            "reward_config.objective",
        ),
        # Without pairs DPO is refused before anything is trained, and KTO without thumbs.
        also_reads=("improve_by",),
        inputs=(_LENGTHS,),
    ),
    _synthetic("synthetic_conversations", "synthetic_conversations conversations_by turns"),
    # Planned by the function that plans conversations.
    _synthetic("synthetic_prompts", "synthetic_prompts", *_OF_CONVERSATIONS),
    _synthetic("synthetic_completions", "synthetic_completions", *_OF_CONVERSATIONS),
    Asset(
        "actor_training_data",
        code_version="5",
        upstream=("preference_data", "synthetic_conversations", "personal_data", FEEDBACK),
        unused=_unheard,
        settings=("data.actor_replies", *SPLIT, "checks.few_rows"),
        inputs=(_LENGTHS,),
    ),
    Asset(
        "rlhf_training_data",
        code_version="5",
        upstream=("preference_data", "synthetic_prompts", "personal_data", FEEDBACK),
        unused=_unheard,
        settings=(*SPLIT, "checks.few_rows", *EVALUATION_JUDGE),
        also_reads=BATCHED,
        inputs=(_LENGTHS,),
    ),
    Asset(
        "reward_training_data",
        code_version="6",
        upstream=("preference_data", "synthetic_completions", "personal_data", FEEDBACK),
        unused=_unheard,
        settings=(
            "seed",
            *JUDGED,
            *keys("llm", "scored_pairs judge_samples agreement_by"),
            *SPLIT,
            *keys("checks", "min_reward_rows min_judge_agreement max_judge_unread"),
            "reward_config.objective",
        ),
        also_reads=BATCHED,
        inputs=(_LENGTHS,),
    ),
    Asset(
        "data_audit",
        code_version="3",
        upstream=(
            *SOURCES,
            "preference_data",
            "actor_training_data",
            "rlhf_training_data",
            "reward_training_data",
            FEEDBACK,
        ),
        unused=_sources_left_out,
        settings=(
            "data.redact",
            "actor_config.max_sequence_length",
            "reward_config.max_sequence_length",
            *keys(
                "checks",
                "max_length_only_accuracy max_near_duplicates max_alike_pairs max_personal_data",
            ),
        ),
        inputs=(Input("tokenizer", _tokenizer, TOKENIZER), _UNREAD),
    ),
    Asset(
        "actor_base",
        code_version="4",
        upstream=("actor_training_data",),
        unused=_published_actor,
        settings=("seed", *keys("actor_config", BASE + " max_sequence_length")),
        # Refused at its base: where PPO would have no room for a prompt, or an export no file.
        also_reads=("actor_config.max_tokens", "release.gguf"),
    ),
    Asset(
        "reward_base",
        code_version="4",
        upstream=("actor_training_data",),
        unused=_published_reward,
        settings=("seed", *keys("reward_config", BASE + " train max_sequence_length")),
    ),
    Asset(
        "reward_model",
        code_version="5",
        upstream=("reward_base", "reward_training_data", "preference_data"),
        settings=(
            "seed",
            *keys(
                "reward_config",
                OPTIMIZER + " objective margin train centering max_sequence_length",
            ),
        ),
    ),
    Asset(
        "actor_sft",
        code_version="4",
        upstream=("actor_base", "actor_training_data"),
        settings=(
            "seed",
            *keys("actor_config", OPTIMIZER + " froze_embeddings packing max_sequence_length"),
        ),
        # Refused before it trains where PPO would have no room for a prompt.
        also_reads=("actor_config.max_tokens",),
    ),
    Asset(
        "actor_ppo",
        code_version="10",
        upstream=(
            "actor_sft",
            "reward_model",
            "rlhf_training_data",
            "personal_data",
            "preference_data",
            "reward_training_data",
        ),
        unused=_not_learned_from,
        settings=IMPROVEMENT,
        uncounted=_not_improved_by,
        inputs=(
            Input("reward_judge", _reward_judge, REWARD_JUDGE, always=False),
            Input("watching_judge", _watching_judge, EVALUATION_JUDGE, always=False),
        ),
        # How much memory the reward model's adapter takes.
        also_reads=(*keys("reward_config", "lora.r lora.target_modules"), *BATCHED),
    ),
    Asset(
        "evaluation",
        code_version="11",
        upstream=(
            "actor_sft",
            "actor_ppo",
            "reward_model",
            "rlhf_training_data",
            "preference_data",
            "personal_data",
            "actor_base",
            FEEDBACK,
        ),
        unused=_not_evaluated_by,
        settings=(
            "seed",
            *EVALUATION_JUDGE,
            *keys("actor_config", "max_tokens max_sequence_length thoughts"),
            *keys("evaluation", "prompts temperature known_answers bootstrap_samples table_rows"),
            *keys("release", "stage min_win_rate min_win_rate_over_release"),
            *keys("release", "max_kl max_length_ratio"),
            *keys("checks", "min_reward_accuracy max_kl max_length_ratio max_known_answers_lost"),
            "checks.max_judge_unread",
            "rewards.weights",
        ),
        uncounted=_paid_as_ever,
        # The reward model that it names is another where its objective is.
        also_reads=(*BATCHED, "reward_config.objective"),
        inputs=(
            Input("unpromoted_overrides", lambda given: given.unpromoted),
            Input(RELEASE, _release_in_use, always=False),
        ),
    ),
    Asset(
        "release",
        code_version="4",
        upstream=("evaluation", "actor_sft", "actor_ppo", "personal_data"),
        unused=_not_released_from,
        settings=(
            "release.stage",
            "actor_config.temperature",
            "actor_config.max_tokens",
            *_OF_GGUF,
        ),
        uncounted=_without_gguf,
        # The card tells how the model was made, and who judged what was made of it.
        also_reads=(
            *EVALUATION_JUDGE,
            *BATCHED,
            "seed",
            "improve_by",
            *keys("actor_config", "model scratch_layers"),
            *keys("data", "sources label_noise"),
            *keys("llm", "provider synthetic_conversations synthetic_prompts"),
            "llm.synthetic_completions",
            *keys("trainer_config", "num_episodes max_timesteps update_timesteps num_examples"),
            "best_of_n_config.replies_per_prompt",
        ),
        inputs=(Input("approved", _approved),),
    ),
]

# In the order in which they are made.
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _DECLARED}
