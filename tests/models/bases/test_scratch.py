"""Models made from nothing, in every family that the setting knows."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.models.chat.template import conversation
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.memory.sizes import model_size
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings.section import ScratchFamily
from chatllama_pipeline.training.sft.stage import collate_completions, completion_loss_sum

MODEL_TYPES = {"gemma3": "gemma3_text"}


@pytest.mark.parametrize("family", get_args(ScratchFamily))
def test_a_family_is_made_at_the_size_asked_for_and_learns(family: str, tmp_path: Path) -> None:
    size = ScratchSize(32, 2, 4, 300, 64, family=family)  # type: ignore[arg-type]
    weights = make_scratch_model(["alpha bravo charlie"] * 4, size, 0, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == MODEL_TYPES.get(family, family)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (config.hidden_size, config.num_attention_heads) == (32, 4)
    read = model_size(tmp_path)
    assert (read.hidden, read.vocabulary) == (32, len(tokenizer))
    assert read.layers == (4 if family == "t5" else 2)
    assert read.weights == weights
    model = load_actor(tmp_path, torch.float32)
    examples = [conversation(tokenizer, user_prompt(w), w, 64) for w in ("alpha", "bravo")]
    batch = collate_completions(examples, tokenizer.pad_token_id)
    batch.pop("weight")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        loss = completion_loss_sum(model, batch)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    size = ScratchSize(32, 1, 4, 300, 64, family="t5")
    for take in "ab":
        make_scratch_model(["alpha bravo"] * 4, size, 3, tmp_path / take)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / take).iterdir()} for take in "ab"
    )
    assert first == second
