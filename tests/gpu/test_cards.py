"""What only a GPU can show: `pytest -m gpu`, with a torch built for CUDA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from chatllama_pipeline.gpus import usable_gpus
from chatllama_pipeline.launch.leases import Rules, lease_gpus
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.machine import free_bytes, wants_bfloat16
from chatllama_pipeline.models.adapters.lora import switch_adapter
from chatllama_pipeline.models.families.cached import Cached
from chatllama_pipeline.models.families.recorded import (
    Recorded,
    can_record,
    record_on_gpu,
    same,
)
from chatllama_pipeline.models.heads import RewardScorer, load_actor
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec, user_prompt
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.serving import loaded
from chatllama_pipeline.serving.engine import sharded
from chatllama_pipeline.serving.engine.ways import Way, open_release
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.training.ppo import stage as ppo
from chatllama_pipeline.training.ppo.roles import load_roles
from chatllama_pipeline.training.ppo.rollout import pad_left
from chatllama_pipeline.training.reward import stage as reward
from chatllama_pipeline.training.sft import stage as sft
from chatllama_pipeline.training.terms.precision import in_bfloat16
from tests.serving.engine.test_ways import assert_as_generate
from tests.serving.served import lively, publish
from tests.tiny import WORDS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

TRAINING = {
    "model": "local",
    "peft_enable": True,
    "max_sequence_length": 64,
    "batch_size": 4,
    "lr": 0.02,
    "max_steps": 12,
    "evaluations": 1,
}
SETTINGS: dict[str, Any] = {
    "actor_config": {**TRAINING, "max_tokens": 6},
    "reward_config": {**TRAINING, "objective": "pairwise"},
    "trainer_config": {
        "actor_lr": 0.01,
        "critic_lr": 0.01,
        "update_timesteps": 8,
        "max_timesteps": 8,
        "num_episodes": 3,
        "batch_size": 4,
        "update_kl_limit": 10.0,
    },
}
IDS = torch.tensor([[3, 70, 71, 4, 90, 91]])
COLUMNS = 40


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory, write_table: Any) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("gpu_tables")
    rows = [
        {"prompt": [{"role": "user", "content": w}], "source": "test", "split": "train"}
        for w in WORDS
    ]
    pair = {"chosen": "alpha", "rejected": "hotel hotel", "strength": 1.0, "domain": ""}
    tables = {
        "actor_training_data": ([{**row, "completion": "golf golf"} for row in rows], ACTOR_SCHEMA),
        "preference_data": ([{**row, **pair} for row in rows], PREFERENCE_SCHEMA),
        "reward_training_data": ([], REWARD_SCHEMA),
        "rlhf_training_data": (rows, PROMPT_SCHEMA),
    }
    return {name: write_table(root / name, *made) for name, made in tables.items()}


@pytest.fixture
def run_stage(tmp_path: Path, tables: dict[str, Path]) -> Callable[..., Any]:
    """Runs a stage on the GPU; its outcome and its folder."""
    stages = {"actor_sft": sft.run, "reward_model": reward.run, "actor_ppo": ppo.run}

    def run(stage: str, settings: dict[str, Any], **inputs: Path) -> tuple[Any, Path]:
        output = tmp_path / stage
        output.mkdir()
        spec = StageSpec(
            stage=stage,
            assistant="gpu",
            settings=settings,
            inputs={name: str(path) for name, path in (tables | inputs).items()},
            output=str(output),
            run_folder=str(tmp_path / f"{stage}_run"),
            result=str(tmp_path / f"{stage}.json"),
            device="cuda",
            readable=ASSETS[stage].readable,
        )
        outcome = stages[stage](spec, Progress(stage, lambda line: None))
        failed = [check for check in outcome.checks if check.blocking and not check.passed]
        assert not failed, outcome.checks
        return outcome, output

    return run


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS.to(model.device)).logits
    return found.cpu()


def test_auto_is_bfloat16_where_the_card_multiplies_in_it() -> None:
    assert wants_bfloat16("auto", "cuda") is (torch.cuda.get_device_capability()[0] >= 8)


def test_the_free_memory_that_the_plan_counts_with_is_the_card_s() -> None:
    free, total = torch.cuda.mem_get_info()
    assert 0 < free_bytes("cuda") <= total
    assert abs(free_bytes("cuda") - free) < 0.1 * total


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sft_learns_in_either_precision(
    run_stage: Callable[..., Any], tiny_base_folder: Path, precision: str
) -> None:
    actor = {**SETTINGS["actor_config"], "peft_enable": False, "precision": precision}
    outcome, folder = run_stage("actor_sft", {"actor_config": actor}, actor_base=tiny_base_folder)
    (loss,) = (curve.points for curve in outcome.curves if curve.name == "loss")
    assert loss[-1][1] < loss[0][1] - 1
    # Weights are kept in float32 whatever the products are computed in.
    assert load_actor(folder, torch.float32).dtype == torch.float32


def test_four_roles_on_one_base_learn_and_stay_exact(
    run_stage: Callable[..., Any], tiny_base_folder: Path
) -> None:
    _, actor = run_stage("actor_sft", SETTINGS, actor_base=tiny_base_folder)
    _, scorer = run_stage("reward_model", SETTINGS, reward_base=tiny_base_folder)
    settings = AssistantSettings.model_validate(SETTINGS)
    roles = load_roles(actor, scorer, scorer, settings, 0, "cuda")
    assert len(roles.sharing) == 1
    models = (roles.policy, roles.reference, roles.critic, roles.reward)
    assert len({m.get_input_embeddings().weight.data_ptr() for m in models}) == 1
    assert all(m.get_input_embeddings().weight.is_cuda for m in models)
    switch_adapter(roles.policy, False)
    base = load_actor(tiny_base_folder, torch.float32).cuda()
    assert torch.equal(logits(roles.policy), logits(base))
    asked, replies = [user_prompt("alpha")], ["golf"]
    alone = RewardScorer(scorer, "cuda")(asked, replies)
    assert torch.equal(alone, RewardScorer(scorer, model=roles.reward)(asked, replies))

    outcome, written = run_stage("actor_ppo", SETTINGS, actor_sft=actor, reward_model=scorer)
    assert outcome.metrics["iterations"] == 3
    first_kl = next(curve for curve in outcome.curves if curve.name == "kl").points[0][1]
    assert abs(first_kl) < 1e-2  # rollout and reference round apart in bfloat16
    moved = logits(load_actor(written, torch.float32)) - logits(load_actor(actor, torch.float32))
    assert moved.abs().max() > 1e-3


def test_a_reward_model_is_read_in_bfloat16_where_it_scores_as_in_float32(
    run_stage: Callable[..., Any], tiny_base_folder: Path
) -> None:
    _, folder = run_stage("reward_model", SETTINGS, reward_base=tiny_base_folder)
    scorer, said = RewardScorer(folder, "cuda"), list[str]()
    asked, replies = [user_prompt(word) for word in WORDS], WORDS
    rounded = in_bfloat16(scorer, asked, Progress("test", said.append))
    assert "the reward model scores in bfloat16" in said[-1]
    exact, found = scorer(asked, replies), rounded(asked, replies)
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0)


def test_a_lease_names_the_card_that_is_there(tmp_path: Path) -> None:
    there = usable_gpus()
    assert len(there) == torch.cuda.device_count()
    cards = [torch.cuda.get_device_properties(number) for number in range(len(there))]
    assert {gpu.id for gpu in there} == {f"GPU-{card.uuid}" for card in cards}
    rules = Rules(tmp_path, least_free=0.0)
    with lease_gpus(usable_gpus, 1, "a test", lambda line: None, rules) as lease:
        assert lease.ids[0] in {gpu.id for gpu in there}


def test_the_tokenizer_s_pad_stays_out_of_the_loss_on_the_card(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32).cuda()
    pad = AutoTokenizer.from_pretrained(tiny_base_folder).pad_token_id
    rows = [sft.Example([3, 40, 4, 50, 1], 3), sft.Example([3, 40, 41, 42, 43, 4, 60, 1], 6)]
    sums = []
    for group in ([rows[0]], rows):
        batch = sft.collate_completions(group, pad)
        del batch["weight"]
        on_card = {name: value.cuda() for name, value in batch.items()}
        sums.append(sft.completion_loss_sum(model, on_card).item())
    alone = sft.collate_completions([rows[1]], pad)
    del alone["weight"]
    rest = sft.completion_loss_sum(model, {name: v.cuda() for name, v in alone.items()}).item()
    assert sums[1] == pytest.approx(sums[0] + rest, rel=1e-3)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_recorded_step_says_what_the_general_way_says(
    tiny_base_folder: Path, precision: torch.dtype
) -> None:
    model = load_actor(tiny_base_folder, precision).cuda()
    ids, mask = (columns.cuda() for columns in pad_left([[5, 9, 31], [40, 41, 42, 43], [7]], 1))
    assert can_record(model)
    recorded, general = Recorded(model, ids, mask, COLUMNS), Cached(model, ids, mask, COLUMNS)
    tokens = torch.randint(4, 200, (COLUMNS, 3), device="cuda")
    rows = torch.arange(3, device="cuda")
    for column in range(COLUMNS):
        assert same(recorded.next_logits(), general.next_logits())
        for growing in (recorded, general):
            growing.append(tokens[column, rows])
            if column in (1, 20):
                growing.keep(torch.arange(len(rows) - 1, device="cuda"))
        rows = rows[:-1] if column in (1, 20) else rows
    assert recorded.is_recorded


@torch.inference_mode()
def test_a_step_that_waits_for_the_card_is_not_recorded(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32).cuda()
    weight = model.get_input_embeddings().weight
    assert record_on_gpu(lambda: weight * weight.sum().item()) is None
    doubled = record_on_gpu(lambda: weight * 2)
    assert doubled is not None
    assert torch.equal(doubled(), weight * 2)


@pytest.mark.parametrize("held", ["gpu", "cpu"])
def test_zero_3_writes_what_generate_does_wherever_the_weights_stand(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed isn't installed")
    folder = publish(Store(tmp_path / "store"), lively(tiny_base_folder, tmp_path, 0), held).path
    if held == "cpu":
        monkeypatch.setattr(sharded, "free_bytes", lambda device: 10)
    opened = open_release(folder, 2, Way("deepspeed", processes=1))
    try:
        assert ("main memory" if held == "cpu" else "on the GPU") in opened[1].name
        assert_as_generate(opened, folder)
    finally:
        opened[1].close()


def test_keys_and_values_that_stand_in_main_memory_give_what_generate_does(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(Store(tmp_path / "store"), lively(tiny_base_folder, tmp_path, 0), "off").path
    free = loaded.free_bytes
    # Room for a layer on the GPU, and not for the model.
    monkeypatch.setattr(
        loaded, "free_bytes", lambda device: 700_000 if device == "cuda" else free(device)
    )
    opened = open_release(folder, 4, Way("offload"))
    try:
        assert {0, "cpu"} <= set(opened[0].model.hf_device_map.values())
        assert_as_generate(opened, folder)
    finally:
        opened[1].close()
