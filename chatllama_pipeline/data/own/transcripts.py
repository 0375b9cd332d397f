"""Texts that hold a whole conversation behind `Human:` and `Assistant:`, as turns.

hh-rlhf's rows are such transcripts, and so are the files that the original ChatLLaMA's own scripts
wrote, which put `##` between prompt and reply.
"""

from __future__ import annotations

import re
from typing import Any

from chatllama_pipeline.data.splits import Messages

_START = re.compile(r"\s*(?:##\s+)?Human:")
_MARK = re.compile(r"(?:^|\n\n)(?:##\s*\n\s*)?(Human|Assistant):")
_SEPARATOR = re.compile(r"\s*\n\s*##\s*$")
_REPLY = re.compile(r"\s*(?:##\s+)?Assistant:")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(value: Any) -> bool:
    """Whether a value is a text that begins with the human's mark."""
    return isinstance(value, str) and bool(_START.match(value))


def turns_of(text: str) -> Messages:
    """The turns of a transcript, each stripped; an empty one at its end is left out."""
    _, *pieces = _MARK.split(text.strip())
    turns = [
        {"role": _ROLES[mark], "content": _without_separator(said).strip()}
        for mark, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return turns[:-1] if turns and not turns[-1]["content"] else turns


def plain_prompt(value: Any) -> Any:
    """A prompt as turns where it is a transcript, and without the original's separator at its end;
    any other value as it is."""
    if is_transcript(value):
        return turns_of(value)
    return _without_separator(value) if isinstance(value, str) else value


def plain_reply(value: Any, in_transcript: bool = False) -> Any:
    """A reply without the assistant's mark before it and the separator behind it; any other value
    as it is. What goes on from a transcript begins behind the mark's space, and loses that."""
    if not isinstance(value, str):
        return value
    marked = _REPLY.match(value)
    if marked or in_transcript:
        value = value[marked.end() if marked else 0 :].strip()
    return _without_separator(value)


def _without_separator(text: str) -> str:
    return _SEPARATOR.sub("", text)
