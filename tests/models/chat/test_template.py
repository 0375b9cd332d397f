from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

from chatllama_pipeline.models.chat.template import (
    CHAT_TEMPLATE,
    conversation,
    ensure_chat_template,
    prompt_ids,
    stop_ids,
)
from chatllama_pipeline.records import Message, user_prompt

PROMPT = [
    Message("system", "bravo"),
    Message("user", "alpha"),
    Message("assistant", "charlie"),
    Message("user", "delta"),
]


@pytest.fixture
def tokenizer(tiny_base_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base_folder)


def test_a_prompt_is_its_turns_and_the_assistants_mark(tokenizer: Any) -> None:
    ids = prompt_ids(tokenizer, PROMPT, 100)
    assert tokenizer.decode(ids) == (
        "<|system|>bravo<|end|><|user|>alpha<|end|><|assistant|>charlie<|end|>"
        "<|user|>delta<|end|><|assistant|>"
    )
    assert ids[0] == 2 and ids[-1] == 4  # each role mark is one id


def test_a_prompt_too_long_loses_its_oldest_turns_and_keeps_the_system_turn(tokenizer: Any) -> None:
    whole = prompt_ids(tokenizer, PROMPT, 100)
    ids = prompt_ids(tokenizer, PROMPT, len(whole) - 1)
    assert tokenizer.decode(ids) == "<|system|>bravo<|end|><|user|>delta<|end|><|assistant|>"


def test_a_last_turn_that_cannot_fit_comes_back_longer_than_allowed(tokenizer: Any) -> None:
    assert len(prompt_ids(tokenizer, user_prompt("alpha bravo charlie"), 4)) > 4


def test_a_conversation_ends_in_the_end_token_and_says_where_the_reply_begins(
    tokenizer: Any,
) -> None:
    ids, prompt_length, _ = conversation(tokenizer, user_prompt("alpha"), "bravo", 100)
    assert tokenizer.decode(ids[:prompt_length]) == "<|user|>alpha<|end|><|assistant|>"
    assert tokenizer.decode(ids[prompt_length:]) == "bravo<|end|>"


def test_a_reply_costs_the_prompt_its_oldest_turns_and_is_never_cut(tokenizer: Any) -> None:
    whole, *_ = conversation(tokenizer, PROMPT, "echo foxtrot", 100)
    ids, prompt_length, _ = conversation(tokenizer, PROMPT, "echo foxtrot", len(whole) - 1)
    assert tokenizer.decode(ids[:prompt_length]).startswith("<|system|>bravo<|end|><|user|>delta")
    assert tokenizer.decode(ids[prompt_length:]) == "echo foxtrot<|end|>"
    ids, prompt_length, _ = conversation(tokenizer, PROMPT, "echo foxtrot", 5)
    assert len(ids) > 5
    assert tokenizer.decode(ids[prompt_length:]) == "echo foxtrot<|end|>"


def test_a_template_that_writes_bos_and_a_tokenizer_that_has_one_give_one_bos(
    tokenizer: Any,
) -> None:
    tokenizer.bos_token = "<|system|>"
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    ids = prompt_ids(tokenizer, user_prompt("alpha"), 100)
    assert tokenizer.decode(ids) == "<|system|><|user|>alpha<|end|><|assistant|>"


def test_replies_stop_at_the_templates_turn_end_and_at_eos(tokenizer: Any) -> None:
    assert stop_ids(tokenizer) == [1]
    tokenizer.chat_template = CHAT_TEMPLATE.replace("eos_token", "'<|system|>'")
    assert stop_ids(tokenizer) == [2, 1]


def test_a_tokenizer_without_template_and_pad_token_gets_ours_and_keeps_its_vocabulary(
    tokenizer: Any,
) -> None:
    size = len(tokenizer)
    tokenizer.chat_template, tokenizer.pad_token = None, None
    ensure_chat_template(tokenizer, LlamaConfig())
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.pad_token_id == 1
    assert len(tokenizer) == size
