"""Tokenizers that come with Python code of their own: the first Qwen's, ChatGLM's, ...

What such code makes of a control token that somebody spells can't be known, but it can be seen: the
control tokens are those that it makes of their own spelling. A mark that people write is read in
two pieces, so that neither is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat.control_tokens import MARK_LIKE, steers
from chatllama_pipeline.models.chat.python_text import PythonText
from chatllama_pipeline.records import Message


def is_own(tokenizer: Any) -> bool:
    """Whether the class of `tokenizer` is none of transformers' own."""
    return not type(tokenizer).__module__.startswith("transformers.")


class OwnText(PythonText):
    """The control tokens of a tokenizer of its own code, and how to encode texts that spell them.

    They are its special ones, and what looks like a mark in its vocabulary or in what its chat
    template writes. Raises SettingsError where its code reads control tokens in any text.
    """

    def __init__(self, tokenizer: Any) -> None:
        # Processes that note rows import this module, and would wait for it.
        from tokenizers import AddedToken

        self._tokenizer = tokenizer
        added = {
            number: AddedToken(text, special=True, normalized=False)
            for number, text in _candidates(tokenizer)
            if number in self._read(text)
        }
        super().__init__(tokenizer, added)

    def _piece(self, text: str) -> list[int]:
        marks = self._marks.finditer(text) if self._marks else ()
        ends = [mark.start() + 1 for mark in marks]
        pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
        for finer in (pieces, text):
            ids = [number for piece in finer if piece for number in self._read(piece)]
            controls = self._controls.keys() & self._known(ids)
            if not controls:
                return ids
        named = ", ".join(self._controls[number].content for number in sorted(controls))
        raise SettingsError(
            f"the code of its tokenizer reads {named} in texts that don't spell it, so that what "
            "people write couldn't be told from the template's marks: name another tokenizer "
            "(tokenizer_path), or another model"
        )

    def _read(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def _candidates(tokenizer: Any) -> Iterator[tuple[int, str]]:
    """Ids that may be control tokens, and how they are spelled."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for number in range(len(tokenizer)):
        text = _spelled(tokenizer, number)
        if number in special or steers(text):
            yield number, text
    for text in {mark[0] for mark in MARK_LIKE.finditer(_written(tokenizer))}:
        ids = tokenizer.encode(text, add_special_tokens=False)
        for number in ids:
            if len(ids) == 1 or _spelled(tokenizer, number) == text:
                yield number, text


def _spelled(tokenizer: Any, number: int) -> str:
    token = tokenizer.convert_ids_to_tokens(number)
    return token.decode(errors="ignore") if isinstance(token, bytes) else str(token or "")


def _written(tokenizer: Any) -> str:
    """What the chat template makes of a talk; nothing where it refuses one, or there is none."""
    # Data's processes, which read by transformers' tokenizers alone, would wait for transformers.
    from jinja2 import TemplateError

    from chatllama_pipeline.models.chat.rendering import ANSWER, QUESTION, RULE, rendered

    asked = Message("user", QUESTION)
    talk = [Message("system", RULE), asked, Message("assistant", ANSWER), asked]
    try:
        return rendered(tokenizer, talk) if tokenizer.chat_template else ""
    except TemplateError:
        return ""
