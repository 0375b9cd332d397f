from __future__ import annotations

from typing import Any

import pytest

from chatllama_pipeline.models.chat.template import CHAT_TEMPLATE
from chatllama_pipeline.serving.speech import Speech
from tests.families.vocabulary import tokenizer_kinds

KINDS = ["qwen3", "llama", "gemma3", "mistral", "bloom"]


def told(tokenizer: Any, text: str, **more: Any) -> tuple[list[str], bool]:
    """What is said after each token, and whether a stop text ended it."""
    tokenizer.chat_template = tokenizer.chat_template or CHAT_TEMPLATE
    speech = Speech(tokenizer, [], **more)
    ids = tokenizer.encode(text, add_special_tokens=False)
    said = []
    for count in range(1, len(ids) + 1):
        one = speech.said(ids[:count], finished=count == len(ids))
        said.append(one.text)
        if one.ended:
            return said, True
    return said, False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("alpha bravo\n\ncharlie  delta", "alpha bravo\n\ncharlie  delta"),
        (
            "2 < 3 and [4] \u00e9\u4f60\u597d \U0001f600!",
            "2 < 3 and [4] \u00e9\u4f60\u597d \U0001f600!",
        ),
        ("<think>\nalpha\n</think>\n\nbravo <b>", "bravo <b>"),
        ("<think>\nalpha", ""),
    ],
)
def test_what_is_said_is_ever_the_beginning_of_the_reply_and_at_last_all_of_it(
    kind: str, text: str, reply: str
) -> None:
    said, _ = told(getattr(tokenizer_kinds, kind)(), text)
    assert said[-1] == reply
    assert all(reply.startswith(one) for one in said)


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_become_a_stop_text_stays_unsaid(kind: str) -> None:
    said, ended = told(getattr(tokenizer_kinds, kind)(), "alpha bra bravo c", stop_texts=["bravo"])
    assert ended
    assert said[-1] == "alpha bra "
    assert all("alpha bra ".startswith(one) for one in said)


def test_a_plain_text_keeps_its_thoughts() -> None:
    text = "<think>\nalpha\n</think>\n\nbravo"
    assert told(tokenizer_kinds.qwen3(), text, plain=True)[0][-1] == text
