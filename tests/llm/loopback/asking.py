"""Requests to the loopback server, and what its answers say."""

from __future__ import annotations

from typing import Any

from chatllama_pipeline.llm.client.requests import LlmReply, LlmRequest
from chatllama_pipeline.records import Message


def ask(text: str, **changed: Any) -> LlmRequest:
    return LlmRequest((Message("user", text),), **{"temperature": 0.1, "max_tokens": 40, **changed})


def asks(count: int) -> list[LlmRequest]:
    return [ask(f"row {number}") for number in range(count)]


def texts(answers: list[Any]) -> list[str]:
    return [answer.text if isinstance(answer, LlmReply) else answer.reason for answer in answers]
