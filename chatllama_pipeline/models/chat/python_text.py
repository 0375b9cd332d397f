"""The tokenizers that transformers keeps in Python: BioGPT's, Marian's, ByT5's, BERTweet's, ...

They look for control tokens first and read the text between them piece by piece, so that nothing
has to be renamed: of a text's marks, those that the template wrote are its tokens, and the pieces
between are read as if there were none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatllama_pipeline.models.chat.control_tokens import ControlTokens, Encoded


def is_python(tokenizer: Any) -> bool:
    """Whether transformers' own Python code splits the texts of `tokenizer`."""
    from transformers import PreTrainedTokenizer

    return (
        isinstance(tokenizer, PreTrainedTokenizer)
        and type(tokenizer).tokenize is PreTrainedTokenizer.tokenize
    )


class PythonText(ControlTokens):
    """The control tokens of such a tokenizer, and how to encode texts that spell them."""

    def __init__(self, tokenizer: Any, added: Mapping[int, Any] | None = None) -> None:
        """With `added`, the control tokens are sought among those alone."""
        super().__init__(tokenizer.added_tokens_decoder if added is None else added)
        self._tokenizer = tokenizer
        self._numbers = {token.content: number for number, token in self._controls.items()}

    def encode(self, text: str, guard: str = "") -> list[int]:
        """The ids of `text`: of its marks, those without `guard` within are control tokens."""
        if not (guard and self._marks):
            return self._piece(text)
        ids: list[int] = []
        done, strips = 0, False
        for mark in self._marks.finditer(text):
            number = self._numbers[mark[0]]
            token = self._controls[number]
            before = text[done : mark.start()].replace(guard, "")
            before = before.lstrip() if strips else before
            ids += [*self._piece(before.rstrip() if token.lstrip else before), number]
            done, strips = mark.end(), token.rstrip
        rest = text[done:].replace(guard, "")
        return ids + self._piece(rest.lstrip() if strips else rest)

    def encode_alone(self, first: str, second: str | None = None) -> Encoded:
        """A plain text, or a pair of them, with the tokens that the tokenizer puts around them."""
        parts = [self._piece(text) for text in (first, second) if text is not None]
        ids: list[int] = self._tokenizer.build_inputs_with_special_tokens(*parts)
        belongs: list[int | None] = [None] * len(ids)
        start = 0
        for number, part in enumerate(parts):
            start = next(i for i in range(start, len(ids)) if ids[i : i + len(part)] == part)
            belongs[start : start + len(part)] = [number] * len(part)
            start += len(part)
        return Encoded(ids, belongs)

    def _piece(self, text: str) -> list[int]:
        """The ids of a text without any control token in it."""
        if not text:
            return []
        ids = self._read(text)
        if self._controls.keys().isdisjoint(self._known(ids)):
            return ids
        # A word of the vocabulary may be spelled as a mark is: its letters aren't.
        return [number for letter in text for number in self._read(letter)]

    def _read(self, text: str) -> list[int]:
        tokens = self._tokenizer.tokenize(text, split_special_tokens=True)
        ids: list[int] = self._tokenizer.convert_tokens_to_ids(tokens)
        return ids

    def _known(self, ids: list[int]) -> set[int]:
        """`ids` without the one for what the vocabulary lacks."""
        return set(ids) - {self._tokenizer.unk_token_id}
