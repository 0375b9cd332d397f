"""Open WebUI's export of feedback (`/api/v1/evaluations/feedbacks/all/export`) as ratings.

Every entry brings the chat that it was given in. Its thumb is one of the rated message; where the
message had siblings, which is how its arena shows two models, it also won or lost against each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from chatllama_pipeline.data.feedback.ratings import Rating, rating_of
from chatllama_pipeline.errors import DataError

# How it keeps what a model thought, within the message; one that never ended is all thought.
_THOUGHT = re.compile(r"<details type=\"reasoning\".*?(?:</details>\s*|\Z)", re.DOTALL)
_MOST_TURNS = 200


def is_export(raw: Any) -> bool:
    """Whether this is an entry of such an export."""
    return isinstance(raw, dict) and raw.get("type") == "rating" and "data" in raw


def is_chat(raw: Any) -> bool:
    """Whether this is a chat of its export of chats, in which nobody's rating stands."""
    return isinstance(raw, dict) and "kind" not in raw and isinstance(raw.get("chat"), dict)


def model_of(raw: Mapping[str, Any]) -> str:
    """The id of the model that an entry rates; DataError where it can't be told."""
    return str(_part(raw, "data").get("model_id") or "")


def created(raw: Mapping[str, Any]) -> str:
    """When an entry was given, "" where it doesn't say; DataError where that is no time."""
    seconds = raw.get("created_at")
    if seconds is None:
        return ""
    try:
        if isinstance(seconds, bool):
            raise TypeError
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (TypeError, ValueError, OverflowError, OSError):
        raise DataError(f"created_at: {seconds!r} are no seconds since 1970") from None


def ratings_of(raw: Mapping[str, Any], assistant: str) -> Iterator[tuple[str, Rating]]:
    """The ratings in an entry, under names that are the same whenever it is read.

    None where the chat is gone, in part or whole, is longer than a rating's, or nothing was rated.
    Raises DataError where it is malformed.
    """
    number, data, meta = raw.get("id"), _part(raw, "data"), _part(raw, "meta")
    if not isinstance(number, str) or not number:
        raise DataError("id: is missing")
    rating = data.get("rating")
    if rating is None:
        return
    if str(rating).removesuffix(".0") not in ("1", "-1"):
        raise DataError(f"data.rating: {rating!r} is neither 1 nor -1")
    messages = _messages(raw)
    rated = messages.get(str(meta.get("message_id")))
    if rated is None:
        return
    prompt = _prompt(messages, rated)
    reply = _reply(rated, assistant)
    if not prompt or reply is None:
        return
    good = not str(rating).startswith("-")
    told = (data.get("comment"), data.get("reason"))
    reason = next((text for text in told if text and isinstance(text, str)), "")[:2000]
    thumb = {"kind": "thumb", "prompt": prompt, "reply": reply, "good": good, "reason": reason}
    yield f"openwebui-{number}", rating_of(thumb)
    for place, other in _siblings(messages, rated):
        shown = _reply(other, assistant)
        if shown is not None and shown["text"] != reply["text"]:
            # It keeps no sides: the rated one is named first.
            sides = {"left": reply, "right": shown, "better": "left" if good else "right"}
            name = f"openwebui-{number}-{place}"[:64]
            yield name, rating_of({"kind": "preference", "prompt": prompt, **sides})


def _part(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = raw.get(key)
    if found is not None and not isinstance(found, dict):
        raise DataError(f"{key}: must be an object")
    return found or {}


def _messages(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: Any = raw
    for key in ("snapshot", "chat", "chat", "history", "messages"):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise DataError("snapshot.chat.chat.history.messages: must be messages by their ids")
    return found


def _prompt(
    messages: Mapping[str, dict[str, Any]], rated: Mapping[str, Any]
) -> list[dict[str, str]]:
    """The turns that lead to a message; none where one is missing or can't be read, or where they
    are too many, as those are that lead in a circle."""
    turns: list[dict[str, str]] = []
    parent = rated.get("parentId")
    while parent is not None:
        place = messages.get(str(parent), {})
        content = place.get("content")
        text = _THOUGHT.sub("", content) if isinstance(content, str) else ""
        if not text or len(turns) == _MOST_TURNS:
            return []
        turns.append({"role": str(place.get("role")), "content": text})
        parent = place.get("parentId")
    return turns[::-1]


def _siblings(
    messages: Mapping[str, dict[str, Any]], rated: Mapping[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, one)
        for name, one in messages.items()
        if one is not rated
        and one.get("role") == "assistant"
        and one.get("parentId") == rated.get("parentId")
    ]


def _reply(message: Mapping[str, Any], assistant: str) -> dict[str, Any] | None:
    content = message.get("content")
    text = _THOUGHT.sub("", content) if isinstance(content, str) else ""
    if not text.strip():
        return None
    name, _, version = str(message.get("model") or "").partition("@")
    return {"text": text, "version": version[:64] if name == assistant else ""}
