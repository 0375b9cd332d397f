"""What an assistant with adapters costs the disk: its base once, and what was trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from chatllama_pipeline.models.adapters.lora import add_adapter, merge_adapter, save_model
from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.settings import LoraSettings
from chatllama_pipeline.store.versions import Store, Workbench
from tests.store.recipes import recipe

SIZE = ScratchSize(hidden_size=128, layers=2, heads=4, vocabulary=400, max_length=64)


def trained(base: Path, load: Callable[..., Any], seed: int) -> Any:
    """The model of `base` with an adapter that has learned something."""
    model = load(base, torch.float32)
    add_adapter(model, LoraSettings(r=2), "actor_config", base, seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01 * seed)
    return model


def test_an_assistant_with_adapters_costs_its_base_once_and_what_was_trained(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "storage")
    torch.manual_seed(0)
    base = tmp_path / "base"
    make_scratch_model(["alpha bravo charlie"] * 8, SIZE, 0, base)
    tokenizer = AutoTokenizer.from_pretrained(base)

    def version(asset: str, write: Callable[[Path], None]) -> Path:
        def build(bench: Workbench) -> Outcome:
            write(bench.output)
            return Outcome()

        return store.make(recipe(asset=asset), build, {}, force=False).version.path

    def saves(parts: dict[str, Any]) -> Callable[[Path], None]:
        def write(output: Path) -> None:
            for folder, model in parts.items():
                save_model(model, output / folder)
                tokenizer.save_pretrained(output / folder)

        return write

    def copies(output: Path) -> None:
        shutil.copytree(base, output, dirs_exist_ok=True)

    actor_base, reward_base = version("actor_base", copies), version("reward_base", copies)
    sft = trained(actor_base, load_actor, 1)
    version("actor_sft", saves({"": sft}))
    version("reward_model", saves({"": trained(reward_base, load_reward, 2)}))
    actor, critic = trained(actor_base, load_actor, 3), trained(reward_base, load_reward, 4)
    ppo = version("actor_ppo", saves({"": actor, "critic": critic}))
    released = version("release", saves({"": merge_adapter(load_actor(ppo, torch.float32))}))

    files = [path for path in store.root.rglob("*") if path.is_file()]
    taken = {path.stat().st_ino: path.stat().st_size for path in files}
    learned = sum(path.stat().st_size for path in files if path.name.startswith("adapter_model"))
    learned += (released / "model.safetensors").stat().st_size
    whole = sum(path.stat().st_size for path in actor_base.rglob("*") if path.is_file())
    assert sum(taken.values()) - learned <= 1.3 * whole
