"""How prompt and response enter a model, on literals."""

from __future__ import annotations

import torch
from transformers import BartConfig, BartForConditionalGeneration

from chatllama_pipeline.models.families.language import joined, padded_right, positions
from chatllama_pipeline.training.ppo.rollout import pad_left, response_logprobs

IDS = torch.tensor([[0, 0, 7], [4, 5, 6]])
MASK = torch.tensor([[False, False, True], [True, True, True]])


def test_a_row_is_prompt_and_response_but_for_the_last_column() -> None:
    response, actions = torch.tensor([[8, 9], [3, 0]]), torch.tensor([[True, True], [True, False]])
    ids, mask = joined(IDS, MASK, response, actions)
    assert ids.tolist() == [[0, 0, 7, 8], [4, 5, 6, 3]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_an_encoder_reads_its_rows_from_the_first_column_on() -> None:
    ids, mask = padded_right(IDS, MASK)
    assert ids.tolist() == [[7, 0, 0], [4, 5, 6]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]


@torch.no_grad()
def test_an_encoder_with_absolute_positions_does_not_see_padding() -> None:
    """T5 counts distances alone; BART's learned positions would tell a shifted prompt."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
        max_position_embeddings=32, init_std=0.5,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    prompts, response = [[5, 6, 7, 8], [9]], torch.tensor([[10, 11], [12, 13]])
    actions = torch.ones_like(response, dtype=torch.bool)
    found = response_logprobs(model, *pad_left(prompts, 1), response, actions, temperature=1.0)
    for row, prompt in enumerate(prompts):
        labels = response[row : row + 1]
        logits = model(input_ids=torch.tensor([prompt]), labels=labels).logits[0]
        expected = logits.log_softmax(-1).gather(-1, labels[0][:, None])[:, 0]
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
