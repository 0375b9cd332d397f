"""DeepSpeed's settings: the original's file, one setting, and what contradicts config.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan, ignored, plan_for
from chatllama_pipeline.settings.folder import load_assistant

# As the original ChatLLaMA ships it.
ORIGINAL = {
    "train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "optimizer": {"type": "Adam", "params": {"lr": 0.00015}},
    "fp16": {"enabled": False},
    "zero_optimization": {
        "stage": 2,
        "offload_param": {"device": "cpu", "pin_memory": True},
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
    },
}
ENABLED = "actor_config: {deepspeed_enable: true, lr: 0.00001, batch_size: 8}\n"


def plan(root: Path, config: str, content: Any = None, stage: str = "actor_sft") -> Any:
    folder = root / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "ds_config.json").write_text(text)
    return plan_for(stage, load_assistant("mine", root=root).settings)


def warnings(
    root: Path, config: str, content: Any, stage: str = "actor_sft", processes: int = 1
) -> list[str]:
    """What is said of a file in an assistant's folder, in float32."""
    found = plan(root, config, content, stage)
    settings = load_assistant("mine", root=root).settings
    return ignored(found, stage, settings, processes, bfloat16=False)


def test_the_originals_file_runs_as_it_is_with_one_warning_of_both_values(tmp_path: Path) -> None:
    found = plan(tmp_path, ENABLED, ORIGINAL)
    assert found.config == {
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
        }
    }
    file = tmp_path.resolve() / "mine" / "ds_config.json"
    assert warnings(tmp_path, ENABLED, ORIGINAL) == [
        f"{file}: ignored, since config.yaml decides: optimizer.params.lr 0.00015 "
        '(actor_config.lr 1e-05); zero_optimization.offload_param "cpu" (it needs '
        "zero_optimization.stage 3, which is 2)"
    ]


def test_what_agrees_with_config_yaml_warns_of_nothing(tmp_path: Path) -> None:
    agreed = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": "auto",
        "optimizer": {"type": "AdamW", "params": {"lr": 0.00001}},
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}, "sub_group_size": 9},
    }
    found = plan(tmp_path, ENABLED, agreed)
    assert warnings(tmp_path, ENABLED, agreed) == []
    assert found.config == {"zero_optimization": agreed["zero_optimization"]}


def test_what_the_file_decides_nowhere_is_told_with_what_is_done_instead(tmp_path: Path) -> None:
    other = {
        "optimizer": {
            "type": "Lamb",
            "params": {"lr": 0.00001, "betas": [0.8, 0.99], "weight_decay": 0.1},
        },
        "scheduler": {"type": "WarmupLR"},
        "bf16": {"enabled": True},
        "amp": {"enabled": True},
        "gradient_clipping": 0.5,
        "zero_optimization": {"stage": 2},
    }
    told = warnings(tmp_path, ENABLED, other)[0].partition("config.yaml decides: ")[2]
    assert told.split("; ") == [
        "gradient_clipping 0.5 (actor_config.max_grad_norm 1.0)",
        'optimizer.type "Lamb" (always AdamW)',
        "optimizer.params.weight_decay 0.1 (actor_config.weight_decay 0.0)",
        "optimizer.params.betas [0.8, 0.99] (always [0.9, 0.999])",
        'scheduler.type "WarmupLR" (always cosine)',
        "amp.enabled true (actor_config.precision auto, float32 here)",
        "bf16.enabled true (actor_config.precision auto, float32 here)",
    ]


def test_batch_sizes_are_compared_as_the_processes_share_them(tmp_path: Path) -> None:
    sizes = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    content = {**sizes, "zero_optimization": {"stage": 2}}
    assert warnings(tmp_path / "2", ENABLED, content, processes=2) == []
    told = warnings(tmp_path / "1", ENABLED, content)[0]
    assert "train_micro_batch_size_per_gpu 4 (actor_config.micro_batch_size 8)" in told


def test_a_file_that_shards_nothing_says_so(tmp_path: Path) -> None:
    content = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    assert "zero_optimization.stage 0 shards nothing: trains without DeepSpeed" in str(
        warnings(tmp_path, ENABLED, content)
    )


def test_ppo_is_sharded_as_the_actor_is_and_told_of_its_own_values(tmp_path: Path) -> None:
    config = ENABLED + "trainer_config: {batch_size: 4, actor_lr: 0.00002}\n"
    found = plan(tmp_path, config, ORIGINAL, "actor_ppo")
    [told] = warnings(tmp_path, config, ORIGINAL, "actor_ppo")
    assert "train_batch_size 8 (trainer_config.batch_size 4)" in told
    assert "0.00015 (trainer_config.actor_lr 2e-05)" in told
    assert found.stage == 2


@pytest.mark.parametrize(
    ("offload", "zero"),
    [
        ("none", {"stage": 3}),
        ("optimizer", {"stage": 3, "offload_optimizer": {"device": "cpu"}}),
        (
            "all",
            {
                "stage": 3,
                "offload_optimizer": {"device": "cpu"},
                "offload_param": {"device": "cpu"},
            },
        ),
    ],
)
def test_one_setting_is_enough(tmp_path: Path, offload: str, zero: dict[str, Any]) -> None:
    config = f"reward_config: {{zero_stage: 3, offload: {offload}}}"
    assert plan(tmp_path, config, stage="reward_model") == DeepSpeedPlan(
        {"zero_optimization": zero}
    )


def test_without_either_setting_nothing_is_sharded(tmp_path: Path) -> None:
    assert plan(tmp_path, "seed: 0", "not even JSON") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{'stage': 2}", r"ds_config\.json is not JSON \(Expecting property name.*mend it"),
        ([2], r"ds_config\.json: DeepSpeed's file is an object"),
        ({"zero_optimization": 2}, r"zero_optimization in it one too"),
        (
            {"zero_optimization": {"stage": 4}},
            r"ds_config\.json: zero_optimization\.stage is 4: use one of 0, 1, 2, 3",
        ),
        ({"zero_optimization": {"stage": "two"}}, r"zero_optimization\.stage is 'two'"),
        (
            {"tensor_parallel": {"autotp_size": 2}},
            r"ds_config\.json: tensor_parallel\.autotp_size is 2, .*by ZeRO alone: remove it",
        ),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size is 2, "),
        ({"expert_parallel": {"autoep_size": 4}}, r"expert_parallel\.autoep_size is 4, "),
        (
            {"zero_optimization": {"stage": 3, "mics_shard_size": 2}},
            r"zero_optimization\.mics_shard_size is 2, ",
        ),
        (None, r"deepspeed_config_path: .*mine/ds_config\.json does not exist"),
    ],
)
def test_a_file_that_will_not_do_is_refused_when_the_assistant_is_read(
    tmp_path: Path, content: Any, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        plan(tmp_path, ENABLED, content)


def test_a_file_that_asks_for_zero_alone_is_taken_whatever_else_it_names(tmp_path: Path) -> None:
    asked = {"tensor_parallel": {"autotp_size": 0}, "sequence_parallel_size": 1}
    assert plan(tmp_path, ENABLED, {**asked, "zero_optimization": {"stage": 2}}).stage == 2


def test_the_originals_path_finds_the_file_in_the_folder(tmp_path: Path) -> None:
    path = "deepspeed_config_path: ./artifacts/config/ds_config.json"
    found = plan(tmp_path, f"actor_config: {{deepspeed_enable: true, {path}}}", ORIGINAL)
    assert found.stage == 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("deepspeed_enable: true, zero_stage: 3", "zero_stage 3 with offload none says it once"),
        ("zero_stage: 2, offload: all", "offload: all needs zero_stage 3 or more, it is 2"),
        ("offload: optimizer", "offload: optimizer needs zero_stage 1 or more, it is 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, config: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        plan(tmp_path, f"actor_config: {{{config}}}", ORIGINAL)
