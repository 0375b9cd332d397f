"""Which settings an asset's fingerprint holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatllama_pipeline.lineage.recipes import MADE_FROM
from chatllama_pipeline.settings import AssistantSettings

# What may change without anything being made again: memory, intervals, paths, who keeps what.
UNUSED_OF_PEFT = ("bias", "inference_mode", "peft_type", "task_type")
NEUTRAL = {
    *(
        f"{section}.{key}"
        for section in ("actor_config", "reward_config")
        for key in ("zero_stage", "offload", "deepspeed_enable", "deepspeed_config_path")
    ),
    *(
        f"{section}.{key}"
        for section in ("actor_config", "reward_config", "trainer_config")
        for key in ("checkpoint_seconds", "n_checkpoints_to_keep")
    ),
    "actor_config.train_dataset_path",
    "actor_config.micro_batch_size",
    *(
        f"{section}_config.{key}"
        for section in ("actor", "reward", "critic")
        for key in [
            "peft_config_path",
            "lora.bias",
            "lora.inference_mode",
            "lora.peft_type",
            "lora.task_type",
        ]
    ),
    "actor_config.checkpoint_steps",
    "reward_config.train_dataset_path",
    "reward_config.micro_batch_size",
    "reward_config.checkpoint_steps",
    "trainer_config.examples_path",
    "actor_config.activation_checkpointing",
    "reward_config.activation_checkpointing",
    "trainer_config.activation_checkpointing",
    "trainer_config.micro_batch_size",
    "trainer_config.rollout_batch_size",
    "trainer_config.checkpoint_steps",
    "retrain.cron",
    "retrain.timezone",
    "store.keep_versions",
    "tracking.trackers",
    "tracking.project",
    "tracking.mlflow_uri",
    "store.pins",
    "llm.max_usd",
    "llm.prices",
    *(
        f"{role}.{key}"
        for role in ("llm", "llm.writer", "llm.judge", "evaluation.judge")
        for key in (
            "api_key_env",
            "timeout",
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "price",
            "batch_size",
        )
    ),
    # A writer's later questions follow from its earlier answers; a judge's don't.
    "llm.judge.batch",
    "evaluation.judge.batch",
}


def dotted_keys(settings: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from dotted_keys(value, f"{above}{key}.")
        elif above or not isinstance(value, dict):
            yield above + key


def test_every_setting_is_either_part_of_a_fingerprint_or_known_to_change_no_result() -> None:
    every = set(dotted_keys(AssistantSettings().model_dump()))
    listed = {key for keys in MADE_FROM.values() for key in keys}
    assert listed | NEUTRAL == every
    assert not listed & NEUTRAL
