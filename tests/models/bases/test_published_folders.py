"""What published folders bring beside their weights, and what a base makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BigBirdConfig,
    BigBirdForSequenceClassification,
)

from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.families.manner import MANNER
from chatllama_pipeline.models.families.switches import SWITCHES
from chatllama_pipeline.models.heads import RewardScorer, load_actor
from chatllama_pipeline.models.loading import load_config
from chatllama_pipeline.records import Outcome, user_prompt
from tests.families.every import make
from tests.tiny import QUIET, MakeSpec


@pytest.fixture
def source(tmp_path: Path, tiny_base_folder: Path) -> Path:
    """A published folder that a test may change."""
    return Path(shutil.copytree(tiny_base_folder, tmp_path / "source"))


def base(stage: str, source: Path, make_spec: MakeSpec) -> Outcome:
    key = {"actor_base": "actor_config", "reward_base": "reward_config"}[stage]
    return run(make_spec(stage, {key: {"model": str(source)}}, {}, stage), QUIET)


@pytest.mark.parametrize(
    "spelled",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3"},
        {"attn_implementation": "kernels-community/none"},
    ],
)
def test_a_kernel_that_the_publishers_machine_had_is_not_asked_for(
    spelled: dict[str, str], source: Path, make_spec: MakeSpec
) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **spelled}))
    outcome = base("actor_base", source, make_spec)
    assert outcome.metrics["probe"].startswith("decodes as it scores")
    assert load_config(source)._attn_implementation is None


def test_weights_that_the_model_has_no_place_for_are_told(
    source: Path, make_spec: MakeSpec
) -> None:
    """A head by another name (trl's, for PPO) is no part of what is trained here."""
    weights = load_file(source / "model.safetensors")
    head = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
    save_file({**weights, **head}, source / "model.safetensors", {"format": "pt"})
    for stage in ("actor_base", "reward_base"):
        told = base(stage, source, make_spec).warnings[-1]
        assert "hold 2 tensors for which a LlamaForCausalLM has no place (v_head.summary" in told


def test_switches_of_a_published_config_reach_no_forward(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    source = make("mixtral", tmp_path / "source")
    turned = {name: not value for name, value in SWITCHES.items() if name != "rescale_every"}
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps({**config, **turned, "router_jitter_noise": 0.5, MANNER: {"steps": "whole"}})
    )
    outcome = base("actor_base", source, make_spec)
    assert outcome.metrics["probe"].startswith("decodes as it scores")
    published = AutoConfig.from_pretrained(tmp_path / "actor_base_actor_base")
    loaded = load_actor(source, torch.float32).config
    for name in ("output_router_logits", "output_hidden_states", "output_attentions"):
        assert not getattr(published, name) and not getattr(loaded, name)
    for name in ("return_dict", "use_cache"):
        assert getattr(published, name) and getattr(loaded, name)
    assert loaded.router_jitter_noise == 0.0
    assert not hasattr(published, MANNER)


@torch.no_grad()
def test_a_score_does_not_depend_on_what_was_scored_before(
    tmp_path: Path, tiny_base_folder: Path
) -> None:
    """BigBird's sparse attention ends for good at its first short row."""
    config = BigBirdConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=96, block_size=4, num_random_blocks=1,
        attention_type="block_sparse", num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    BigBirdForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(tmp_path)
    scorer, asked = RewardScorer(tmp_path), [user_prompt("alpha " * 40)]
    before = float(scorer(asked, ["bravo"])[0])
    scorer([user_prompt("kilo")], ["lima"])
    assert float(scorer(asked, ["bravo"])[0]) == before
