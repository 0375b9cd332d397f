"""Reading a writer's reply: several rows as JSON, or one text a line; and a single text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_NUMBERING = re.compile(r"^\s*(?:[-*\u2022\u00b7]\s+|\(?\d{1,3}[.):\u3001]\s*|#+\s+)")
_QUOTES = "\"'\u201c\u201d\u00ab\u00bb\u300c\u300d"
_COLONS = (":", "\uff1a")
_OBJECT = re.compile(r'\{\s*"')
_BEGINS_WITH_JSON = re.compile(r"\s*(?:```\w*\s*)?[\[{]")
_DECODER = json.JSONDecoder()


def read_items(reply: str, fields: tuple[str, ...], cut_off: bool) -> list[dict[str, str]]:
    """The rows of a reply that have all `fields` as texts, in their order.

    Rows are JSON objects, wherever they stand in the reply. Where one field is asked for and there
    is no JSON, each line is a row. Of a reply that was cut off those count that are whole, if it
    begins with JSON or numbers its lines: else it may be thoughts, with drafts among them.
    """
    text = reply.strip()
    if cut_off and not _BEGINS_WITH_JSON.match(text):
        numbered = [line for line in text.splitlines()[:-1] if _NUMBERING.match(line)]
        text = "" if "{" in text else "\n".join(numbered)
    elif cut_off and "{" not in text:
        text = text.rpartition("\n")[0]
    found = [
        {field: row[field].strip() for field in fields}
        for row in _objects(text)
        if all(isinstance(row.get(field), str) for field in fields)
    ]
    if found or len(fields) > 1 or "{" in text:
        return found
    lines = [line for line in text.splitlines() if line.strip()]
    # "Here are eight of them:" is no row.
    plain = [
        _NUMBERING.sub("", line).strip() for line in lines if not line.rstrip().endswith(_COLONS)
    ]
    return [{fields[0]: _unquoted(line)} for line in plain if line and not line.startswith("```")]


def read_text(reply: str) -> str:
    """A reply that is one text, without quotes around it all."""
    return _unquoted(reply.strip())


def _unquoted(text: str) -> str:
    inner = text[1:-1]
    is_quoted = len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES
    return inner.strip() if is_quoted and not any(mark in inner for mark in _QUOTES) else text


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object of a text that holds no other object, outermost first."""
    start = _OBJECT.search(text)
    while start:
        try:
            found, end = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            end = start.start() + 1
        else:
            yield from _leaves(found)
        start = _OBJECT.search(text, end)


def _leaves(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, dict):
        nested = [inner for inner in value.values() if isinstance(inner, dict | list)]
        yield from _leaves(nested) if nested else iter([value])
