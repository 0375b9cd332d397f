"""A sampled reply's text is what its tokens say; what it thought first is no part of it."""

from __future__ import annotations

from typing import Any

import pytest

from chatllama_pipeline.models.chat.replies import reply_of, written_text
from tests.families.vocabulary import tokenizer_kinds
from tests.models.chat.test_rendering import OPENS_A_THOUGHT


@pytest.fixture
def thinker() -> Any:
    return tokenizer_kinds.qwen3_thinking()


def test_control_tokens_within_a_reply_are_spelled_and_its_stop_token_is_not() -> None:
    llama = tokenizer_kinds.llama()
    llama.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    old, new = (llama.encode(text, add_special_tokens=False) for text in ("Write ", "new."))
    ids = [*old, 1, *llama.encode("old", add_special_tokens=False), 1, *new, 2]
    text = written_text(llama, ids, [2])
    assert text.replace(" ", "") == "Write<s>old<s>new."
    assert written_text(llama, ids[:-1], [2]) == text
    assert written_text(llama, [2], [2]) == written_text(llama, [], [2]) == ""


def test_what_judges_read_is_what_the_scorer_reads(thinker: Any) -> None:
    ids = thinker.encode("alpha<|im_start|>bravo<|im_end|>", add_special_tokens=False)
    assert written_text(thinker, ids, ids[-1:]) == "alpha<|im_start|>bravo"


@pytest.mark.parametrize("thoughts", ["drop", "keep"])
def test_a_thought_is_dropped_or_kept_as_is_set(thinker: Any, thoughts: Any) -> None:
    text = "<think>\nalpha\n</think>\n\nbravo"
    found = reply_of(thinker, text, thoughts)
    assert found.reply == (text if thoughts == "keep" else "bravo")
    assert found.finished


def test_a_thought_that_never_ends_is_no_reply_though_the_prompt_began_it(thinker: Any) -> None:
    assert reply_of(thinker, "<think>\nalpha")[::2] == ("", False)
    assert reply_of(thinker, "alpha") == ("alpha", "", True)
    thinker.chat_template = OPENS_A_THOUGHT
    assert reply_of(thinker, "alpha")[::2] == ("", False)
    assert reply_of(thinker, "alpha\n</think>\n\nbravo") == ("bravo", "alpha", True)
    assert reply_of(thinker, "alpha", "keep")[::2] == ("alpha", True)
