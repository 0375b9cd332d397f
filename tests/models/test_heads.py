from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    LlamaForSequenceClassification,
)
from transformers import GPT2LMHeadModel as Gpt2

from chatllama_pipeline.models.families.kinds import score_of
from chatllama_pipeline.models.heads import (
    MAX_LENGTH,
    SCORE_SCALE,
    SCORE_SHIFT,
    RewardScorer,
    last_token_scores,
    load_actor,
    load_reward,
    token_values,
)
from chatllama_pipeline.records import user_prompt

ROWS = torch.tensor([[3, 40, 41, 42, 43], [3, 50, 51, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LEFT = torch.tensor([[3, 40, 41, 42, 43], [0, 0, 3, 50, 51]])
LEFT_MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


@pytest.fixture
def model(tiny_base_folder: Path) -> Any:
    torch.manual_seed(0)
    return load_reward(tiny_base_folder, torch.float32)


@pytest.fixture
def reward_folder(tiny_base_folder: Path, model: Any, tmp_path: Path) -> Path:
    setattr(model.config, SCORE_SHIFT, 0.5)
    setattr(model.config, SCORE_SCALE, 2.0)
    setattr(model.config, MAX_LENGTH, 24)
    model.save_pretrained(tmp_path / "reward")
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(tmp_path / "reward")
    return tmp_path / "reward"


@pytest.fixture(params=["relative positions", "absolute positions"])
def padded_model(request: pytest.FixtureRequest, model: Any, tmp_path: Path) -> Any:
    if request.param == "relative positions":
        return model
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    Gpt2(config).save_pretrained(tmp_path)
    return load_reward(tmp_path, torch.float32)


def test_left_and_right_padding_give_equal_values(padded_model: Any) -> None:
    model = padded_model
    right = token_values(model, ROWS, MASK)
    left = token_values(model, LEFT, LEFT_MASK)
    assert right.shape == (2, 5) and right.dtype == torch.float32
    torch.testing.assert_close(left[1, 2:], right[1, :3], atol=1e-5, rtol=0)
    assert left[1, :2].tolist() == [0.0, 0.0] and right[1, 3:].tolist() == [0.0, 0.0]


def test_padding_leaves_gradients_finite_and_equal(padded_model: Any) -> None:
    model = padded_model
    gradients = []
    for ids, mask in ((ROWS, MASK), (LEFT, LEFT_MASK)):
        model.zero_grad()
        token_values(model, ids, mask).sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


def test_the_last_token_is_found_by_the_mask_even_where_it_looks_like_padding(model: Any) -> None:
    ids = torch.tensor([[3, 50, 0, 0, 0]])  # the third token is a real one
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    expected = token_values(model, ids, mask)[:, 2]
    torch.testing.assert_close(last_token_scores(model, ids, mask), expected, atol=1e-6, rtol=0)


def test_scores_are_those_of_plain_transformers(reward_folder: Path) -> None:
    model = load_reward(reward_folder, torch.float32)
    plain = AutoModelForSequenceClassification.from_pretrained(reward_folder)
    expected = plain(input_ids=ROWS, attention_mask=MASK).logits[:, 0]
    torch.testing.assert_close(last_token_scores(model, ROWS, MASK), expected, atol=1e-5, rtol=0)


def test_a_fresh_head_is_drawn_from_the_seed_with_the_papers_deviation(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_embd=1024, n_layer=1, n_head=2, n_positions=8)
    Gpt2(config).save_pretrained(tmp_path)
    heads = []
    for _ in range(2):
        torch.manual_seed(7)
        heads.append(load_reward(tmp_path, torch.float32).score)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert heads[0].bias is None
    assert float(heads[0].weight.detach().std()) == pytest.approx(
        0.03123, rel=0.1
    )  # 1 / sqrt(1025)


def test_a_published_head_is_loaded_not_drawn_anew(model: Any, reward_folder: Path) -> None:
    torch.manual_seed(99)
    assert torch.equal(load_reward(reward_folder, torch.float32).score.weight, model.score.weight)


@pytest.mark.parametrize("load", [load_actor, load_reward])
def test_dropout_is_off_even_in_train_mode(load: Any, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    assert config.resid_pdrop == 0.1
    Gpt2(config).save_pretrained(tmp_path)
    model = load(tmp_path, torch.float32).train()
    ids = torch.tensor([[1, 2, 3]])
    hidden = [model.base_model(input_ids=ids).last_hidden_state for _ in range(2)]
    assert torch.equal(hidden[0], hidden[1])


def test_a_reply_alone_scores_as_in_a_padded_batch(reward_folder: Path) -> None:
    scorer = RewardScorer(reward_folder)
    prompts = [user_prompt("alpha"), user_prompt("alpha bravo"), user_prompt("kilo")]
    replies = ["echo", "foxtrot golf hotel india", ""]
    together = scorer(prompts, replies)
    alone = torch.cat([scorer([p], [r]) for p, r in zip(prompts, replies, strict=True)])
    assert together.shape == (3,) and not together.requires_grad
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_scores_are_shifted_and_scaled_as_the_config_says(reward_folder: Path) -> None:
    scorer = RewardScorer(reward_folder)
    normalised = scorer([user_prompt("alpha")], ["bravo"])
    scorer.shift, scorer.scale = 0.0, 1.0
    raw = scorer([user_prompt("alpha")], ["bravo"])
    torch.testing.assert_close(normalised, (raw - 0.5) / 2.0)


def test_a_reply_longer_than_the_model_allows_is_scored_by_its_end(reward_folder: Path) -> None:
    scorer = RewardScorer(reward_folder)
    assert scorer.max_length == 24
    scores = scorer([user_prompt("alpha")] * 2, ["x" * 60 + "y", "x" * 90 + "y"])
    assert scores[0] == scores[1]


def test_a_familys_head_is_looked_for_in_one_layer_or_in_all_where_it_wants_them() -> None:
    made: list[int] = []

    class Noted(LlamaForSequenceClassification):
        def __init__(self, config: Any) -> None:
            made.append(config.num_hidden_layers)
            super().__init__(config)

    class Whole(Noted):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            assert config.num_hidden_layers == 3

    config = LlamaConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, num_labels=1)
    for kind in (Noted, Whole):
        head = score_of(kind, config)
        assert isinstance(head, torch.nn.Linear) and head.bias is None
    assert made == [1, 1, 3]
    assert config.num_hidden_layers == 3
