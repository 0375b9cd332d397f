"""Conversations to token ids: the only place where a chat template meets a tokenizer."""

from __future__ import annotations

import functools
from typing import Any

from chatllama_pipeline.records import Prompt

# Every turn ends in the tokenizer's own end token, so that a reply's end needs no new vocabulary.
# Where the tokenizer knows the role marks as special tokens (ours does) each is one id.
CHAT_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def ensure_chat_template(tokenizer: Any) -> None:
    """Give `tokenizer` our chat template and a pad token where it has none of its own.

    The pad token is then the end token: masks are carried everywhere and never inferred from ids.
    """
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def stop_ids(tokenizer: Any) -> list[int]:
    """The ids that end a reply: first the one the template puts after a turn, then eos."""
    turn_end = _turn_end(tokenizer, tokenizer.chat_template)
    eos = tokenizer.eos_token_id
    return [turn_end] if eos in (None, turn_end) else [turn_end, eos]


def prompt_ids(tokenizer: Any, prompt: Prompt, max_length: int) -> list[int]:
    """Ids of `prompt` in the tokenizer's chat template, with the generation prompt at the end.

    A prompt longer than `max_length` loses its oldest turns: it is cut before a user's turn, and
    a leading system turn stays. Where not even the last user's turn fits, the over-long ids of
    that turn are returned: the caller drops the row or refuses it. Begins with at most one BOS.
    """
    ids: list[int] = []
    for shortened in _shortened(prompt):
        ids = _encode(tokenizer, shortened)
        if len(ids) <= max_length:
            break
    return ids


def conversation_ids(
    tokenizer: Any, prompt: Prompt, completion: str, max_length: int
) -> tuple[list[int], int]:
    """Ids of `prompt`, `completion` and the end token, and how many of them are the prompt's.

    The prompt loses old turns (see `prompt_ids`) until all fits in `max_length`. The completion is
    never cut: what can't fit comes back longer than `max_length`, and the caller drops it.
    """
    reply = tokenizer.encode(completion, add_special_tokens=False)
    reply.append(stop_ids(tokenizer)[0])
    ids = prompt_ids(tokenizer, prompt, max_length - len(reply))
    return ids + reply, len(ids)


def _encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The template writes BOS itself where the model wants one: the tokenizer must not add another.
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    while bos is not None and ids[:2] == [bos, bos]:
        del ids[0]
    return ids


def _shortened(prompt: Prompt) -> list[Prompt]:
    """`prompt` and its ever shorter tails, each beginning with a user's turn."""
    system = prompt[:1] if prompt and prompt[0].role == "system" else []
    turns = prompt[len(system) :]
    tails = [turns[i:] for i in range(1, len(turns)) if turns[i].role == "user"]
    return [prompt, *(system + tail for tail in tails)]


@functools.lru_cache(maxsize=16)
def _turn_end(tokenizer: Any, template: str) -> int:
    """The special token that the template puts right after an assistant's turn, else eos."""
    mark = "reply"
    messages = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": mark}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    tail = text[text.rindex(mark) + len(mark) :]
    special = set(tokenizer.all_special_ids)
    ids = tokenizer.encode(tail, add_special_tokens=False)
    return int(next((i for i in ids if i in special), tokenizer.eos_token_id))
