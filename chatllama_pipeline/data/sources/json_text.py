"""JSON as files hold it: what Python's reader breaks off at is told with its row."""

from __future__ import annotations

import json
import re
from typing import Any

# Python reads integers up to 4,300 digits, and nests some hundred calls deep.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_DEEPEST = 200


class HugeNumber:
    """An integer with more digits than any field of a row needs."""

    def __init__(self, digits: str) -> None:
        self.digits = len(digits)

    def __repr__(self) -> str:
        return f"a number of {self.digits:,} digits"


class JsonError(Exception):
    """Why a text is no JSON, without its place in words; `line` and `column` count from 1."""

    def __init__(self, told: str, line: int = 0, column: int = 0, row: int = 0) -> None:
        super().__init__(told)
        self.told = told
        self.line = line
        self.column = column
        self.row = row


def read(text: str, unique_keys: bool = False) -> Any:
    """The value of a JSON text; integers that nobody can need come as HugeNumber.

    With `unique_keys` a key that stands twice in an object is refused: one of its values would be
    lost. Raises JsonError, with the row of a list that is nested too deeply.
    """
    pairs = once if unique_keys else None
    try:
        try:
            return json.loads(text, object_pairs_hook=pairs)
        except ValueError as error:
            if isinstance(error, json.JSONDecodeError):
                raise
            return json.loads(text, object_pairs_hook=pairs, parse_int=_integer)
    except json.JSONDecodeError as error:
        told = _cure(error)
        raise JsonError(told, error.lineno, error.colno) from error
    except RecursionError as error:
        row = _deep_row(text)
        raise JsonError("is nested too deeply; write plain values", row=row) from error


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these keys and values; JsonError where a key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise JsonError(f"the key {twice} stands twice in an object; remove one")
    return found


def _integer(digits: str) -> int | HugeNumber:
    try:
        return int(digits)
    except ValueError:
        return HugeNumber(digits)


def _deep_row(text: str) -> int:
    """In a list: the number of the row that is nested too deeply; 0 in anything else."""
    depth, row = 0, 1
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in "[{":
            depth += 1
            if depth > _DEEPEST:
                break
        elif mark in "]}":
            depth -= 1
        elif mark == "," and depth == 1:
            row += 1
    return row if text.lstrip().startswith("[") and not text.lstrip().startswith("[[") else 0


def _cure(error: json.JSONDecodeError) -> str:
    if error.doc.startswith("None", error.pos):
        return "None is Python's word: write null"
    if error.doc.startswith(("True", "False"), error.pos):
        return "write true or false, in small letters"
    if error.msg == "Extra data" and error.lineno > 1:
        return "where every line is a row of its own, name the file .jsonl"
    if error.msg.startswith("Invalid control character"):
        return r"a line break or a tab stands within a text: write \n or \t in its place"
    if error.msg.startswith("Unterminated string"):
        return r"a text has no end: close it by a double quote, and write a line break in it as \n"
    if error.msg.startswith("Invalid \\escape") or error.msg.startswith("Invalid \\uXXXX"):
        return r"a backslash within a text is written \\"
    return "write it as JSON: double quotes, and no comma after the last value"
