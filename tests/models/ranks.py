"""A process of several that load models in parts: `ranks.py FOLDER [--peak]`, under torchrun.

Writes into FOLDER, as RANK.json, the largest difference of each model from the same loaded whole,
or what loading a large one takes at most, and PPO's four of its size, as a share of the weights.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from chatllama_pipeline.machine import own_bytes, peak_bytes
from chatllama_pipeline.models.adapters.lora import add_adapter
from chatllama_pipeline.models.adapters.merging import outputs
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.models.sharding.loading import Sharing
from chatllama_pipeline.models.sharding.parts import in_turn, is_in_parts, whole
from chatllama_pipeline.settings import AssistantSettings, LoraSettings
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan
from chatllama_pipeline.training.distributed import sharing
from chatllama_pipeline.training.ppo.roles import Roles, load_roles

SIZES: dict[str, Any] = {
    "vocab_size": 301,  # over two processes, with one left
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
HOW = Means(processes=2, here=2, deepspeed=DeepSpeedPlan({"zero_optimization": {"stage": 3}}))
ROLES = ("policy", "reference", "critic", "reward")
Load = Callable[..., Any]


def main(folder: Path, peak: bool) -> None:
    quiet_transformers()
    shared = sharing(HOW)
    assert shared is not None
    found = _peaks(folder, shared) if peak else _differences(folder, shared)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


def _differences(folder: Path, shared: Sharing) -> dict[str, float]:
    tied = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    made: dict[str, tuple[PreTrainedModel, Load]] = {
        "tied": (tied, load_actor),
        "untied in bfloat16": (
            LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)).bfloat16(),
            load_actor,
        ),
        "scoring, fresh head": (tied, load_reward),
        "encoder-decoder": (T5ForConditionalGeneration(_t5()), load_actor),
        "experts": (
            MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)), load_actor,
        ),
    }  # fmt: skip
    found = {}
    for name, (model, load) in made.items():
        found[name] = _difference(_saved(model, folder / name), load, shared)
    scorer = folder / "scorer"
    head = load_reward(folder / "tied", torch.float32)
    found["scoring, stored head"] = _difference(_saved(head, scorer), load_reward, shared)
    found["adapter"] = _adapted(folder / "tied", shared)
    return found | _of_ppo(folder / "tied", scorer, shared)


def _t5() -> T5Config:
    return T5Config(
        vocab_size=301, d_model=32, d_ff=56, d_kv=16, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip


def _saved(model: PreTrainedModel, folder: Path) -> Path:
    """The folder of a model, written by one process for both."""
    if os.environ["RANK"] == "0":
        model.save_pretrained(folder)
    torch.distributed.barrier()
    return folder


def _difference(folder: Path, load: Load, shared: Sharing) -> float:
    """The largest of a weight or output, of a model in parts and the same loaded whole."""
    expected, found = _loaded(folder, load, None), _loaded(folder, load, shared)
    assert is_in_parts(found)
    for model in (found, expected):
        told = getattr(model, "generation_config", None)
        assert told == getattr(expected, "generation_config", None)
    assert {n for n, _ in found.named_buffers()} == {n for n, _ in expected.named_buffers()}
    with in_turn(found):
        said = outputs(found)
    # All of it is in parts again.
    assert sum(p.numel() for p in found.parameters()) <= 32  # a fresh head
    with whole(found.parameters()):
        theirs = found.state_dict()
        apart = [float((theirs[n] - w).abs().max()) for n, w in expected.state_dict().items()]
    return max(float((said - outputs(expected)).abs().max()), *apart)


def _loaded(folder: Path, load: Load, shared: Sharing | None) -> Any:
    torch.manual_seed(7)  # of a fresh head
    return load(folder, torch.float32, shared)


def _adapted(folder: Path, shared: Sharing) -> float:
    """The same of the outputs of a model with an adapter, which is tried when it is put in."""
    said = []
    for how in (None, shared):
        model = load_actor(folder, torch.float32, how)
        add_adapter(model, LoraSettings(target_modules="all-linear"), "actor_config", folder, 3)
        for name, weight in model.named_parameters():
            if ".lora_B" in name:
                weight.data.fill_(0.01)
        with in_turn(model), torch.no_grad():
            said.append(outputs(model))
    return float((said[0] - said[1]).abs().max())


def _of_ppo(sft: Path, scorer: Path, shared: Sharing) -> dict[str, float]:
    """The same of the outputs of PPO's roles."""
    expected, found = _roles(sft, scorer, None), _roles(sft, scorer, shared)
    apart = {}
    for role in ROLES:
        model = getattr(found, role)
        assert not any(p.numel() for p in model.parameters()), f"{role} is whole"
        with whole(model.parameters()):
            said = outputs(model) - outputs(getattr(expected, role))
        apart[role] = float(said.abs().max())
    return apart


def _roles(sft: Path, scorer: Path, shared: Sharing | None) -> Roles:
    settings = AssistantSettings()
    return load_roles(sft, scorer, scorer, settings, 0, "cpu", shared is None, shared)


def write_large(folder: Path) -> None:
    """A model of 250 MB in float32, a quarter of them in one tensor, and one that scores.

    Stored as bfloat16.
    """
    sizes = SIZES | {"vocab_size": 32768, "hidden_size": 512, "intermediate_size": 2048}
    config = LlamaConfig(**sizes | {"num_hidden_layers": 11}, tie_word_embeddings=True)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "large")
    config.num_labels = 1
    LlamaForSequenceClassification(config).bfloat16().save_pretrained(folder / "scorer")


def _peaks(folder: Path, shared: Sharing) -> dict[str, float]:
    """What loading the models of `write_large` takes at most, as a share of float32 weights."""
    actor, scorer = folder / "large", folder / "scorer"
    size = 2 * (actor / "model.safetensors").stat().st_size
    _loaded(_tiny(folder), load_actor, shared)  # whatever is imported by the first
    before = own_bytes("cpu")
    alone = _peak(lambda: _loaded(actor, load_actor, shared)) - before
    gc.collect()  # what is free now may stay this process's
    together = _peak(lambda: _roles(actor, scorer, shared)) - before
    return {"actor": alone / size, "ppo": together / (4 * size)}


def _peak(load: Callable[[], object]) -> int:
    """The most bytes that this process has while it loads."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    kept = load()
    found = peak_bytes("cpu")
    del kept
    return found


def _tiny(folder: Path) -> Path:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    return _saved(model, folder / "tiny")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--peak" in sys.argv)
