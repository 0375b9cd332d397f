"""What a model wrote, as the text that readers, judges and reward models are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from chatllama_pipeline.models.chat.rendering import reply_form
from chatllama_pipeline.models.chat.thoughts import Spoken, split_thought

Thoughts = Literal["drop", "keep"]


def written_text(tokenizer: Any, ids: Sequence[int], stops: Sequence[int]) -> str:
    """The text of a reply's ids. The one of `stops` that ends it is none of it; other control
    tokens that were sampled are spelled, since who reads the reply must not miss them."""
    stopped = bool(ids) and ids[-1] in stops
    text: str = tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=False)
    return text


def reply_texts(
    tokenizer: Any, stops: Sequence[int], thoughts: Thoughts, replies: Sequence[Sequence[int]]
) -> list[str | None]:
    """What counts of each reply's ids; None where a thought never came to replying."""
    texts = [written_text(tokenizer, ids, stops) for ids in replies]
    read = [reply_of(tokenizer, text, thoughts) for text in texts]
    return [found.reply if found.finished else None for found in read]


def reply_of(tokenizer: Any, text: str, thoughts: Thoughts = "drop") -> Spoken:
    """What counts as the reply of a written text: with `drop`, what follows its thoughts.

    A thought that the prompt began belongs to the text. One that never ends leaves no reply.
    """
    if thoughts == "keep":
        return Spoken(text, "", finished=True)
    return split_thought(reply_form(tokenizer).opened + text)
