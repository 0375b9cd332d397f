"""What a chat template makes of turns and replies, and the options that it knows."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat.rendering import (
    known_options,
    rendered,
    reply_form,
    set_options,
)
from chatllama_pipeline.models.chat.template import conversation, prompt_ids
from chatllama_pipeline.records import Message, user_prompt
from tests.families.vocabulary import tokenizer_kinds

# Phi-3-mini's first: no word of a system turn.
WITHOUT_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{'<|user|>\n' + m['content'] + '<|end|>\n<|assistant|>\n'}}"
    "{% elif m['role'] == 'assistant' %}{{m['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
)
# R1's distillates: a reply begins amid a thought, and an assistant's turn has none.
OPENS_A_THOUGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
RULED = [Message("system", "alpha"), Message("user", "bravo")]


@pytest.fixture
def thinker() -> Any:
    return tokenizer_kinds.qwen3_thinking()


def trained(tokenizer: Any, reply: str) -> str:
    example = conversation(tokenizer, user_prompt("alpha"), reply, 999)
    text: str = tokenizer.decode(example.ids[example.prompt_length :])
    return text


def written(tokenizer: Any, reply: str) -> str:
    """The last turn as the template itself writes the conversation."""
    turns = [{"role": "user", "content": "alpha"}, {"role": "assistant", "content": reply}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    return text.partition("<|im_start|>assistant\n")[2].removesuffix("\n")


def test_a_system_turn_that_the_template_drops_opens_the_users_first() -> None:
    tokenizer = tokenizer_kinds.smollm()
    tokenizer.chat_template = WITHOUT_SYSTEM
    assert rendered(tokenizer, RULED).endswith("<|user|>\nalpha\n\nbravo<|end|>\n<|assistant|>\n")
    talk = [*RULED, Message("assistant", "charlie"), Message("user", "delta")]
    assert "<|user|>\nalpha\n\nbravo<|end|>" in rendered(tokenizer, talk)


def test_a_template_that_takes_up_the_system_turn_is_left_to_it() -> None:
    tokenizer = tokenizer_kinds.gemma3()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '!' %}"
        "{% else %}{% set first = '' %}{% endif %}"
        "{% for m in messages if m.role != 'system' %}"
        "{{ (first if loop.first else '') + m.content + '<end_of_turn>' }}{% endfor %}"
    )
    assert rendered(tokenizer, RULED) == "alpha!bravo<end_of_turn>"


@pytest.mark.parametrize(
    "reply",
    [
        "bravo",
        "\n bravo \n",
        "<think>\ncharlie\n</think>\n\nbravo",
        "<think>charlie</think>bravo",
        "charlie</think>bravo",
    ],
)
def test_a_reply_is_trained_as_the_template_writes_it_its_thought_included(
    thinker: Any, reply: str
) -> None:
    assert written(thinker, reply).startswith("<think>\n")
    assert trained(thinker, reply) == written(thinker, reply)


def test_the_tokens_trained_are_those_of_the_templates_own_rendering(thinker: Any) -> None:
    turns = [{"role": "user", "content": "alpha"}, {"role": "assistant", "content": "bravo"}]
    whole = thinker.apply_chat_template(turns, tokenize=True, return_dict=False)
    ids = conversation(thinker, user_prompt("alpha"), "bravo", 999).ids
    assert whole[: len(ids)] == ids and thinker.decode(whole[len(ids) :]) == "\n"


def test_an_option_brings_the_empty_thought_into_the_prompt(thinker: Any) -> None:
    set_options(thinker, {"enable_thinking": False}, "actor_config")
    ids = prompt_ids(thinker, user_prompt("alpha"), 999)
    assert thinker.decode(ids).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert trained(thinker, "bravo") == "bravo<|im_end|>"
    # So does everyone who applies the template without a word, and nobody is bound to it.
    asked = [{"role": "user", "content": "alpha"}]
    apply = thinker.apply_chat_template
    assert apply(asked, add_generation_prompt=True, tokenize=False) == thinker.decode(ids)
    free = apply(asked, add_generation_prompt=True, tokenize=False, enable_thinking=True)
    assert free.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("value", [True, None, 2, 0.5, 'it\'s "so" \\ \u00e9\U0001f600', [1, "a"]])
def test_an_options_value_reaches_the_template(thinker: Any, value: Any) -> None:
    thinker.chat_template = "\nsaid: {{ style | pprint }}{{ messages[0].content }}"
    assert known_options(thinker.chat_template) == ["style"]
    asked = [{"role": "user", "content": "alpha"}]
    expected = thinker.apply_chat_template(asked, tokenize=False, style=value)
    set_options(thinker, {"style": value}, "actor_config")
    assert thinker.apply_chat_template(asked, tokenize=False) == expected


def test_an_option_that_the_template_does_not_know_is_refused_with_those_it_knows(
    thinker: Any,
) -> None:
    with pytest.raises(
        SettingsError,
        match=r"reward_config\.template_options: .* no option enable_thoughts; it knows enable_th",
    ):
        set_options(thinker, {"enable_thoughts": False}, "reward_config")
    thinker.chat_template = tokenizer_kinds.CHATML
    for name in ("enable_thinking", "messages", "add_generation_prompt", "bos_token"):
        with pytest.raises(SettingsError, match=rf"no option {name}; it knows none"):
            set_options(thinker, {name: 1}, "actor_config")


def test_a_template_that_is_none_is_refused_with_where_to_mend_it(thinker: Any) -> None:
    thinker.chat_template += "{% endif %}"
    with pytest.raises(
        SettingsError, match=r"actor_config.model: its chat template can't be read \(.*endif.*mend"
    ):
        set_options(thinker, {}, "actor_config")


def test_a_name_that_a_template_sets_for_itself_is_no_option(thinker: Any) -> None:
    assert known_options(thinker.chat_template) == ["enable_thinking"]
    set_options(thinker, {"enable_thinking": False}, "actor_config")
    # A base may be made of what was released before.
    assert known_options(thinker.chat_template) == ["enable_thinking"]
    set_options(thinker, {"enable_thinking": True}, "actor_config")
    assert rendered(thinker, user_prompt("alpha")).endswith("<|im_start|>assistant\n")
    assert known_options(
        "{% if x %}{% set x, y = 1, 2 %}{% endif %}{{ x }}"
        "{% for m in messages %}{% set z = m.content %}{% endfor %}{{ z }}{{ w }}{{ bos_token }}"
        "{{ raise_exception('no') if tools }}"
        "{% if not day is defined %}{% set day = 1 %}{% endif %}"
    ) == ["day", "w"]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("bravo", "\n</think>\n\nbravo"),
        ("<think>\ncharlie\n</think>\n\nbravo", "charlie\n</think>\n\nbravo"),
        ("charlie\n</think>\n\nbravo", "charlie\n</think>\n\nbravo"),
    ],
)
def test_behind_a_thought_that_the_prompt_opens_the_reply_begins_where_it_ends(
    thinker: Any, reply: str, text: str
) -> None:
    thinker.chat_template = OPENS_A_THOUGHT
    assert reply_form(thinker).opened == "<think>\n"
    assert trained(thinker, reply) == f"{text}<|im_end|>"


@pytest.mark.parametrize(
    "day",
    [
        "{% set form = '%d %b %Y' %}{{ strftime_now(form) }}",
        "{{ strftime_now(format='%d %b %Y') }}",
        "{% macro today() %}{{ strftime_now('%d ' ~ '%b %Y') }}{% endmacro %}{{ today() }}",
        "{% set clock = strftime_now %}{{ clock('%d %b %Y') }}",
    ],
)
def test_a_template_is_told_the_same_day_in_every_training_however_it_asks(
    thinker: Any, day: str
) -> None:
    thinker.chat_template = f"{day}{thinker.chat_template}"
    assert rendered(thinker, RULED).startswith("26 Jul 2024<|im_start|>")
    assert rendered(thinker, RULED, date(2031, 2, 3)).startswith("03 Feb 2031<|im_start|>")
