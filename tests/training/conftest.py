"""A tiny PPO that is paid as a test asks for, and an SFT actor that is an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from chatllama_pipeline.models.adapters.lora import add_adapter, save_model
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import PROMPT_SCHEMA
from chatllama_pipeline.settings import LoraSettings
from tests.tiny import MakeSpec, row
from tests.training.paid import BRIEF, SETTINGS


@pytest.fixture(scope="session")
def paid_inputs(
    tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_table: Any
) -> dict[str, Path]:
    reward = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    load_reward(tiny_base_folder, torch.float32).save_pretrained(reward)
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(reward)
    rows = [row(text) for text in ("alpha bravo", "charlie", "delta echo", "golf")]
    prompts = write_table(tmp_path_factory.mktemp("prompts"), rows, PROMPT_SCHEMA)
    return {"actor_sft": tiny_base_folder, "reward_model": reward, "rlhf_training_data": prompts}


@pytest.fixture(scope="session")
def adapted_folder(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT actor that is an adapter on the tiny base, and says something else than that."""
    model = load_actor(tiny_base_folder, torch.float32)
    add_adapter(model, LoraSettings(r=4), "actor_config", tiny_base_folder, seed=1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=draw))
    folder = tmp_path_factory.mktemp("adapted") / "sft"
    save_model(model, folder)
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def paid_spec(make_spec: MakeSpec, paid_inputs: dict[str, Path], tmp_path: Path) -> MakeSpec:
    """A PPO paid by `weights`, with `source` as rewards.py."""

    def make(
        weights: dict[str, float], source: str = BRIEF, take: str = "a", **more: Any
    ) -> StageSpec:
        file = tmp_path / "rewards.py"
        file.write_text(source)
        rewards = {"weights": weights, "trust_code": True, "file": str(file)}
        return make_spec("actor_ppo", {**SETTINGS, "rewards": rewards, **more}, paid_inputs, take)

    return make
