"""LoRA adapters: what they leave alone, what they refuse, and the folders they are kept in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.adapters.lora import (
    add_adapter,
    is_adapted,
    merge_adapter,
    save_model,
    switch_adapter,
)
from chatllama_pipeline.models.heads import load_actor, load_reward, token_values
from chatllama_pipeline.settings import LoraSettings

IDS = torch.tensor([[3, 70, 71, 4, 90]])
LORA = LoraSettings(lora_dropout=0.0)


# peft asks for a name that transformers has deprecated.
PEFT_ASKS = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def adapted(folder: Path, seed: int = 0, lora: LoraSettings = LORA) -> Any:
    """An actor with an adapter whose effect is visible: a fresh one has none."""
    model = load_actor(folder, torch.float32)
    add_adapter(model, lora, "actor_config", folder, seed)
    with torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model


def test_a_fresh_adapter_changes_nothing(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    before = logits(model)
    add_adapter(model, LORA, "actor_config", tiny_base_folder, seed=0)
    assert torch.equal(logits(model), before)


def test_with_its_adapter_off_a_model_is_its_base_bit_for_bit(tiny_base_folder: Path) -> None:
    base = logits(load_actor(tiny_base_folder, torch.float32))
    model = adapted(tiny_base_folder)
    assert not torch.allclose(logits(model), base, atol=1e-3)
    switch_adapter(model, False)
    assert torch.equal(logits(model), base)


def test_an_adapter_is_drawn_from_the_seed_alone(tiny_base_folder: Path) -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.rand(3)  # the global generator stands elsewhere each time
        model = load_actor(tiny_base_folder, torch.float32)
        add_adapter(model, LORA, "actor_config", tiny_base_folder, seed)
        return model.model.layers[0].self_attn.q_proj.lora_A.default.weight.detach()

    state = torch.get_rng_state()
    first, again, other = drawn(1), drawn(1), drawn(2)
    torch.set_rng_state(state)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_only_the_adapter_learns(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    add_adapter(model, LORA, "actor_config", tiny_base_folder, seed=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # 2 layers x (q and v) x (8 x 32 + 32 x 8)
    assert sum(parameter.numel() for parameter in trained) == 2048


def test_a_target_that_does_not_exist_is_answered_with_those_there_are(
    tiny_base_folder: Path,
) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    lora = LoraSettings(target_modules=["q_proj", "query"])
    with pytest.raises(SettingsError) as caught:
        add_adapter(model, lora, "actor_config", tiny_base_folder, seed=0)
    assert str(caught.value) == (
        "actor_config.lora.target_modules: LlamaForCausalLM has no layer query; those there are: "
        "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj (or all-linear)"
    )
    assert not is_adapted(model)


def test_a_version_is_whole_and_keeps_its_base_by_link(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    model, folder = adapted(tiny_base_folder), tmp_path / "version"
    save_model(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base",
        "config.json",
        "generation_config.json",
    ]
    linked = folder / "base" / "model.safetensors"
    assert linked.samefile(tiny_base_folder / "model.safetensors")
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    assert torch.equal(logits(load_actor(folder, torch.float32)), logits(model))


def test_a_version_loads_without_the_base_it_was_made_from(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    base, folder = tmp_path / "base_version", tmp_path / "version"
    shutil.copytree(tiny_base_folder, base)
    model = adapted(base)
    save_model(model, folder)
    shutil.rmtree(base)
    assert torch.equal(logits(load_actor(folder, torch.float32)), logits(model))


@pytest.mark.filterwarnings(PEFT_ASKS)
def test_a_version_is_peft_s_own_format(tiny_base_folder: Path, tmp_path: Path) -> None:
    model = adapted(tiny_base_folder)
    save_model(model, tmp_path / "version")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "version" / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "version")
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings(PEFT_ASKS)
def test_a_scoring_model_keeps_its_head_with_its_adapter(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    add_adapter(model, LORA, "reward_config", tiny_base_folder, seed=0)
    model.config.chatllama_score_scale = 0.5
    save_model(model, tmp_path / "version")
    torch.manual_seed(7)
    again = load_reward(tmp_path / "version", torch.float32)
    assert again.config.chatllama_score_scale == 0.5
    mask = torch.ones_like(IDS)
    assert torch.equal(token_values(again, IDS, mask), token_values(model, IDS, mask))
    assert set(load_file(tmp_path / "version" / "adapter_model.safetensors")) >= {
        "base_model.model.score.weight"
    }
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "version" / "base", num_labels=1
    )
    theirs = PeftModel.from_pretrained(base, tmp_path / "version")
    assert torch.equal(theirs.base_model.model.score.weight, model.score.weight)


def test_merging_gives_a_plain_model_with_the_same_outputs(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    model = adapted(tiny_base_folder)
    save_model(model, tmp_path / "version")
    plain = merge_adapter(load_actor(tmp_path / "version", torch.float32))
    assert type(plain).__name__ == "LlamaForCausalLM" and not is_adapted(plain)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=1e-5)
    plain.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "adapter_config.json").exists()
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")), logits(plain)
    )


def test_the_same_adapter_is_written_as_the_same_bytes(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    lora = LoraSettings(target_modules="all-linear", lora_dropout=0.0)
    for take in "ab":
        save_model(adapted(tiny_base_folder, lora=lora), tmp_path / take)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
