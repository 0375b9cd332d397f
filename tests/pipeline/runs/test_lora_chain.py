"""The whole chain with adapters on one base, through the real command line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from chatllama_pipeline.data.grammar.rows import grammar_pairs
from chatllama_pipeline.models.adapters.lora import merge_adapter
from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.models.heads import load_actor
from tests.pipeline.place import TINY_CONFIG, Place


@pytest.mark.slow
def test_the_chain_runs_with_adapters_on_one_base_and_releases_a_plain_model(
    tmp_path: Path,
) -> None:
    config = yaml.safe_load(TINY_CONFIG)
    for section in ("actor_config", "reward_config"):
        kept = {k: v for k, v in config[section].items() if not k.startswith("scratch_")}
        config[section] = {**kept, "model": "./base", "peft_enable": True}
    place = Place(tmp_path)
    folder = place.add_assistant("adapted", yaml.safe_dump(config))
    (folder / "peft_config.yaml").write_text("r: 4\nlora_alpha: 16\nlora_dropout: 0.0\n")
    size = ScratchSize(hidden_size=32, layers=2, heads=4, vocabulary=512, max_length=128)
    texts = [pair["chosen"] for pair in itertools.islice(grammar_pairs(), 400)]
    make_scratch_model(texts, size, 0, folder / "base")

    finished = place.by_command("adapted")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "reference and policy and critic and reward share one set" in finished.stderr
    versions = {
        asset: place.store.read(asset, "adapted").path
        for asset in ("actor_base", "actor_sft", "reward_model", "actor_ppo")
    }
    for asset in ("actor_sft", "reward_model", "actor_ppo"):
        config = json.loads((versions[asset] / "adapter_config.json").read_text())
        assert config["r"] == 4
        linked = versions[asset] / "base" / "model.safetensors"
        assert linked.stat().st_nlink > 1  # costs no disk

    approved = place.chatllama("approve", "adapted")
    assert approved.returncode == 0, approved.stderr
    assert place.materialize("adapted", "release").returncode == 0
    released = AutoModelForCausalLM.from_pretrained(place.store.read("release", "adapted").path)
    merged = merge_adapter(load_actor(versions["actor_ppo"], torch.float32))
    ids = torch.tensor([[3, 70, 71, 4]])
    with torch.no_grad():
        assert torch.equal(released(ids).logits, merged(ids).logits)
