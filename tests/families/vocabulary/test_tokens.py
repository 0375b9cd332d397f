"""Each family's prompts: one BOS or none, an end that is learned, masks instead of pad ids."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.preflight import preflight
from chatllama_pipeline.models.chat.template import (
    conversation,
    ensure_chat_template,
    prompt_ids,
    question_and_answer,
    stop_ids,
)
from chatllama_pipeline.models.families.unembedded import without_unembedded
from chatllama_pipeline.records import Message, user_prompt
from chatllama_pipeline.training.sft.stage import collate_completions
from tests.families.kit import ACTORS
from tests.families.vocabulary import tokenizer_kinds
from tests.families.vocabulary.token_properties import (
    a_reply_ends_in_a_token_that_stops,
    begins_with_one_bos_or_none,
    every_turn_is_read_the_systems_too,
)
from tests.families.vocabulary.tokenizer_kinds import GEMMA_EMBEDDINGS, GEMMA_IMAGE

FolderOf = Callable[[str], Path]
# What each family's prompt of one turn begins with, and what ends its reply.
BEGINS = {
    "llama": "<s>",
    "llama3": "<|begin_of_text|>",
    "mistral": "<s>",
    "gemma3": "<bos>",
    "opt": "</s>",
    "opt_350m": "</s>",
    "bloom": "<s>",
    "bloomz": "<s>",
    **dict.fromkeys(("gptj", "gpt_neox", "gpt_neo", "codegen", "gpt2", "phi"), "<|endoftext|>"),
}
ENDS = {
    "llama3": "<|eot_id|>",
    "qwen3": "<|im_end|>",
    "smollm": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    **dict.fromkeys(
        ("llama", "mistral", "opt", "opt_350m", "galactica", "bloom", "bloomz", "flan_t5"), "</s>"
    ),
    **dict.fromkeys(("gptj", "gpt_neox", "gpt_neo", "codegen", "gpt2", "phi"), "<|endoftext|>"),
}


@pytest.fixture
def tokenizer_of(family_folder: FolderOf) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(family_folder(name))
        config = AutoConfig.from_pretrained(family_folder(name))
        tokenizer, _ = without_unembedded(tokenizer, config.vocab_size, "actor_config.model", name)
        ensure_chat_template(tokenizer, config)
        return tokenizer

    return load


@pytest.mark.parametrize("name", [family.name for family in ACTORS])
def test_a_conversation_has_one_bos_or_none_and_ends_in_a_token_that_stops(
    name: str, tokenizer_of: Callable[[str], Any], family_folder: FolderOf
) -> None:
    tokenizer = tokenizer_of(name)
    begins_with_one_bos_or_none(tokenizer)
    a_reply_ends_in_a_token_that_stops(tokenizer)
    example = conversation(tokenizer, user_prompt("alpha"), "bravo", 64)
    tokens = tokenizer.convert_ids_to_tokens(example.ids)
    if name in BEGINS:
        assert tokens[0] == BEGINS[name] and tokens[1] != BEGINS[name]
    elif name != "smollm":  # its BOS opens every turn
        assert tokenizer.bos_token_id is None
    assert tokens[-1] == ENDS[name] and example.ids[-1] == stop_ids(tokenizer)[0]
    reply = example.ids[example.prompt_length : -1]
    assert tokenizer.decode(reply).strip() == "bravo"
    assert tokenizer.pad_token_id is not None
    config = AutoConfig.from_pretrained(family_folder(name))
    assert ENDS[name] in str(preflight(tokenizer, config, "actor_config", 64))


@pytest.mark.parametrize("name", [family.name for family in ACTORS])
def test_every_turn_is_read_the_systems_too(name: str, tokenizer_of: Callable[[str], Any]) -> None:
    every_turn_is_read_the_systems_too(tokenizer_of(name))


def test_the_day_that_a_template_names_is_the_same_in_every_training_and_todays_in_a_chat(
    tokenizer_of: Callable[[str], Any],
) -> None:
    tokenizer = tokenizer_of("llama3")
    asked = user_prompt("alpha")
    assert "<|begin_of_text|>26 Jul 2024<|start" in tokenizer.decode(
        prompt_ids(tokenizer, asked, 64)
    )
    told = prompt_ids(tokenizer, asked, 64, date(2031, 2, 3))
    assert "<|begin_of_text|>03 Feb 2031<|start" in tokenizer.decode(told)
    example = conversation(tokenizer, asked, "bravo", 64)
    assert example.ids[: example.prompt_length] == prompt_ids(tokenizer, asked, 64)


def test_of_several_templates_the_default_is_taken(
    tokenizer_of: Callable[[str], Any], tmp_path: Path
) -> None:
    tokenizer = tokenizer_of("qwen3")
    expected = prompt_ids(tokenizer, user_prompt("alpha"), 64)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(read.chat_template, dict)
    ensure_chat_template(read, LlamaConfig())
    assert prompt_ids(read, user_prompt("alpha"), 64) == expected
    assert stop_ids(read) == stop_ids(tokenizer_of("qwen3"))


def test_gemmas_token_for_images_is_plain_text_where_the_model_has_no_embedding_for_it(
    family_folder: FolderOf, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(family_folder("gemma3"))
    assert max(tokenizer(f"alpha {GEMMA_IMAGE}").input_ids) == GEMMA_EMBEDDINGS
    left, lost = without_unembedded(tokenizer, GEMMA_EMBEDDINGS, "actor_config.model", "it")
    assert lost == [GEMMA_IMAGE]
    left.save_pretrained(tmp_path)
    for read in (left, AutoTokenizer.from_pretrained(tmp_path)):
        ids = read(f"alpha {GEMMA_IMAGE}").input_ids
        assert max(ids) < GEMMA_EMBEDDINGS
        assert read.decode(ids, skip_special_tokens=True) == f"alpha {GEMMA_IMAGE}"
        assert read("<start_of_turn>alpha").input_ids == tokenizer("<start_of_turn>alpha").input_ids
        assert read.chat_template == tokenizer.chat_template


def test_a_token_without_embedding_that_ends_a_turn_is_refused(family_folder: FolderOf) -> None:
    tokenizer = AutoTokenizer.from_pretrained(family_folder("gpt2"))
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "{{ messages[0]['content'] + '<|turn|>' }}"
    with pytest.raises(SettingsError, match=r"actor_config\.model: it has .*not read <\|turn\|>"):
        without_unembedded(tokenizer, rows, "actor_config.model", "it")


def test_galacticas_missing_tokens_are_those_its_config_names(
    tokenizer_of: Callable[[str], Any],
) -> None:
    tokenizer = tokenizer_of("galactica")
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "</s>",
        "<pad>",
        None,
    )
    assert len(tokenizer) == 340  # none is added


def test_a_tokenizer_and_config_without_any_end_token_are_refused() -> None:
    nameless = tokenizer_kinds.backend(["<oops>"])
    config = LlamaConfig(eos_token_id=None, vocab_size=340)
    with pytest.raises(SettingsError, match=r"no end token.*no reply could ever end"):
        ensure_chat_template(nameless, config)
    known = tokenizer_kinds.backend(["<oops>", "<|endoftext|>"])
    ensure_chat_template(known, config)
    assert (known.eos_token, known.pad_token) == ("<|endoftext|>", "<|endoftext|>")


def test_a_template_without_bos_gets_the_one_that_the_tokenizer_would_write() -> None:
    tokenizer = tokenizer_kinds.llama()
    tokenizer.pad_token = "</s>"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    ids = prompt_ids(tokenizer, user_prompt("alpha"), 64)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "\u2581alpha", "</s>"]


def test_an_encoder_reads_question_and_answer_as_a_pair_and_loses_old_turns() -> None:
    tokenizer = tokenizer_kinds.electra()
    example = question_and_answer(tokenizer, user_prompt("alpha bravo"), "charlie", 64)
    tokens = tokenizer.convert_ids_to_tokens(example.ids)
    assert tokens == ["[CLS]", "alpha", "bravo", "[SEP]", "charlie", "[SEP]"]
    assert example.prompt_length == 4
    talk = [Message("user", "alpha"), Message("assistant", "bravo"), Message("user", "delta")]
    whole = question_and_answer(tokenizer, talk, "charlie", 64)
    assert "assistant" in tokenizer.decode(whole.ids).replace(" ", "")
    cut = question_and_answer(tokenizer, talk, "charlie", len(whole.ids) - 1)
    assert tokenizer.convert_ids_to_tokens(cut.ids) == ["[CLS]", "delta", *tokens[3:]]
    assert cut.cut_turns == 2


def test_padding_that_is_the_end_token_is_masked_not_guessed() -> None:
    tokenizer: PreTrainedTokenizerFast = tokenizer_kinds.gpt2()
    ensure_chat_template(tokenizer, LlamaConfig(vocab_size=340))
    end = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == end
    examples = [
        conversation(tokenizer, user_prompt("alpha"), reply, 64)
        for reply in ("alpha", "alpha lima")
    ]
    batch = collate_completions(examples, pad_id=end)
    assert batch["completion_mask"].sum(1).tolist() == [2, 3]  # the reply's words and its end
    assert batch["input_ids"][0][batch["completion_mask"][0]].tolist()[-1] == end
