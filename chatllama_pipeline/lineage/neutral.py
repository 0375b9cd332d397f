"""Settings that change no result: memory, speed, money, intervals, paths, who keeps what.

They may change without anything being made again, and any build may read them.
"""

from __future__ import annotations

_OF_PEFT = "peft_config_path lora.bias lora.inference_mode lora.peft_type lora.task_type"
_OF_TRAINING = (
    "micro_batch_size activation_checkpointing checkpoint_steps checkpoint_seconds "
    "n_checkpoints_to_keep"
)
_OF_SHARDING = "zero_stage offload deepspeed_enable deepspeed_config_path"
_OF_CALLS = "api_key_env timeout concurrency requests_per_minute tokens_per_minute price batch_size"

NEUTRAL: frozenset[str] = frozenset(
    f"{section}.{name}"
    for section, names in (
        ("actor_config", f"{_OF_TRAINING} {_OF_SHARDING} {_OF_PEFT} train_dataset_path"),
        ("reward_config", f"{_OF_TRAINING} {_OF_SHARDING} {_OF_PEFT} train_dataset_path"),
        ("critic_config", _OF_PEFT),
        ("dpo_config", _OF_TRAINING),
        ("kto_config", _OF_TRAINING),
        ("best_of_n_config", f"{_OF_TRAINING} rollout_batch_size"),
        ("trainer_config", f"{_OF_TRAINING} rollout_batch_size examples_path"),
        ("llm", f"{_OF_CALLS} max_usd prices"),
        ("llm.writer", _OF_CALLS),
        # A judge's questions don't follow from its answers: asked in batches they are the same.
        ("llm.judge", f"{_OF_CALLS} batch"),
        ("evaluation.judge", f"{_OF_CALLS} batch"),
        ("rewards", "trust_code silence_seconds"),
        # Which ratings it lets in is what counts, not when.
        ("feedback", "min_new"),
        # A person's word is asked for after the evaluation, not in it.
        ("release", "by judge"),
        ("retrain", "cron timezone what"),
        ("store", "keep_versions keep_days pins"),
        ("tracking", "trackers project mlflow_uri"),
    )
    for name in names.split()
)
