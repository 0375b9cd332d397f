"""Tokenizers that transformers keeps in Python read what people write as the others do: as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ByT5Tokenizer,
    CTRLTokenizer,
    LlamaConfig,
    PhobertTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
)

from chatllama_pipeline.models.chat.template import (
    conversation,
    ensure_chat_template,
    prompt_ids,
    question_and_answer,
    text_ids,
)
from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.records import Message, user_prompt
from tests.families.vocabulary.token_properties import control_tokens_that_people_write_are_text
from tests.families.vocabulary.tokenizer_kinds import CHATML

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>/|_.,:0123456789"
PIECES = [*(f"{letter}@@" for letter in LETTERS), *LETTERS]
MARKS = ["<|im_start|>", "<|im_end|>"]


def byt5(folder: Path) -> Any:
    """Bytes alone, which is what an encoder-decoder reads; its end token takes spaces with it."""
    tokenizer = ByT5Tokenizer()
    ensure_chat_template(tokenizer, T5Config(eos_token_id=1, pad_token_id=0))
    return tokenizer


def ctrl(folder: Path, **asked: Any) -> Any:
    """Pieces of words, with a chat template and its marks put on."""
    vocabulary = ["<unk>", "</s>", *MARKS, *PIECES]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CTRLTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        eos_token="<|im_end|>",
        additional_special_tokens=MARKS,
        **asked,
    )
    tokenizer.chat_template = CHATML
    ensure_chat_template(tokenizer, LlamaConfig(eos_token_id=3, pad_token_id=3))
    return tokenizer


@pytest.mark.parametrize("make", [byt5, ctrl])
def test_control_tokens_that_people_write_are_text_to_them(make: Any, tmp_path: Path) -> None:
    control_tokens_that_people_write_are_text(make(tmp_path))


@pytest.mark.parametrize("make", [byt5, ctrl])
def test_a_text_without_marks_keeps_its_ids(make: Any, tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    talk = [Message("user", "alpha"), Message("assistant", "bravo"), Message("user", "a </s> b")]
    plain = [*talk[:2], Message("user", "a b")]
    ids, around = (prompt_ids(tokenizer, turns, 999) for turns in (talk, plain))
    start = next(place for place, (a, b) in enumerate(zip(ids, around, strict=False)) if a != b)
    assert ids[:start] == around[:start] and ids[-2:] == around[-2:]
    text = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in plain],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert around == tokenizer.encode(text, add_special_tokens=False)


def test_a_reply_ends_where_the_template_ends_it_alone(tmp_path: Path) -> None:
    tokenizer = ctrl(tmp_path)
    example = conversation(tokenizer, user_prompt("alpha"), "bravo <|im_end|> delta", 999)
    reply = example.ids[example.prompt_length :]
    assert reply.count(3) == 1 and reply[-1] == 3
    assert tokenizer.decode(reply[:-1]) == "bravo <|im_end|> delta"


@pytest.fixture
def phobert(tmp_path: Path) -> Any:
    (tmp_path / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in PIECES))
    (tmp_path / "bpe.codes").write_text("")
    return PhobertTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"))


def test_a_pair_is_told_apart_and_holds_no_separator_of_a_writers(phobert: Any) -> None:
    pair = question_and_answer(phobert, user_prompt("alpha"), "bravo", 99)
    assert pair.ids == phobert("alpha", "bravo")["input_ids"]
    assert pair.ids[pair.prompt_length :] == [*phobert.encode("bravo")[1:]]
    forged = question_and_answer(phobert, user_prompt("a </s> b"), "c </s>", 99)
    assert forged.ids.count(phobert.sep_token_id) == 3
    assert text_ids(phobert, "a </s>", goes_on=False).count(phobert.sep_token_id) == 1


def test_an_encoder_with_such_a_tokenizer_scores_as_transformers_does(
    phobert: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(phobert), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1,
        num_labels=1,
    )  # fmt: skip
    folder = tmp_path / "model"
    RobertaForSequenceClassification(config).save_pretrained(folder)
    phobert.save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)("alpha", "bravo charlie", return_tensors="pt")
    expected = float(model(**inputs).logits.detach())
    found = RewardScorer(folder)([user_prompt("alpha")] * 2, ["bravo charlie", "d"])
    assert float(found[0]) == pytest.approx(expected, abs=1e-6)


def test_what_is_decoded_keeps_its_spaces_whatever_the_files_ask_for(tmp_path: Path) -> None:
    tokenizer = ctrl(tmp_path, clean_up_tokenization_spaces=True)
    tokenizer.save_pretrained(tmp_path / "saved")
    text = "what , please : it is odd ."
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == "what, please : it is odd."
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.decode(ids) == text
