from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.training.sft.packing import collate_packed, heeds_borders, packed_rows
from chatllama_pipeline.training.sft.stage import collate_completions, completion_loss_sum

EXAMPLES = [
    Example([3, 40, 41, 4, 50, 51, 1], 4),
    Example([3, 44, 4, 60, 1], 3),
    Example([3, 47, 48, 49, 4, 70, 1], 5),
    Example([3, 99, 4, 1], 3),
]


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    weight = batch.pop("weight")
    model.zero_grad()
    loss = completion_loss_sum(model, batch) / weight
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def test_rows_are_filled_longest_first() -> None:
    # Lengths 7, 5, 7, 4 in rows of 12: 7 + 5, 7 + 4.
    assert packed_rows(EXAMPLES, 12) == [[0, 1], [2, 3]]
    assert packed_rows(EXAMPLES, 7) == [[0], [2], [1], [3]]


def test_positions_start_anew_and_no_first_token_is_predicted() -> None:
    batch = collate_packed([EXAMPLES[0], Example([7, 8, 9], 0)], 0, 10, "weight")
    assert batch["input_ids"].tolist() == [[3, 40, 41, 4, 50, 51, 1, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2]]
    assert batch["completion_mask"].int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 0, 1, 1]]
    assert batch["weight"] == 5


def test_packed_loss_and_gradients_are_the_unpacked_ones(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    loss, gradients = loss_and_gradients(model, collate_completions(EXAMPLES, 0))
    for length in (64, 12):  # all in one row; two rows, the second padded
        packed, packed_gradients = loss_and_gradients(
            model, collate_packed(EXAMPLES, 0, length, "weight")
        )
        assert packed == pytest.approx(loss, rel=1e-5)
        difference = (packed_gradients - gradients).norm() / gradients.norm()
        assert difference < 1e-5


def test_a_conversation_is_not_changed_by_the_one_before_it(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    assert heeds_borders(model, EXAMPLES, 0)

    def loss(first: Example) -> float:
        batch = collate_packed([first, EXAMPLES[3]], 0, 64, "weight")
        batch["completion_mask"][:, :7] = False
        return completion_loss_sum(model, {k: v for k, v in batch.items() if k != "weight"}).item()

    assert loss(EXAMPLES[0]) == pytest.approx(loss(EXAMPLES[2]), rel=1e-6)


@pytest.mark.parametrize(
    ("model", "heeds"),
    [
        (BloomForCausalLM(BloomConfig(vocab_size=120, hidden_size=32, n_layer=1, n_head=2)), False),
        (GPT2LMHeadModel(GPT2Config(vocab_size=120, n_embd=32, n_layer=1, n_head=2)), True),
        (
            GPTNeoXForCausalLM(
                GPTNeoXConfig(
                    vocab_size=120,
                    hidden_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=64,
                )
            ),
            True,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_families_that_would_mix_conversations_are_found_out(model: Any, heeds: bool) -> None:
    assert heeds_borders(model, EXAMPLES, 0) is heeds
