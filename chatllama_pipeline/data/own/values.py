"""Single values of a user's row: texts, scores, thumbs and turns; read, or refused with a cure."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from chatllama_pipeline.data.own.errors import told_value

ROLES = ("system", "user", "assistant")
ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
}
# A list of turns as pandas and spreadsheets hold it: as JSON, or as Python prints it.
_TURNS_AS_TEXT = re.compile(r"\s*\[\s*\{\s*(['\"])(role|content|from|value)\1\s*:")
_LONGEST_TURNS = 4 * 2**20
# numpy prints its arrays without commas; within a printed text no line break stands raw.
_WITHOUT_COMMA = re.compile(r"\}\s*\n\s*\{")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LEARNED = ("train", "training", "loss")
_UP = ("true", "1", "+1", "1.0", "up", "thumbs up", "yes", "good", "like", "\U0001f44d")
_DOWN = (
    "false",
    "0",
    "-1",
    "0.0",
    "-1.0",
    "down",
    "thumbs down",
    "no",
    "bad",
    "dislike",
    "\U0001f44e",
)
_THUMBS = dict.fromkeys(_UP, True) | dict.fromkeys(_DOWN, False)


def text_error(value: Any) -> str | None:
    """Why a value is no usable text, with the cure; None if it is one."""
    if not isinstance(value, str):
        return _no_text(value)
    if not value.strip():
        return "is empty; write a text, or remove the row"
    if "\0" in value:
        return f"holds a NUL character at position {value.index(chr(0))}; remove it"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        # How Python reads a stray byte of a file, see PEP 383.
        odd = f"byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
        return f"{odd} at position {error.start} is not UTF-8; save the file as UTF-8"
    return None


def _no_text(value: Any) -> str:
    if value is None:
        return "is null; write a text, or remove the row"
    if isinstance(value, list):
        return (
            f"{told_value(value)} is a list and no text; write a text, or turns of role and content"
        )
    if isinstance(value, dict):
        return f"{told_value(value)} is an object and no text; write the text that it holds"
    if isinstance(value, bool):
        return f"{told_value(value)} is no text; write the word as a text"
    if isinstance(value, int | float):
        return f"{told_value(value)} is a number and no text; write the column as texts"
    return f"{told_value(value)} is a {type(value).__name__} and no text; write it as a text"


def score_error(value: Any) -> str | None:
    """Why a value is no score, with the cure; None if it is one, or null."""
    # JSON's true and false are numbers to Python, and no scores.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and 0 <= value <= 5):
        return None
    return f"{told_value(value)} is no score; write a number from 0 to 5, or null to have it scored"


def number_in(text: str, decimal_comma: bool = False) -> float | None:
    """The number that a text spells in plain digits, else None."""
    plain = text.strip()
    if decimal_comma and "." not in plain:
        plain = plain.replace(",", ".", 1)
    return float(plain) if _NUMBER.fullmatch(plain) else None


def thumb_in(value: Any) -> bool | None:
    """Whether a thumb is up; None for a value that is no thumb."""
    if isinstance(value, bool | int | float):
        return value == 1 if value in (-1, 0, 1) else None
    if not isinstance(value, str):
        return None
    # A colour of skin says nothing of the reply.
    plain = re.sub("[\U0001f3fb-\U0001f3ff\ufe0f]", "", value)
    return _THUMBS.get(re.sub(r"[\s_-]+(?=[a-z])", " ", plain.strip().lower()))


def looks_like_turns(value: Any) -> bool:
    """Whether a text is a list of turns that some program wrote as a text."""
    return isinstance(value, str) and bool(_TURNS_AS_TEXT.match(value))


def turns_in(text: str) -> list[Any] | None:
    """The list that a text spells, as JSON or as Python prints it; None where it can't be read."""
    if len(text) > _LONGEST_TURNS:
        return None
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        listed = _literal(text)
    return listed if isinstance(listed, list) else None


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        # A text that is no printed list may hold odd backslashes: nobody's concern.
        warnings.simplefilter("ignore")
        try:
            return ast.literal_eval(_WITHOUT_COMMA.sub("},\n{", text.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None


def plain_turn(turn: Any) -> Any:
    """A turn of `from` and `value`, or with its content in parts, as role and content; what is
    neither stays as it is."""
    if not isinstance(turn, Mapping):
        return turn
    if "role" not in turn and {"from", "value"} <= set(turn):
        said = turn["from"]
        role = ROLE_NAMES.get(said.lower(), said.lower()) if isinstance(said, str) else said
        return {**turn, "role": role, "content": turn["value"]}
    content = turn.get("content")
    if isinstance(content, list) and content and all(map(_is_text_part, content)):
        return {**turn, "content": "".join(part["text"] for part in content)}
    return turn


def is_imitated(turn: Mapping[str, Any]) -> bool:
    """Whether a reply is to be learned: OpenAI marks the others with weight 0, Axolotl and
    ms-swift with `train`, `training` or `loss` false."""
    return turn.get("weight") != 0 and not any(turn.get(name) is False for name in _LEARNED)


def _is_text_part(part: Any) -> bool:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        return False
    return isinstance(part.get("text"), str)


def turns_error(value: Any) -> str | None:
    """Why a value is no conversation: turns of user and assistant by turns, user first, a system
    turn before them if any; None if it is one."""
    if looks_like_turns(value):
        return "is a list of turns as a text that is no JSON; write it with json.dumps"
    if not isinstance(value, list) or not value:
        return f'{told_value(value)} is no list of turns; write [{{"role": ..., "content": ...}}]'
    expected: tuple[str, ...] = ROLES[:2]
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            return f"turn {number}: {told_value(turn)} has not both role and content; add them"
        role = turn["role"]
        if role not in ROLES:
            hint = ROLE_NAMES.get(str(role).lower())
            cure = f"write {hint}" if hint else "write system, user or assistant"
            return f"turn {number}: the role {told_value(role)} is unknown; {cure}"
        if role not in expected:
            return (
                f"turn {number}: the role {role} cannot stand here; write {' or '.join(expected)}, "
                "join turns of the same role, and begin with the user"
            )
        if told := text_error(turn["content"]):
            return f"turn {number}, content: {told.replace('remove the row', 'remove the turn')}"
        if turn.get("weight") not in (None, 0, 1):
            return f"turn {number}: the weight {told_value(turn['weight'])} is neither 0 nor 1"
        expected = ("assistant",) if role == "user" else ("user",)
    return None
