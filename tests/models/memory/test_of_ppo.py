"""What PPO's roles take, and how many rows it reads at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import require_memory, with_micro_batch
from chatllama_pipeline.settings import AssistantSettings
from tests.models.memory.plans import SETTINGS, free_bytes, make_folder, plan_of

pytestmark = pytest.mark.usefixtures("allocator")


def test_a_rollout_s_caches_count_and_the_cure_names_their_setting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AssistantSettings.model_validate(
        {
            "actor_config": {"max_sequence_length": 10, "max_tokens": 4},
            "trainer_config": {
                **{"num_examples": 1000, "update_timesteps": 10, "max_timesteps": 10},
                **{"batch_size": 1, "micro_batch_size": 1},
            },
        }
    )
    roles = dict.fromkeys(("policy", "reference", "critic", "reward"), folder)
    plan = plan_of("actor_ppo", roles, settings)
    # 10,000 replies: 10 tokens x 3 layers x 2 x 6 in the cache, 6 x 100 of a layer that reads the
    # prompt, and 6 x 50 for the next token.
    assert plan.phases["rollout"] == {"caches and logits": 10_000 * (360 + 600 + 300) * 4}
    assert plan.phase == "rollout"
    free_bytes(monkeypatch, 10**6)
    with pytest.raises(CheckError, match=r"lower trainer_config\.rollout_batch_size"):
        require_memory("actor_ppo", roles, settings, Means())
    settings = settings.model_copy(
        update={
            "trainer_config": settings.trainer_config.model_copy(update={"rollout_batch_size": 4})
        }
    )
    plan = plan_of("actor_ppo", roles, settings)
    assert plan.phases["rollout"] == {"caches and logits": 4 * (360 + 600 + 300) * 4}


def test_ppo_trains_two_roles_and_holds_two_frozen_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = dict.fromkeys(("policy", "reference"), folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("other"))
    with (other / "model.safetensors").open("ab") as file:
        file.write(b"other weights")
    roles |= dict.fromkeys(("critic", "reward"), other)
    plan = plan_of("actor_ppo", roles, SETTINGS)
    assert sum(plan.held.values()) == (16 + 16 + 4 + 4) * 1000
    # One after the other in one process, both at once in several.
    assert sum(plan.phases["the policy's update"].values()) == 4 * 10 * 550 * 4
    assert sum(plan.phases["the critic's update"].values()) == 4 * 10 * 400 * 4
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = plan_of("actor_ppo", roles, SETTINGS)
    assert sum(plan.phases["training"].values()) == 4 * 10 * (550 + 400) * 4


def test_with_adapters_ppo_holds_one_base_and_trains_little(tmp_path: Path) -> None:
    make_folder(tmp_path, {"model.layers.0.q_proj.weight": [20, 30], "embed.weight": [50, 8]})
    settings = AssistantSettings.model_validate(
        {
            "actor_config": {"peft_enable": True, "lora": {"r": 2}},
            "critic_config": {"lora": {"r": 4}},
        }
    )
    roles = dict.fromkeys(("policy", "reference", "critic", "reward"), tmp_path)
    parts = plan_of("actor_ppo", roles, settings, longest_row=10).parts
    assert sum(size for name, size in parts.items() if "weights" in name) == 4 * 1000
    # Rank x (20 + 30) in the only layer that is targeted; weights, gradients and two moments.
    assert (parts["policy adapter"], parts["critic adapter"]) == (16 * 2 * 50, 16 * 4 * 50)


@pytest.mark.parametrize(
    ("weights", "asked", "device", "processes", "chosen"),
    [
        (500, None, "cpu", 1, 3),
        (500, None, "cpu", 2, 3),
        (500, None, "cpu", 4, None),  # a share of 3 rows is small enough
        (500, 12, "cpu", 1, 12),
        (500, None, "cuda", 1, None),
        (10**8, None, "cpu", 1, None),  # the weights weigh more
    ],
)
def test_on_a_cpu_ppo_reads_as_many_rows_as_do_not_outweigh_what_is_held(
    tmp_path: Path, weights: int, asked: int | None, device: str, processes: int, chosen: int | None
) -> None:
    folder = make_folder(tmp_path, {"a": [weights]})
    settings = AssistantSettings.model_validate(
        {
            "actor_config": {"max_sequence_length": 30_000},
            "trainer_config": {
                **{"update_timesteps": 12, "max_timesteps": 12},
                "micro_batch_size": asked,
            },
        }
    )
    roles = dict.fromkeys(("policy", "reference", "critic", "reward"), folder)
    # A row of 30,000 tokens takes 66 MB of the policy: 12, then 6 are more than 256 MiB.
    fitted = with_micro_batch(roles, settings, Means(device, processes), 30_000)
    assert fitted.trainer_config.micro_batch_size == chosen
    assert settings.trainer_config.micro_batch_size == asked
