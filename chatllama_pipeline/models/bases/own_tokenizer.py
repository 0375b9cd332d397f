"""Whether a tokenizer of its own code can be kept from reading control tokens in people's texts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat.own_text import is_own
from chatllama_pipeline.models.chat.plain_text import plain_text_of
from chatllama_pipeline.models.chat.template import prompt_ids, question_and_answer
from chatllama_pipeline.records import user_prompt

ROOM = 1 << 20


def require_plain_text(tokenizer: Any, key: str, told: str) -> None:
    """Let a user's turn spell every control token, and count what the tokenizer makes of it.

    Raises SettingsError, naming `key` and the tokenizer as `told`, where any of them comes through.
    transformers' own tokenizers are known.
    """
    if not is_own(tokenizer):
        return
    try:
        controls = plain_text_of(tokenizer).controls()
        marks = [token.content for token in controls.values()]
        forged = Counter(_ids(tokenizer, f"a {' b '.join(marks)} c {''.join(marks)}"))
        plain = Counter(_ids(tokenizer, "a b c"))
    except Exception as error:  # its own code may fail in any way
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SettingsError(
            f"{key}: {told} has code of its own, which can't be kept from taking what people write "
            f"for control tokens: {reason}"
        ) from error
    read = [
        token.content
        for number, token in controls.items()
        if forged[number] != plain[number] and number != tokenizer.unk_token_id
    ]
    if read:
        raise SettingsError(
            f"{key}: the code of {told} takes {', '.join(read[:3])} in what people write for "
            "control tokens, however they are guarded: name another tokenizer (tokenizer_path), "
            "or another model"
        )


def _ids(tokenizer: Any, text: str) -> list[int]:
    if tokenizer.chat_template is None:
        return question_and_answer(tokenizer, user_prompt(text), text, ROOM).ids
    return prompt_ids(tokenizer, user_prompt(text), ROOM)
