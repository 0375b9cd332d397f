"""The rows of JSON files: a list in one, or a row per line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from chatllama_pipeline.data.own.errors import Errors
from chatllama_pipeline.data.own.rows import Reading
from chatllama_pipeline.data.sources import json_text
from chatllama_pipeline.data.sources.json_text import JsonError

Numbered = Iterator[tuple[int, Any]]
_BOM = b"\xef\xbb\xbf"


def read_json(raw: bytes, name: str, errors: Errors) -> Any:
    """The value of a JSON file, or None with an error noted."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        errors.add(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8")
        return None
    try:
        return json_text.read(text, unique_keys=True)
    except JsonError as error:
        if error.line:
            place = f": no JSON at line {error.line}, column {error.column}; "
        else:
            place = f", row {error.row}: " if error.row else ": "
        errors.add(f"{name}{place}{error.told}")
        return None


def json_rows(handle: BinaryIO, reading: Reading) -> Numbered:
    """The rows of one list."""
    errors, before = reading.errors, reading.errors.count
    raw = handle.read()
    if not raw.removeprefix(_BOM).strip():
        return
    listed = read_json(raw, reading.name, errors)
    if errors.count > before:
        return
    if not isinstance(listed, list):
        errors.add(f"{reading.name}: {_no_list(listed)}")
        return
    yield from enumerate(listed, start=1)


def _no_list(value: Any) -> str:
    told = "holds no list; write [ before the first row and ] after the last"
    if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
        told += '; pandas writes one by to_json(..., orient="records")'
    return told


def jsonl_rows(handle: Iterable[bytes], reading: Reading) -> Numbered:
    """A row per line; empty lines are passed over, and counted, so that a row is its line."""
    errors, begun = reading.errors, False
    for number, line in enumerate(handle, start=1):
        # Files that were joined bring a mark each.
        line = line.removeprefix(_BOM)
        if not line.strip():
            continue
        if not begun:
            begun = True
            if told := _spread(line):
                errors.add(f"{reading.name}: {told}")
                return
        where = f"{reading.name}, row {number}"
        try:
            row = json_text.read(line.decode().rstrip(), unique_keys=True)
        except UnicodeDecodeError as error:
            place = f"byte {error.start} of the line"
            errors.add(f"{where}: {place} is not UTF-8; save the file as UTF-8")
        except JsonError as error:
            place = f"no JSON at column {error.column}; " if error.line else ""
            errors.add(f"{where}: {place}{error.told}")
        else:
            yield number, row


def _spread(line: bytes) -> str | None:
    """Why a first line is no row, where the file is not one row per line at all."""
    first = line.strip()
    if first.startswith(b"["):
        return "is a list in JSON; name the file .json"
    if first == b"{":
        return "its first row is spread over several lines; write every row on one line"
    return None
