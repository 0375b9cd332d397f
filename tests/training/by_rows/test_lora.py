"""LoRA in every stage: what it trains, what the four roles of PPO share, and what stays exact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.models.adapters.lora import is_adapted, switch_adapter
from chatllama_pipeline.models.heads import RewardScorer, load_actor, load_reward
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec, user_prompt
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.ppo import stage as ppo
from chatllama_pipeline.training.ppo.roles import Roles, load_roles
from chatllama_pipeline.training.reward import stage as reward
from chatllama_pipeline.training.sft import stage as sft
from tests.tiny import QUIET, WORDS, MakeSpec, hashes, pair, row
from tests.training.resume.kills import assert_same_when_killed

SETTINGS: dict[str, Any] = {
    "actor_config": {
        "model": "local",
        "peft_enable": True,
        "max_sequence_length": 64,
        "max_tokens": 6,
        "batch_size": 4,
        "lr": 0.05,
        "max_steps": 12,
        "evaluations": 1,
        "checkpoint_steps": 5,
    },
    "reward_config": {
        "model": "local",
        "peft_enable": True,
        "objective": "pairwise",
        "max_sequence_length": 64,
        "batch_size": 4,
        "lr": 0.02,
        "max_steps": 12,
        "evaluations": 1,
    },
    "trainer_config": {
        "actor_lr": 0.01,
        "critic_lr": 0.01,
        "update_timesteps": 4,
        "max_timesteps": 4,
        "num_episodes": 4,
        "batch_size": 2,
        "epochs": 1,
        "checkpoint_steps": 8,
        "update_kl_limit": 10.0,
    },
}
IDS = torch.tensor([[3, 70, 71, 4, 90, 91]])
TALK = [user_prompt("alpha"), user_prompt("golf hotel")]
REPLIES = ["alpha alpha", "hotel"]


def changed(section: str, **keys: Any) -> dict[str, Any]:
    return {**SETTINGS, section: {**SETTINGS[section], **keys}}


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory, write_table: Any) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lora_tables")
    rows = [row(word, completion=f"{word} {word}") for word in WORDS]
    rows.append(row("kilo", "validation", completion="kilo kilo"))
    pairs = [pair(word, "alpha", "zulu zulu") for word in WORDS]
    pairs.append(pair("kilo", "alpha", "zulu zulu", "validation"))
    tables = {
        "actor_training_data": (rows, ACTOR_SCHEMA),
        "preference_data": (pairs, PREFERENCE_SCHEMA),
        "reward_training_data": ([], REWARD_SCHEMA),
        "rlhf_training_data": ([row(word) for word in WORDS], PROMPT_SCHEMA),
    }
    return {name: write_table(root / name, *made) for name, made in tables.items()}


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path, tables: dict[str, Path]
) -> dict[str, Path]:
    """Version folders of an SFT actor and a reward model, each an adapter on the tiny base."""
    root = tmp_path_factory.mktemp("lora_trained")
    inputs = {"actor_base": tiny_base_folder, "reward_base": tiny_base_folder, **tables}
    folders = {}
    for stage, run in (("actor_sft", sft.run), ("reward_model", reward.run)):
        output = root / stage
        output.mkdir()
        spec = StageSpec(
            stage=stage,
            assistant="tiny",
            settings=SETTINGS,
            inputs={name: str(path) for name, path in inputs.items()},
            output=str(output),
            run_folder=str(root / f"{stage}_run"),
            result=str(root / f"{stage}.json"),
            readable=ASSETS[stage].readable,
        )
        outcome = run(spec, QUIET)
        assert all(check.passed for check in outcome.checks)
        folders[stage] = output
    return folders


@pytest.fixture
def roles(trained: dict[str, Path]) -> Roles:
    return roles_of(trained["actor_sft"], trained["reward_model"])


def roles_of(actor: Path, scorer: Path, settings: dict[str, Any] = SETTINGS) -> Roles:
    validated = AssistantSettings.model_validate(settings)
    return load_roles(actor, scorer, scorer, validated, seed=3, device="cpu")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def distinct_bytes(*models: Any) -> int:
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for model in models
        for p in model.parameters()
    }
    return sum(storages.values())


def test_sft_moves_the_adapter_and_leaves_the_base(
    trained: dict[str, Path], tiny_base_folder: Path
) -> None:
    folder = trained["actor_sft"]
    before, after = (
        logits(load_actor(tiny_base_folder, torch.float32)),
        logits(load_actor(folder, torch.float32)),
    )
    assert (after - before).abs().max() > 0.1
    assert (
        hashes(folder / "base")["model.safetensors"]
        == (hashes(tiny_base_folder)["model.safetensors"])
    )


def test_sft_with_an_adapter_killed_and_continued_ends_in_the_same_bytes(
    make_spec: MakeSpec, tiny_base_folder: Path, tables: dict[str, Path]
) -> None:
    # Dropout in the adapter is on: its random numbers must come back as well.
    assert AssistantSettings.model_validate(SETTINGS).actor_config.lora.lora_dropout == 0.1
    inputs = {"actor_base": tiny_base_folder, **tables}
    whole = make_spec("actor_sft", SETTINGS, inputs, "whole")
    sft.run(whole, QUIET)
    cut = make_spec("actor_sft", SETTINGS, inputs, "cut")

    def kill(line: str) -> None:
        if "step 8/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sft.run(cut, Progress("sft", kill, every_seconds=0.0))
    state = max(Path(cut.run_folder).rglob("weights.pt"))
    # 2,048 adapter weights of 4 bytes, and headers: the base is not saved again and again.
    assert state.stat().st_size < 2048 * 4 + 4096
    sft.run(cut, QUIET)
    assert hashes(whole.output) == hashes(cut.output)


def test_a_reward_model_s_adapter_learns_to_tell_replies_apart(trained: dict[str, Path]) -> None:
    scorer = RewardScorer(trained["reward_model"])
    good, bad = scorer([user_prompt("kilo")] * 2, ["alpha", "zulu zulu"]).tolist()
    assert good > bad
    assert scorer.scale != 1.0


def test_four_roles_hold_one_set_of_base_weights(roles: Roles, tiny_base_folder: Path) -> None:
    assert roles.sharing == [["reference", "policy", "critic", "reward"]]
    embeddings = {id(model.get_input_embeddings().weight) for model in _all(roles)}
    assert len(embeddings) == 1
    base = distinct_bytes(load_actor(tiny_base_folder, torch.float32))
    # Four adapters of 2,048 weights and two heads of 32, 4 bytes each.
    assert distinct_bytes(*_all(roles)) == base + 4 * (4 * 2048 + 2 * 32)


def _all(roles: Roles) -> list[Any]:
    return [roles.policy, roles.reference, roles.critic, roles.reward]


def test_the_reference_is_the_sft_adapter_and_kl_starts_at_zero(
    roles: Roles, trained: dict[str, Path]
) -> None:
    expected = logits(load_actor(trained["actor_sft"], torch.float32))
    assert torch.equal(logits(roles.reference), expected)
    assert torch.equal(logits(roles.policy), expected)
    assert not any(parameter.requires_grad for parameter in roles.reference.parameters())


def test_the_reward_role_gives_the_scores_of_the_reward_model_alone(
    roles: Roles, trained: dict[str, Path]
) -> None:
    alone = RewardScorer(trained["reward_model"])(TALK, REPLIES)
    shared = RewardScorer(trained["reward_model"], model=roles.reward)(TALK, REPLIES)
    assert torch.equal(alone, shared)
    assert roles.critic.config.chatllama_score_scale == roles.reward.config.chatllama_score_scale


@pytest.fixture
def ppo_spec(
    make_spec: MakeSpec, trained: dict[str, Path], tables: dict[str, Path]
) -> Callable[..., StageSpec]:
    def make(take: str = "a", settings: dict[str, Any] = SETTINGS, **inputs: Path) -> StageSpec:
        return make_spec("actor_ppo", settings, trained | tables | inputs, take)

    return make


def test_ppo_moves_policy_and_critic_and_neither_reference_reward_nor_base(
    ppo_spec: Callable[..., StageSpec],
    trained: dict[str, Path],
    tiny_base_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Roles] = []

    def remember(*arguments: Any, **named: Any) -> Roles:
        seen.append(load_roles(*arguments, **named))
        return seen[0]

    monkeypatch.setattr(ppo, "load_roles", remember)
    spec = ppo_spec()
    outcome = ppo.run(spec, QUIET)
    assert outcome.warnings == []
    (after,) = seen
    first_kl = next(curve for curve in outcome.curves if curve.name == "kl").points[0][1]
    assert first_kl == pytest.approx(0, abs=1e-6)

    sft_logits = logits(load_actor(trained["actor_sft"], torch.float32))
    assert torch.equal(logits(after.reference), sft_logits)
    assert (logits(after.policy) - sft_logits).abs().max() > 1e-3
    alone = RewardScorer(trained["reward_model"])(TALK, REPLIES)
    shared = RewardScorer(trained["reward_model"], model=after.reward)(TALK, REPLIES)
    assert torch.equal(alone, shared)
    switch_adapter(after.policy, False)
    base = logits(load_actor(tiny_base_folder, torch.float32))
    assert torch.equal(logits(after.policy), base)
    switch_adapter(after.policy, True)

    written = load_actor(spec.output, torch.float32)
    assert is_adapted(written) and torch.equal(logits(written), logits(after.policy))
    critic = load_reward(Path(spec.output) / "critic", torch.float32)
    assert torch.equal(critic.score.weight, after.critic.score.weight)
    assert not torch.equal(
        critic.score.weight, load_reward(trained["reward_model"], torch.float32).score.weight
    )


@pytest.mark.parametrize("trunk", ["own", "shared"])
def test_ppo_with_adapters_killed_and_continued_ends_in_the_same_bytes(
    ppo_spec: Callable[..., StageSpec], trunk: str
) -> None:
    settings = {**SETTINGS, "critic_config": {"trunk": trunk}}
    whole, cut = ppo_spec("whole", settings), ppo_spec("cut", settings)
    assert_same_when_killed(
        ppo.run, whole, cut, at="step 3/4", continued="continues after iteration 2"
    )
    # A head on the actor leaves its adapter as it would be written without one.
    adapter = set(load_file(Path(whole.output) / "adapter_model.safetensors"))
    assert adapter and all(".lora_" in name for name in adapter)


def test_where_bases_differ_roles_fall_back_to_sets_of_their_own_and_say_so(
    ppo_spec: Callable[..., StageSpec], trained: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other_reward"
    shutil.copytree(trained["reward_model"], other)
    model = AutoModelForCausalLM.from_pretrained(other / "base")
    with torch.no_grad():
        model.model.norm.weight.mul_(1.01)
    (other / "base" / "model.safetensors").unlink()
    model.save_pretrained(other / "base")
    settings = changed("trainer_config", num_episodes=1)
    outcome = ppo.run(ppo_spec(settings=settings, reward_model=other), QUIET)
    assert outcome.warnings == [
        "not all models stand on one base: reference and policy share one set of base "
        "weights; critic and reward share one set of base weights; for one set of weights give "
        "actor_config and reward_config the same model and peft_enable: true"
    ]


def test_where_sft_trained_no_adapter_the_reference_is_the_adapter_off(
    tiny_base_folder: Path, trained: dict[str, Path]
) -> None:
    roles = roles_of(tiny_base_folder, trained["reward_model"])
    plain = logits(load_actor(tiny_base_folder, torch.float32))
    assert is_adapted(roles.policy) and not is_adapted(roles.reference)
    assert torch.equal(logits(roles.reference), plain)
    assert torch.equal(logits(roles.policy), plain)  # a fresh adapter changes nothing yet
    assert roles.sharing == [["reference", "policy", "critic", "reward"]]


def test_without_sharing_every_role_has_weights_of_its_own_and_the_same_outputs(
    roles: Roles, trained: dict[str, Path]
) -> None:
    validated = AssistantSettings.model_validate(SETTINGS)
    actor, scorer = trained["actor_sft"], trained["reward_model"]
    apart = load_roles(actor, scorer, scorer, validated, 3, "cpu", share=False)
    assert apart.sharing == [["reference"], ["policy"], ["critic"], ["reward"]]
    assert len({m.get_input_embeddings().weight.data_ptr() for m in _all(apart)}) == 4
    assert torch.equal(logits(apart.policy), logits(roles.policy))


def test_roles_trained_whole_start_from_merged_adapters_and_share_nothing(
    trained: dict[str, Path],
) -> None:
    settings = changed("trainer_config", peft_enable=False)
    roles = roles_of(trained["actor_sft"], trained["reward_model"], settings)
    assert not is_adapted(roles.policy) and not is_adapted(roles.critic)
    assert all(parameter.requires_grad for parameter in roles.policy.parameters())
    torch.testing.assert_close(logits(roles.policy), logits(roles.reference), atol=1e-4, rtol=1e-4)
    assert roles.sharing == [["reference", "reward"], ["policy"], ["critic"]]


def test_a_whole_reward_model_is_the_base_of_an_adapted_critic(
    trained: dict[str, Path], tiny_base_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = tmp_path / "whole_reward"
    load_reward(tiny_base_folder, torch.float32).save_pretrained(whole)
    roles = roles_of(trained["actor_sft"], whole)
    assert roles.sharing == [["reference", "policy"], ["critic", "reward"]]
    assert torch.equal(roles.critic.score.weight, roles.reward.score.weight)
    assert roles.critic.score.weight.requires_grad and not roles.reward.score.weight.requires_grad


def test_ppo_with_checkpointed_activations_ends_in_the_same_bytes(
    ppo_spec: Callable[..., StageSpec],
) -> None:
    plain = ppo_spec("plain")
    checkpointed = ppo_spec(
        "checkpointed", changed("trainer_config", activation_checkpointing=True)
    )
    for spec in (plain, checkpointed):
        ppo.run(spec, QUIET)
    assert hashes(plain.output) == hashes(checkpointed.output)
