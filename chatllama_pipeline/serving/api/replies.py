"""Replies in the shapes of OpenAI's API."""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass, field
from time import time
from typing import Any

# Seeded once: a number of the kernel's for each reply would be a call into it.
_chances = random.Random()
DONE = "data: [DONE]\n\n"
_as_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Form:
    """The fixed parts of a reply: `chat`, or else a completion, asked of `model`."""

    chat: bool
    model: str
    version: str
    number: str = field(default_factory=lambda: f"{_chances.getrandbits(128):032x}")
    created: int = field(default_factory=lambda: int(time()))

    @property
    def reply_id(self) -> str:
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number}"

    def whole(self, text: str, reason: str, usage: dict[str, int]) -> dict[str, Any]:
        """A reply that is told at once."""
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [_choice(said, reason)], "usage": usage}

    def begin(self) -> str:
        """The first event of a stream; "" where there is none."""
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self.chat else ""

    def piece(self, text: str) -> str:
        """An event with the text that is new."""
        before, behind = self._around_text
        return f"{before}{_as_json(text)}{behind}"

    def end(self, reason: str) -> str:
        """The event that says why a reply ended."""
        return self._event({"delta": {}} if self.chat else {"text": ""}, reason)

    def usage(self, usage: dict[str, int]) -> str:
        """The event that counts tokens."""
        return event({**self._head(self._chunk), "choices": [], "usage": usage})

    @functools.cached_property
    def _around_text(self) -> tuple[str, str]:
        """An event's text before a piece and behind it: of thousands, only the pieces differ."""
        empty = self._event({"delta": {"content": ""}} if self.chat else {"text": ""})
        before, _, behind = empty.rpartition(_as_json(""))
        return before, behind

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _event(self, said: dict[str, Any], reason: str | None = None) -> str:
        return f"{self._begun}{_as_json([_choice(said, reason)])}}}\n\n"

    @functools.cached_property
    def _begun(self) -> str:
        """An event to where its choices stand: the same in all."""
        empty = event({**self._head(self._chunk), "choices": []})
        return empty[: empty.rindex("[]")]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.reply_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.version,
        }


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    """Tokens read and written, as OpenAI counts them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def event(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {_as_json(data)}\n\n"


def _choice(said: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, **said, "logprobs": None, "finish_reason": reason}
