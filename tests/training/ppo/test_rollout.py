"""Sampling and scoring replies, on two-layer models with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from chatllama_pipeline.training.ppo.rollout import (
    Rollout,
    draw,
    generate,
    pad_left,
    response_logprobs,
    sample_replies,
    uniform_levels,
)

PAD, STOP = 0, 1
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]


@pytest.fixture(scope="module")
def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        # Wide weights make the model's choices depend on what it reads.
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def gpt2() -> Any:
    """Positions are learned vectors here: a wrong one changes the logits."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5
    )
    return GPT2LMHeadModel(config).eval()


def sampled(model: Any, prompts: list[list[int]], seed: int = 0, **changes: Any) -> Rollout:
    ids, mask = pad_left(prompts, changes.get("pad_id", PAD))
    arguments: dict[str, Any] = {
        "max_new_tokens": 12,
        "temperature": 1.0,
        "stop_ids": [STOP, 2, 3],
        "pad_id": PAD,
    } | changes
    draws = torch.Generator().manual_seed(seed)
    levels = uniform_levels(len(prompts), arguments["max_new_tokens"], draws)
    return generate(model, ids, mask, levels=levels, **arguments)


def unpadded_logprobs(
    model: Any, prompt: list[int], reply: list[int], temperature: float
) -> Tensor:
    """Log-probabilities of a reply's tokens from one plain forward of one row."""
    logits = model(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor(reply)[:, None])[
        :, 0
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_cached_loop_samples_what_full_forwards_sample(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    found = sampled(model, PROMPTS, seed=3, temperature=0.7)
    levels = uniform_levels(len(PROMPTS), 12, torch.Generator().manual_seed(3))
    replies: list[list[int]] = [[] for _ in PROMPTS]
    active = list(range(len(PROMPTS)))
    for t in range(12):
        logits = torch.stack(
            [model(torch.tensor([PROMPTS[row] + replies[row]])).logits[0, -1] for row in active]
        )
        tokens, _ = draw(logits / 0.7, levels[active, t])
        for row, token in zip(active, tokens.tolist(), strict=True):
            replies[row].append(token)
        # One of four rows stopping is enough for the rest to go on alone.
        active = [row for row in active if replies[row][-1] not in (STOP, 2, 3)]
        if not active:
            break
    assert found.reply_ids() == replies
    assert len({len(reply) for reply in replies}) > 1


def test_draws_follow_the_softmax_and_never_hit_an_impossible_token() -> None:
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0]).expand(20_000, 4)
    levels = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn, logp = draw(logits, levels)
    counts = drawn.bincount(minlength=4) / 20_000
    # e^0, e^1, 0, e^2 over their sum 11.107
    torch.testing.assert_close(counts, torch.tensor([0.0900, 0.2447, 0, 0.6652]), atol=0.01, rtol=0)
    assert counts[2] == 0
    torch.testing.assert_close(logp, logits.log_softmax(1).gather(1, drawn[:, None])[:, 0])


def test_the_mask_ends_with_the_first_stop_token(llama: Any) -> None:
    found = sampled(llama, PROMPTS * 8)
    assert found.finished.any()
    for row, mask, finished in zip(found.response, found.action_mask, found.finished, strict=True):
        kept = row[mask].tolist()
        assert all(token not in (STOP, 2, 3) for token in kept[:-1])
        assert (kept[-1] in (STOP, 2, 3)) == finished
        assert row[~mask].unique().tolist() in ([], [PAD])
        assert finished or len(kept) == 12


def test_a_pad_that_equals_the_stop_token_changes_no_mask(llama: Any) -> None:
    usual = sampled(llama, PROMPTS * 4, stop_ids=[STOP])
    same = sampled(llama, PROMPTS * 4, stop_ids=[STOP], pad_id=STOP)
    assert usual.finished.any()
    assert torch.equal(usual.action_mask, same.action_mask)
    assert torch.equal(usual.finished, same.finished)
    assert usual.reply_ids() == same.reply_ids()


def test_one_new_token_is_a_reply_of_one_column(llama: Any) -> None:
    found = sampled(llama, PROMPTS, max_new_tokens=1)
    assert found.response.shape == (4, 1)
    assert found.action_mask.all()


def test_the_same_seed_samples_the_same_replies_and_another_seed_others(llama: Any) -> None:
    first, second, other = (sampled(llama, PROMPTS, seed=seed) for seed in (1, 1, 2))
    assert first.reply_ids() == second.reply_ids() != other.reply_ids()


def test_a_reply_depends_on_no_other_row(llama: Any) -> None:
    prompts = [PROMPTS[row % 4] for row in range(12)]

    def replies(size: int | None, share: slice = slice(None)) -> list[list[int]]:
        return sample_replies(
            llama,
            prompts,
            rollout_batch_size=size,
            max_new_tokens=6,
            temperature=1.0,
            stop_ids=[STOP],
            pad_id=PAD,
            generator=torch.Generator().manual_seed(0),
            share=share,
        ).reply_ids()

    together = replies(None)
    assert len({tuple(reply) for reply in together}) == 12
    assert replies(1) == replies(5) == together
    assert replies(None, slice(0, 12, 2)) == together[::2]
    assert replies(2, slice(6, 12)) == together[6:]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("bound", [1, 2**26])
def test_log_probabilities_in_a_padded_batch_are_those_of_single_rows(
    name: str, bound: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.models.memory.passes.SMALL_BYTES", bound)
    model = request.getfixturevalue(name)
    found = sampled(model, PROMPTS)
    logp = response_logprobs(
        model, *pad_left(PROMPTS, PAD), found.response, found.action_mask, temperature=0.7
    )
    for prompt, reply, row in zip(PROMPTS, found.reply_ids(), logp, strict=True):
        expected = unpadded_logprobs(model, prompt, reply, 0.7)
        torch.testing.assert_close(row[: len(reply)], expected, atol=1e-5, rtol=1e-5)
        assert row[len(reply) :].tolist() == [0.0] * (len(row) - len(reply))


def test_extra_padding_on_both_sides_changes_no_log_probability(llama: Any) -> None:
    ids, mask = pad_left(PROMPTS, PAD)
    found = sampled(llama, PROMPTS)
    pad = torch.nn.functional.pad
    plain = response_logprobs(llama, ids, mask, found.response, found.action_mask, temperature=1.0)
    padded = response_logprobs(
        llama,
        pad(ids, (3, 0), value=7),
        pad(mask, (3, 0)),
        pad(found.response, (0, 2), value=7),
        pad(found.action_mask, (0, 2)),
        temperature=1.0,
    )
    torch.testing.assert_close(padded[:, :-2], plain, atol=1e-5, rtol=1e-5)
