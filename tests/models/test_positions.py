"""The longest row that a model reads, as its positions and its tokenizer have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BloomConfig,
    CamembertConfig,
    ElectraConfig,
    EncoderDecoderConfig,
    EsmConfig,
    LEDConfig,
    LlamaConfig,
    LongformerConfig,
    MPNetConfig,
    OPTConfig,
    Phi3Config,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaPreLayerNormConfig,
    T5Config,
    XLMRobertaConfig,
    XLNetConfig,
    XmodConfig,
)

from chatllama_pipeline.llm.local.process import LocalModel
from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.models.positions import longest_row
from chatllama_pipeline.records import user_prompt

SIZE = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ENCODER = {**SIZE, "intermediate_size": 16, "max_position_embeddings": 34, "pad_token_id": 1}
BEHIND_PADDING = [
    RobertaConfig,
    CamembertConfig,
    XLMRobertaConfig,
    RobertaPreLayerNormConfig,
    MPNetConfig,
    EsmConfig,
    LongformerConfig,
    XmodConfig,
]
UNLIMITED = 10**30
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 24,
    "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
}  # fmt: skip
LONG = Phi3Config(
    **{**SIZE, "num_hidden_layers": 2}, intermediate_size=32, num_key_value_heads=2,
    max_position_embeddings=96, original_max_position_embeddings=24, rope_parameters=LONG_ROPE,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


class Tokenizer:
    """What of a tokenizer counts here."""

    def __init__(self, model_max_length: int = UNLIMITED) -> None:
        self.model_max_length = model_max_length


@pytest.mark.parametrize("kind", [*BEHIND_PADDING, BertConfig, ElectraConfig])
@torch.no_grad()
def test_an_encoder_reads_the_longest_row_and_none_that_is_longer(kind: Any) -> None:
    own: dict[str, Any] = {"attention_window": 4} if kind is LongformerConfig else {}
    own |= {"languages": ["en_XX"], "default_language": "en_XX"} if kind is XmodConfig else {}
    model = AutoModelForSequenceClassification.from_config(kind(**ENCODER, **own)).eval()
    limit = longest_row(model.config, Tokenizer())
    assert limit == (32 if kind in BEHIND_PADDING else 34)
    ids = torch.arange(limit + 1)[None] % 50 + 5
    assert model(ids[:, :limit]).logits.isfinite().all()
    with pytest.raises((RuntimeError, IndexError)):
        model(ids)


@pytest.mark.parametrize(
    ("config", "named", "limit"),
    [
        (RobertaConfig(**{**ENCODER, "pad_token_id": 3}), UNLIMITED, 30),
        (RobertaConfig(**ENCODER), 20, 20),
        (RobertaConfig(**ENCODER), 512, 32),
        (LlamaConfig(max_position_embeddings=96), UNLIMITED, 96),
        (LlamaConfig(max_position_embeddings=96), 64, 64),
        (LlamaConfig(max_position_embeddings=-1), UNLIMITED, None),
        (LlamaConfig(max_position_embeddings=0), 64, 64),
        (OPTConfig(max_position_embeddings=96), UNLIMITED, 96),
        (LONG, UNLIMITED, 24),
        (BloomConfig(), UNLIMITED, None),
        (XLNetConfig(), UNLIMITED, None),
        (T5Config(), UNLIMITED, None),
        (T5Config(), 512, None),
        (BartConfig(max_position_embeddings=96), UNLIMITED, 96),
        (EncoderDecoderConfig.from_encoder_decoder_configs(
            BertConfig(max_position_embeddings=40), BertConfig(max_position_embeddings=50)),
         UNLIMITED, 40),
        (EncoderDecoderConfig.from_encoder_decoder_configs(
            RobertaConfig(**ENCODER), BertConfig(max_position_embeddings=50)), UNLIMITED, 32),
        (LEDConfig(max_encoder_position_embeddings=64, max_decoder_position_embeddings=32),
         UNLIMITED, 32),
    ],
)  # fmt: skip
def test_the_longest_row_is_what_positions_and_a_sane_tokenizer_allow(
    config: Any, named: int, limit: int | None
) -> None:
    assert longest_row(config, Tokenizer(named)) == limit


@torch.no_grad()
def test_within_its_first_positions_a_row_of_phi_3_says_what_it_says_beside_longer_ones() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LONG).eval()
    rows = torch.arange(60).view(2, 30) + 3

    def beside(columns: int) -> torch.Tensor:
        mask = torch.ones(2, columns, dtype=torch.long)
        mask[0, 10:] = 0
        said: torch.Tensor = model(rows[:, :columns], attention_mask=mask).logits[0, :10]
        return said

    alone = model(rows[:1, :10]).logits[0]
    limit = longest_row(LONG, Tokenizer())
    assert limit is not None
    torch.testing.assert_close(beside(limit), alone)
    assert float((beside(limit + 1) - alone).abs().max()) > 1e-4


def test_a_scorer_of_roberta_s_kind_reads_a_conversation_of_any_length(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder, model_max_length=UNLIMITED)
    config = RobertaConfig(
        **{**ENCODER, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id},
        num_labels=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scorer = RewardScorer(tmp_path)
    assert scorer.max_length == 33 - tokenizer.pad_token_id
    scores = scorer([user_prompt("alpha " * 60)] * 2, ["kilo", "lima " * 30])
    assert scores.isfinite().all() and scorer.cut == 2


def test_a_local_encoder_decoder_is_asked_no_more_than_it_has_positions_for(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=24, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).max_position_embeddings == 24
    model = LocalModel(str(tmp_path), "cpu", 2, "llm.judge")

    def reason(words: int, reply: int) -> str | None:
        messages = [{"role": "user", "content": "alpha " * words}]
        asked = {"key": "a", "messages": messages, "temperature": 0.0, "max_tokens": reply}
        (answer,) = model.answer([json.loads(json.dumps(asked))])
        return answer.get("reason")

    assert reason(1, 20) is None
    assert reason(60, 4) == reason(1, 25) == "prompt_too_long"
