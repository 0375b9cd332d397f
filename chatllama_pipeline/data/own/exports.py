"""What chat programs write of a person's conversations, as conversations to learn from.

A reply that rests on what nobody can read here (a picture, a file, what a tool found) stands in
the prompts of later ones with weight 0, and is not imitated. Where a question is nothing but a
picture or a file, the conversation ends before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chatllama_pipeline.data.own.errors import UnfitError, told_value
from chatllama_pipeline.data.own.values import ROLE_NAMES
from chatllama_pipeline.data.splits import Row

_ROLES = ("user", "assistant")
# What ChatGPT shows as text; the rest are thoughts, code that runs, what a tool said.
_CHATGPT_TEXTS = ("text", "multimodal_text")
_CLAUDE_TEXTS = ("text", "thinking")


@dataclass(frozen=True)
class _Piece:
    """What one message says; `unseen` where more belongs to it than its text."""

    role: str
    text: str
    unseen: bool


def chatgpt(raw: Row) -> list[Row]:
    """The messages of `mapping` from the first to `current_node`: the branch that was kept."""
    nodes = raw["mapping"]
    if not all(isinstance(node, Mapping) for node in nodes.values()):
        raise UnfitError("mapping", "is no tree of messages by their ids; export it once more")
    ways = [_chatgpt_piece(node["message"]) for node in _branch(nodes, raw.get("current_node"))]
    return _talk([piece for piece in ways if piece])


def _branch(nodes: Mapping[str, Row], newest: Any) -> list[Row]:
    if newest not in nodes:
        below = {node.get("parent") for node in nodes.values()}
        newest = next((name for name in reversed(list(nodes)) if name not in below), None)
    way: dict[str, Row] = {}
    while newest in nodes and newest not in way:
        way[newest] = nodes[newest]
        newest = nodes[newest].get("parent")
    return [node for node in reversed(way.values()) if isinstance(node.get("message"), Mapping)]


def _chatgpt_piece(message: Mapping[str, Any]) -> _Piece | None:
    role = _under(message, "author").get("role")
    content, about = _under(message, "content"), _under(message, "metadata")
    if role == "system" or about.get("is_visually_hidden_from_conversation"):
        return None
    kind = content.get("content_type")
    if role not in _ROLES or kind not in _CHATGPT_TEXTS or message.get("recipient", "all") != "all":
        # Thoughts and notes are no part of the conversation; what a tool does is.
        works = role == "tool" or kind in ("code", "execution_output")
        return _Piece("tool", "", unseen=True) if works else None
    parts = content.get("parts")
    if not isinstance(parts, list):
        raise UnfitError(
            "mapping", f"holds parts {told_value(parts)}, no list; export it once more"
        )
    texts = [part for part in parts if isinstance(part, str)]
    unseen = len(texts) < len(parts) or bool(about.get("attachments"))
    return _Piece(role, "".join(texts), unseen)


def claude(raw: Row) -> list[Row]:
    """`chat_messages` of `sender` and `text`, or `content` in parts."""
    return _talk([_claude_piece(message) for message in _mappings(raw, "chat_messages")])


def _claude_piece(message: Mapping[str, Any]) -> _Piece:
    sender, content = message.get("sender"), message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    role = ROLE_NAMES.get(sender, sender) if isinstance(sender, str) else sender
    if role not in _ROLES:
        told = f"holds the sender {told_value(sender)}; write human or assistant"
        raise UnfitError("chat_messages", told)
    kinds = [part.get("type") for part in parts if isinstance(part, Mapping)]
    said = [part.get("text") for part in parts if isinstance(part, Mapping)]
    texts = [text for kind, text in zip(kinds, said, strict=True) if kind == "text"]
    text = "".join(filter(None, texts)) or message.get("text") or ""
    more = any(message.get(name) for name in ("attachments", "files"))
    return _Piece(role, text, more or not set(kinds) <= set(_CLAUDE_TEXTS))


def gemini(raw: Row) -> list[Row]:
    """`contents` of `role` and `parts`, below `systemInstruction` if any."""
    pieces = []
    for content in _mappings(raw, "contents"):
        role = content.get("role", "user")
        parts = [*_mappings(content, "parts", "contents")]
        text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
        unseen = not all("text" in part for part in parts)
        works = role == "function" or any("functionResponse" in part for part in parts)
        pieces.append(_Piece("tool" if works else ROLE_NAMES.get(role, role), text, unseen))
    rows = _talk(pieces)
    system = _under(raw, "systemInstruction").get("parts") or []
    told = "".join(part.get("text", "") for part in system if isinstance(part, Mapping))
    return [{**row, "system": told} for row in rows] if told else rows


def _talk(pieces: list[_Piece]) -> list[Row]:
    """Turns of user and assistant by turns, what one said in several messages as one turn."""
    turns: list[Row] = []
    unseen = False
    for piece in pieces:
        if piece.role == "user":
            unseen = piece.unseen or (unseen and bool(turns) and turns[-1]["role"] == "user")
            if piece.unseen and not piece.text.strip():
                break
        else:
            unseen |= piece.unseen
        if piece.role not in _ROLES or not piece.text.strip():
            continue
        if turns and turns[-1]["role"] == piece.role:
            turns[-1]["content"] += f"\n\n{piece.text.strip()}"
        elif turns or piece.role == "user":
            turns.append({"role": piece.role, "content": piece.text.strip()})
        if turns and turns[-1]["role"] == "assistant":
            turns[-1]["weight"] = 0 if unseen else 1
    while turns and turns[-1]["role"] == "user":
        turns.pop()
    return [{"messages": turns}] if turns else []


def _under(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _mappings(
    value: Mapping[str, Any], name: str, field: str | None = None
) -> Iterator[Mapping[str, Any]]:
    listed = value.get(name)
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise UnfitError(field or name, f"{told_value(listed)} is no list of objects; correct it")
    yield from listed
