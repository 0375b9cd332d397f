"""What each asset is made from: upstream assets, settings, other inputs, code.

This is where an asset's upstream, settings or code version change; everything else follows: its
place in Dagster's graph, its fingerprint, what `status` calls stale, the picture in the docs. Its
build gets the payloads and the settings named here and can read no others.
"""

from __future__ import annotations

from chatllama_pipeline.lineage.declaring import inputs, unused
from chatllama_pipeline.lineage.declaring.asset import Asset, Input, keys
from chatllama_pipeline.lineage.declaring.groups import (
    BASE,
    BATCHED,
    EVALUATION_JUDGE,
    IMPROVEMENT,
    JUDGED,
    OF_GGUF,
    OPTIMIZER,
    SPLIT,
    WRITER,
)
from chatllama_pipeline.lineage.declaring.ratings import FEEDBACK, LOG, counted_log
from chatllama_pipeline.settings.data import SOURCES

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
        code_version="4",
        settings=keys("data", "redact columns.actor columns.reward columns.rlhf"),
        inputs=(inputs.OWN_FILES, inputs.UNREAD),
    ),
    Asset(
        FEEDBACK,
        code_version="2",
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
        unused=unused.sources_left_out,
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
        inputs=(inputs.LENGTHS,),
    ),
    _synthetic("synthetic_conversations", "synthetic_conversations conversations_by turns"),
    # Planned by the function that plans conversations.
    _synthetic("synthetic_prompts", "synthetic_prompts", *_OF_CONVERSATIONS),
    _synthetic("synthetic_completions", "synthetic_completions", *_OF_CONVERSATIONS),
    Asset(
        "actor_training_data",
        code_version="6",
        upstream=("preference_data", "synthetic_conversations", "personal_data", FEEDBACK),
        unused=unused.unheard,
        settings=("data.actor_replies", *SPLIT, "checks.few_rows"),
        inputs=(inputs.LENGTHS,),
    ),
    Asset(
        "rlhf_training_data",
        code_version="5",
        upstream=("preference_data", "synthetic_prompts", "personal_data", FEEDBACK),
        unused=unused.unheard,
        settings=(*SPLIT, "checks.few_rows", *EVALUATION_JUDGE),
        also_reads=BATCHED,
        inputs=(inputs.LENGTHS,),
    ),
    Asset(
        "reward_training_data",
        code_version="7",
        upstream=("preference_data", "synthetic_completions", "personal_data", FEEDBACK),
        unused=unused.unheard,
        settings=(
            "seed",
            *JUDGED,
            *keys("llm", "scored_pairs judge_samples agreement_by"),
            *SPLIT,
            *keys("checks", "min_reward_rows min_judge_agreement max_judge_unread"),
            "reward_config.objective",
        ),
        also_reads=BATCHED,
        inputs=(inputs.LENGTHS,),
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
        unused=unused.sources_left_out,
        settings=(
            "data.redact",
            "actor_config.max_sequence_length",
            "reward_config.max_sequence_length",
            *keys(
                "checks",
                "max_length_only_accuracy max_near_duplicates max_alike_pairs max_personal_data",
            ),
        ),
        inputs=(inputs.TOKENIZER_FILES, inputs.UNREAD),
    ),
    Asset(
        "actor_base",
        code_version="5",
        upstream=("actor_training_data",),
        unused=unused.published_actor,
        settings=("seed", *keys("actor_config", BASE + " max_sequence_length")),
        # Refused at its base: where PPO would have no room for a prompt, or an export no file.
        also_reads=("actor_config.max_tokens", "release.gguf"),
    ),
    Asset(
        "reward_base",
        code_version="5",
        upstream=("actor_training_data",),
        unused=unused.published_reward,
        settings=("seed", *keys("reward_config", BASE + " train max_sequence_length")),
    ),
    Asset(
        "reward_model",
        code_version="8",
        upstream=("reward_base", "reward_training_data", "preference_data"),
        settings=(
            "seed",
            "feedback.weight",
            *keys(
                "reward_config",
                OPTIMIZER + " objective margin train centering max_sequence_length",
            ),
        ),
    ),
    Asset(
        "actor_sft",
        code_version="5",
        upstream=("actor_base", "actor_training_data"),
        settings=(
            "seed",
            "feedback.weight",
            *keys("actor_config", OPTIMIZER + " froze_embeddings packing max_sequence_length"),
        ),
        # Refused before it trains where PPO would have no room for a prompt.
        also_reads=("actor_config.max_tokens",),
    ),
    Asset(
        "actor_ppo",
        code_version="12",
        upstream=(
            "actor_sft",
            "reward_model",
            "rlhf_training_data",
            "personal_data",
            "preference_data",
            "reward_training_data",
        ),
        unused=unused.not_learned_from,
        settings=IMPROVEMENT,
        uncounted=unused.not_improved_by,
        inputs=(
            inputs.PAYING_JUDGE,
            inputs.WATCHING_JUDGE,
        ),
        # How much memory the reward model's adapter takes.
        also_reads=(*keys("reward_config", "lora.r lora.target_modules"), *BATCHED),
    ),
    Asset(
        "evaluation",
        code_version="12",
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
        unused=unused.not_evaluated_by,
        settings=(
            "seed",
            *EVALUATION_JUDGE,
            *keys("actor_config", "max_tokens max_sequence_length thoughts"),
            *keys("evaluation", "prompts replies temperature known_answers bootstrap_samples"),
            "evaluation.table_rows",
            *keys("release", "stage min_win_rate min_win_rate_over_release"),
            *keys("release", "max_kl max_length_ratio"),
            *keys("checks", "min_reward_accuracy max_kl max_length_ratio max_known_answers_lost"),
            "checks.max_judge_unread",
            "rewards.weights",
        ),
        uncounted=unused.paid_as_ever,
        # The reward model that it names is another where its objective is.
        also_reads=(*BATCHED, "reward_config.objective"),
        inputs=(
            Input("unpromoted_overrides", lambda given: given.unpromoted),
            inputs.IN_USE,
        ),
    ),
    Asset(
        "release",
        code_version="4",
        upstream=("evaluation", "actor_sft", "actor_ppo", "personal_data"),
        unused=unused.not_released_from,
        settings=(
            "release.stage",
            "actor_config.temperature",
            "actor_config.max_tokens",
            *OF_GGUF,
        ),
        uncounted=unused.without_gguf,
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
        inputs=(inputs.APPROVED,),
    ),
]

# In the order in which they are made.
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _DECLARED}
