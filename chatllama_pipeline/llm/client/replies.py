"""What a provider's JSON says: the reply in it, or that there is none."""

from __future__ import annotations

import re
from typing import Any

from chatllama_pipeline.llm.client.requests import LlmReply

# C0 and C1 but tab and line feed: a terminal obeys them, and files that hold them are no text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# No context is that long.
_MOST_TOKENS = 10**9
_SECRETS = re.compile(r"\b(sk|key)-[\w*.…-]{3,}")


def clean(text: str) -> str:
    """Text that any file and terminal can hold: no lone surrogates, no control characters."""
    text = text.replace("\r\n", "\n")
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _CONTROLS.sub("", text)


def redact(text: str, key: str) -> str:
    """`text` without the key, nor what looks like one: providers quote it in their errors."""
    if key:
        text = text.replace(key, "[key]")
    return _SECRETS.sub("[key]", text)


def read_reply(body: Any, style: str, model: str, likely_tokens: int) -> LlmReply:
    """The reply in a completion's body.

    A server that counts no tokens is taken to have read `likely_tokens` and written one per three
    bytes. Raises ValueError, saying what is wrong, where the body is no completion.
    """
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise ValueError("the body is no completion: it has no list of choices")
    if not body["choices"] or not isinstance(body["choices"][0], dict):
        raise ValueError("the body is no completion: it has no first choice")
    choice = body["choices"][0]
    finish = str(choice.get("finish_reason") or "stop")
    if isinstance(choice.get("error"), dict):
        raise ValueError("the first choice is an error")
    text, refused = _text(choice, style)
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return LlmReply(
        text=clean(text),
        finish_reason="refusal" if refused else finish,
        prompt_tokens=_tokens(usage.get("prompt_tokens"), likely_tokens),
        completion_tokens=_tokens(
            usage.get("completion_tokens"), -(-len(text.encode("utf-8", "replace")) // 3)
        ),
        cached=False,
        model=str(body.get("model") or model),
    )


def _text(choice: dict[str, Any], style: str) -> tuple[str, bool]:
    """A choice's text, and whether it is a refusal."""
    if style == "completion":
        text, refusal = choice.get("text"), None
    else:
        message = choice.get("message")
        if not isinstance(message, dict):
            raise ValueError("the first choice has no message")
        text, refusal = message.get("content"), message.get("refusal")
    if isinstance(refusal, str) and refusal and not text:
        return refusal, True
    # A model that spent all its tokens on thinking has no content.
    if text is None:
        text = ""
    if isinstance(text, list):
        text, parted = _joined(text)
        if parted:
            return parted, True
    if not isinstance(text, str):
        raise ValueError(f"the first choice's text is a {type(text).__name__}")
    return text, False


def _joined(parts: list[Any]) -> tuple[str, str]:
    """The texts of a reply that comes in parts, and its refusal; thoughts are none of either."""
    texts: dict[str, list[str]] = {"text": [], "refusal": []}
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        said = part if isinstance(part, str) else part.get(kind) if kind in texts else ""
        if not isinstance(said, str):
            raise ValueError("a part of the first choice's text is none")
        texts["refusal" if kind == "refusal" else "text"].append(said)
    text = "".join(texts["text"])
    return text, "" if text else "".join(texts["refusal"])


def _tokens(told: Any, otherwise: int) -> int:
    """A server's count, where it is one."""
    is_count = isinstance(told, int) and not isinstance(told, bool) and 0 <= told <= _MOST_TOKENS
    return told if is_count else otherwise
