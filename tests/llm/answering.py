"""A language model made of a function: as small a double as stands behind `LlmClient`.

What needs a provider, a cache or a budget is tested against the server of `openai_server.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from chatllama_pipeline.llm.client.requests import (
    Answer,
    Estimate,
    Ledger,
    LlmReply,
    LlmRequest,
    OnProgress,
)


class Answering:
    """Answers by `reply`; a text is a finished reply. `seen` are the requests, in their order."""

    provider: str = "openai"
    model: str = "tiny"

    def __init__(
        self, reply: Callable[[LlmRequest], str | Answer], json_schema_supported: bool = True
    ) -> None:
        self.reply = reply
        self.json_schema_supported = json_schema_supported
        self.seen: list[LlmRequest] = []

    def answer(
        self, requests: Sequence[LlmRequest], progress: OnProgress | None = None
    ) -> list[Answer]:
        self.seen += requests
        answers = [self.reply(request) for request in requests]
        return [said(text) if isinstance(text, str) else text for text in answers]

    def estimate(self, requests: Sequence[LlmRequest]) -> Estimate:
        return Estimate(len(requests), 0, 0, 0, 0.0)

    def ledger(self) -> Ledger:
        return Ledger(calls=len(self.seen))

    def warnings(self) -> list[str]:
        return []

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def said(text: str, finish_reason: str = "stop") -> LlmReply:
    """A reply of the tiny model."""
    return LlmReply(text, finish_reason, 1, 1, cached=False, model="tiny")


def asked(request: LlmRequest) -> str:
    """All that a request says."""
    return "\n".join(message.content for message in request.messages)
