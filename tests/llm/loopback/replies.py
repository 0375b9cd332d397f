"""What the loopback server says: good completions, and refusals that no retry mends."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
KEY = "sk-loopback-0123456789"
MODEL = "loopback-1"
FAULTS = (
    "rate_limited",
    "server_error",
    "dropped",
    "stalled",
    "malformed",
    "wrong_schema",
    "truncated",
)
Body = dict[str, Any]
# Status, body, Retry-After, and the content type with what other header lines follow it.
Told = tuple[int, bytes, str | None, str]


def told(status: int, body: Any, kind: str = JSON) -> Told:
    """An answer of a product, whose body is a text or becomes JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    return status, text.encode(), None, kind


def prompt_text(body: Body) -> str:
    """All that a request says, whichever style it has."""
    if "messages" in body:
        return "\n".join(message["content"] for message in body["messages"])
    return str(body["prompt"])


def echo(body: Body) -> str:
    """The default reply: the last message again."""
    return body["messages"][-1]["content"] if "messages" in body else str(body["prompt"])


@dataclass
class Behaviour:
    """What tests set. `faults` are shares of all requests; `script` says what the next requests
    meet, in turn ("ok", a fault, or a status such as "status_409"), before `faults` count."""

    reply: Callable[[Body], str] = echo
    latency: float = 0.0
    # Nothing is answered before so many were asked at once.
    together: int = 0
    faults: dict[str, float] = field(default_factory=dict)
    script: deque[str] = field(default_factory=deque)
    retry_after: str = "0.05"
    context_tokens: int = 100_000
    models: list[str] = field(default_factory=lambda: [MODEL])
    refuses: dict[str, str] = field(default_factory=dict)  # parameter -> the 400's message
    message: Body = field(default_factory=dict)  # put over a chat reply's message
    quota_left: bool = True
    batch_polls: int = 1  # polls until a batch is complete
    batch_fails: set[str] = field(default_factory=set)  # texts whose line ends in an error
    batch_status: int = 400
    batch_error: Body = field(
        default_factory=lambda: {"message": "Could not be answered.", "code": "broken"}
    )
    batch_expires: set[str] = field(
        default_factory=set
    )  # texts whose line was not answered in time
    root: str = "/v1"  # the path that calls stand under
    any_key: bool = False  # as servers at home
    # Answers as another product does; None for the usual answer.
    product: Callable[[Body], Told | None] | None = None
    drops: dict[str, int] = field(default_factory=dict)  # "GET" or "POST": batch calls to drop


def refusal_of(body: Body, behaviour: Behaviour) -> tuple[int, Body] | None:
    """A 4xx that no retry mends, and its body."""

    def told(status: int, message: str, code: str | None, param: str | None = None) -> Any:
        error = {"message": message, "type": "loopback", "param": param, "code": code}
        return status, {"error": error}

    if body["model"] not in behaviour.models:
        message = f"The model `{body['model']}` does not exist"
        return told(404, message, "model_not_found", "model")
    for parameter, message in behaviour.refuses.items():
        if parameter in body:
            return told(400, message, "unsupported_parameter", parameter)
    if not behaviour.quota_left:
        return told(429, "You exceeded your current quota.", "insufficient_quota")
    tokens = _tokens(prompt_text(body)) + _most_tokens(body)
    if tokens > behaviour.context_tokens:
        message = f"This model's maximum context length is {behaviour.context_tokens} tokens."
        return told(400, message, "context_length_exceeded", "messages")
    return None


def _tokens(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // 4 + 1


def _most_tokens(body: Body) -> int:
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)


def completion(path: str, body: Body, behaviour: Behaviour) -> Body:
    """The body of a good reply, cut at the request's max_tokens."""
    text = behaviour.reply(body)
    most = _most_tokens(body)
    finish = "stop"
    if _tokens(text) > most:
        text, finish = text[: 4 * most - 1], "length"
    usage = {"prompt_tokens": _tokens(prompt_text(body)), "completion_tokens": _tokens(text)}
    usage["total_tokens"] = sum(usage.values())
    shared = {"id": "cmpl-1", "created": 0, "model": body["model"], "usage": usage}
    if path == "/completions":
        choice: Body = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
        return {**shared, "object": "text_completion", "choices": [choice]}
    message = {"role": "assistant", "content": text, "refusal": None, **behaviour.message}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {**shared, "object": "chat.completion", "choices": [choice]}
