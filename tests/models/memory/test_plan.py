from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks.memory.stages import RAGGED_STEPS, USED, Bench, make_inputs
from chatllama_pipeline import machine
from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.machine import container_free_bytes
from chatllama_pipeline.models.adapters.lora import add_adapter
from chatllama_pipeline.models.heads import load_actor, pad_right
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.passes import layer_floats
from chatllama_pipeline.models.memory.plan import (
    MemoryPlan,
    as_check,
    memory_plan,
    require_memory,
    with_micro_batch,
)
from chatllama_pipeline.models.memory.sizes import model_size
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan

SETTINGS = AssistantSettings.model_validate(
    {
        "actor_config": {"batch_size": 8, "micro_batch_size": 2, "max_sequence_length": 10},
        "reward_config": {"batch_size": 2, "max_sequence_length": 10},
        "trainer_config": {"micro_batch_size": 4},
    }
)


def make_folder(folder: Path, shapes: dict[str, list[int]]) -> Path:
    """Hidden 6, feed-forward 10, 3 layers, 50 ids, and a header of those tensors without data."""
    tensors = {name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    config = {"hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3, "vocab_size": 50}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 1,000 weights."""
    return make_folder(tmp_path, {"a": [50, 10], "b": [500]})


@pytest.fixture(autouse=True)
def allocator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the process is said to have loaded: an allocator that leaves no holes."""
    loaded = tmp_path / "maps"
    loaded.write_text("7f00-7f01 r-xp 0 00:00 0 /usr/lib/libmimalloc.so\n")
    monkeypatch.setattr(machine, "OWN_LIBRARIES", loaded)
    return loaded


def plan_of(
    stage: str,
    folders: dict[str, Path],
    settings: AssistantSettings,
    longest_row: int | None = None,
    device: str = "cpu",
) -> MemoryPlan:
    """The plan by the means of this machine."""
    return memory_plan(stage, folders, settings, Means.of(stage, settings, device), longest_row)


def free_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    memory = namedtuple("memory", "available")(count)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def test_sft_needs_sixteen_bytes_a_weight_and_its_activations(folder: Path) -> None:
    plan = plan_of("actor_sft", {"actor": folder}, SETTINGS)
    assert sum(plan.held.values()) == 16 * 1000
    # 2 rows x 10 tokens; a token keeps 3 layers x (10 x 6 + 4 x 10) + 3 x 50 logits = 450 floats,
    # and as much as one layer's passes in the backward pass.
    assert sum(plan.phases["training"].values()) == 20 * 550 * 4


def test_the_largest_phase_is_the_peak_and_is_named(folder: Path) -> None:
    plan = plan_of("actor_sft", {"actor": folder}, SETTINGS)
    # Validation reads 64 rows x 10 tokens at once: one layer's 100 floats, and 150 of logits.
    assert sum(plan.phases["validation"].values()) == 640 * 250 * 4
    assert plan.phase == "validation"
    assert plan.needed_bytes == sum(plan.parts.values()) == 16 * 1000 + 640 * 250 * 4
    whole = SETTINGS.actor_config.model_copy(update={"batch_size": 64, "micro_batch_size": 64})
    larger = SETTINGS.model_copy(update={"actor_config": whole})
    plan = plan_of("actor_sft", {"actor": folder}, larger)
    assert plan.phase == "training"
    assert "most in training (actor activations" in as_check("actor_sft", plan).description


def test_a_model_with_many_words_validates_on_few_rows_at_once(tmp_path: Path) -> None:
    config = {"hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3}
    make_folder(tmp_path, {"a": [50, 10]})
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 50_000}))
    settings = AssistantSettings.model_validate({"actor_config": {"max_sequence_length": 256}})
    plan = plan_of("actor_sft", {"actor": tmp_path}, settings)
    # A row's logits alone are 256 x 3 x 50,000 floats = 154 MB: one row is all that is small.
    assert sum(plan.phases["validation"].values()) == 256 * (100 + 3 * 50_000) * 4


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


def test_a_pair_is_two_rows_and_a_reward_model_has_no_logits(folder: Path) -> None:
    plan = plan_of("reward_model", {"reward": folder}, SETTINGS)
    assert sum(plan.held.values()) == 16 * 1000
    assert plan.phases["training"] == {"reward activations": 2 * 2 * 10 * 400 * 4}
    assert plan.phases["scoring"] == {"layers": 64 * 10 * 100 * 4}


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


def test_holes_count_where_glibc_hands_out_memory(folder: Path, allocator: Path) -> None:
    allocator.write_text("7f00-7f01 r-xp 0 00:00 0 /usr/lib/libc.so.6\n")
    training = plan_of("actor_sft", {"actor": folder}, SETTINGS).phases["training"]
    assert training["holes between actor activations"] == training["actor activations"]
    long = SETTINGS.actor_config.model_copy(update={"max_sequence_length": 700_000})
    settings = SETTINGS.model_copy(update={"actor_config": long})
    # Tensors of 2 x 700,000 tokens x 6 floats are 33.6 MB, and mapped one by one.
    plan = plan_of("actor_sft", {"actor": folder}, settings)
    assert "holes between actor activations" not in plan.phases["training"]
    # Nor does the choice of rows, which makes results, go by who hands out the memory.
    assert "holes" not in str(plan_of("actor_sft", {"actor": folder}, SETTINGS, 1, "cuda"))


def test_checkpointing_keeps_a_layer_s_input_and_one_layer(folder: Path) -> None:
    settings = with_checkpointing(True)
    plan = plan_of("actor_sft", {"actor": folder}, settings)
    # 20 tokens x (3 layers x 6 + twice one layer's 10 x 6 + 4 x 10) and 20 x 3 x 50 logits.
    training = plan.phases["training"]
    assert training["actor activations"] == 20 * (18 + 200) * 4
    assert training["actor logits"] == 20 * 150 * 4


@pytest.mark.parametrize(
    ("asked", "free", "chosen"),
    [(None, 10**6, False), (None, 51_999, True), (False, 51_999, False), (True, 10**6, True)],
)
def test_checkpointing_is_chosen_where_memory_is_short_and_nothing_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None, free: int, chosen: bool
) -> None:
    free_bytes(monkeypatch, free)
    plan = plan_of("actor_sft", {"actor": folder}, with_checkpointing(asked))
    assert plan.checkpointing is chosen


def with_checkpointing(asked: bool | None) -> AssistantSettings:
    actor = SETTINGS.actor_config.model_copy(update={"activation_checkpointing": asked})
    return SETTINGS.model_copy(update={"actor_config": actor})


def test_a_container_s_limit_counts_with_the_cache_it_can_give_back(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert container_free_bytes(tmp_path) == 1000 - 700 + 150
    (tmp_path / "memory.max").write_text("max\n")
    assert container_free_bytes(tmp_path) is None
    assert container_free_bytes(tmp_path / "nowhere") is None


KINDS: list[tuple[bool, dict[str, Any]]] = [
    (False, {}),
    (True, {"target_modules": ["q_proj", "v_proj"]}),
    (True, {"target_modules": "all-linear"}),
    (True, {"target_modules": "all-linear", "lora_dropout": 0}),
    (True, {"target_modules": r"model\.layers\.\d+\.mlp\..*_proj"}),
]


@pytest.mark.parametrize(("adapted", "lora"), KINDS)
def test_a_step_on_ragged_rows_keeps_what_the_plan_counts(
    tiny_base_folder: Path, adapted: bool, lora: dict[str, Any]
) -> None:
    settings = AssistantSettings.model_validate(
        {"actor_config": {"batch_size": 8, "peft_enable": adapted, "lora": lora}}
    )
    model = load_actor(tiny_base_folder, torch.float32)
    if adapted:
        add_adapter(model, settings.actor_config.lora, "actor_config", tiny_base_folder, 0)
    lengths = [6, 9, 13, 20, 28, 37, 50, 64]
    ids, mask = pad_right([[5] * length for length in lengths], 0)
    kept: dict[int, int] = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = model.train().base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert found.last_hidden_state.requires_grad
    plan = plan_of("actor_sft", {"actor": tiny_base_folder}, settings, max(lengths))
    size = model_size(tiny_base_folder)
    passing = ids.numel() * layer_floats(size.hidden, size.intermediate) * 4
    planned = plan.phases["training"]["actor activations"] - passing
    assert 0.85 < planned / sum(kept.values()) < 1.25


@pytest.mark.slow
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_each_stage_s_plan_is_within_a_quarter_of_its_measured_peak(
    tmp_path: Path, adapted: bool, ragged: bool
) -> None:
    make_inputs(tmp_path, "small", length=256, rows=8, ragged=ragged)
    bench = Bench(tmp_path, 256, 8, adapted, steps=RAGGED_STEPS if ragged else 2)
    for stage in USED:
        found = bench.run(stage).metrics
        assert 0.85 < found["planned_gib"] / found["peak_gib"] < 1.25, (stage, found)


def test_rows_shorter_than_allowed_need_less(folder: Path) -> None:
    plan = plan_of("actor_sft", {"actor": folder}, SETTINGS, longest_row=5)
    assert sum(plan.phases["training"].values()) == 10 * 550 * 4
    assert sum(plan.phases["validation"].values()) == 64 * 5 * 250 * 4


def test_a_plan_that_fits_passes_as_a_blocking_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, 16 * 1000 + 640 * 250 * 4)
    check, _ = require_memory("actor_sft", {"actor": folder}, SETTINGS, Means())
    assert (check.name, check.passed, check.blocking) == ("memory_plan", True, True)


def test_a_plan_that_does_not_fit_says_what_to_lower(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 16,000 of weights, gradients and Adam, and at 64 rows of 10 tokens 3 x 50 logits a token, and
    # with checkpointing 3 layers' inputs of 6 and twice a layer's 100 floats; one byte is missing.
    free_bytes(monkeypatch, 16_000 + 640 * (150 + 18 + 200) * 4 - 1)
    rows = SETTINGS.actor_config.model_copy(update={"batch_size": 64, "micro_batch_size": 64})
    settings = SETTINGS.model_copy(update={"actor_config": rows})
    with pytest.raises(
        CheckError, match=r"actor_sft needs about .* GiB.*lower actor_config.micro_batch_size"
    ):
        require_memory("actor_sft", {"actor": folder}, settings, Means())


def test_the_plan_and_the_names_of_checks_need_no_torch() -> None:
    program = (
        "import sys; import chatllama_pipeline.models.memory.plan, chatllama_pipeline.training; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


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
