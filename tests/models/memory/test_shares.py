"""What each of several processes takes: by DeepSpeed's stages, and where they share a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import memory_plan
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan
from tests.models.memory.plans import SETTINGS, free_bytes, plan_of

pytestmark = pytest.mark.usefixtures("allocator")


@pytest.mark.parametrize(
    ("zero_stage", "weight", "rest"),
    # Of 1,000 weights: 4 bytes each, 4 of gradient and 8 of moments, over 4 processes.
    [(0, 4000, 12000), (1, 4000, 4000 + 2000), (2, 4000, 1000 + 2000), (3, 1000, 1000 + 2000)],
)
def test_what_deepspeed_shards_counts_by_its_share(
    folder: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int, weight: int, rest: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    settings = AssistantSettings.model_validate({"actor_config": {"zero_stage": zero_stage}})
    plan = plan_of("actor_sft", {"actor": folder}, settings, 10)
    assert plan.held["actor weights"] == weight
    assert plan.held["actor gradients and Adam"] == rest
    # What is validated is whole in every process.
    others = plan.phases["validation"].get("actor weights of others", 0)
    assert weight + others == 4000


def test_an_adapter_stands_on_weights_that_processes_share_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    section = {"zero_stage": 3, "peft_enable": True}
    settings = AssistantSettings.model_validate({"actor_config": section})
    assert plan_of("actor_sft", {"actor": folder}, settings, 10).held["actor weights"] == 1000


@pytest.mark.parametrize(
    ("device", "frozen"),
    [("cpu", {"reference": 1000, "reward": 1000}), ("nvme", {"reference": 4000})],
)
def test_models_that_ppo_only_reads_are_shared_out_unless_weights_stand_in_files(
    folder: Path, device: str, frozen: dict[str, int]
) -> None:
    zero = {"stage": 3, "offload_param": {"device": device}}
    means = Means(processes=4, here=4, deepspeed=DeepSpeedPlan({"zero_optimization": zero}))
    roles = dict.fromkeys(("policy", "reference", "critic", "reward"), folder)
    plan = memory_plan("actor_ppo", roles, SETTINGS, means, 10)
    held = {role: plan.held[f"{role} weights"] for role in roles if f"{role} weights" in plan.held}
    assert held == {"policy": 1000, "critic": 1000, **frozen}
    # One model after the other is whole in every process, but the policy and its critic together.
    both = {"policy weights of others": 3000, "critic weights of others": 3000}
    assert both.items() <= plan.phases["rollout"].items()
    assert both.items() <= plan.phases["score pass"].items()
    assert plan.phases["scoring"]["reward weights of others"] == 3000


@pytest.mark.parametrize(
    ("stage", "device", "rest"),
    # At stage 0 DeepSpeed has no part in this, whatever else its file says.
    [(2, "cuda", 4000), (2, "cpu", 12000), (0, "cuda", 12000)],
)
def test_moments_that_deepspeed_keeps_in_the_main_memory_take_none_of_the_gpu(
    folder: Path, stage: int, device: str, rest: int
) -> None:
    zero = {"stage": stage, "offload_optimizer": {"device": "cpu"}}
    means = Means(device, deepspeed=DeepSpeedPlan({"zero_optimization": zero}))
    parts = memory_plan("actor_sft", {"actor": folder}, SETTINGS, means, 10).held
    assert parts["actor gradients and Adam"] == rest


def test_processes_on_a_cpu_share_what_is_free_and_the_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, 8000)
    settings = AssistantSettings.model_validate({"actor_config": {"batch_size": 8}})
    alone = plan_of("actor_sft", {"actor": folder}, settings, 10)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    shared = plan_of("actor_sft", {"actor": folder}, settings, 10)
    assert shared.available_bytes == alone.available_bytes // 2
    half = alone.phases["training"]["actor activations"] // 2
    assert shared.phases["training"]["actor activations"] == half
