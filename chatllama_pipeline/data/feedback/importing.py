"""Files of feedback: our own JSONL, and Open WebUI's export."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatllama_pipeline.data.feedback.open_webui import (
    created,
    is_chat,
    is_export,
    model_of,
    ratings_of,
)
from chatllama_pipeline.data.feedback.ratings import Rating, rating_of, word_of
from chatllama_pipeline.data.sources import json_text
from chatllama_pipeline.data.unchanged import unchanged
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.store.feedback import Entry
from chatllama_pipeline.store.manifests import utc_now

MOST_ERRORS = 20
AT = "@"
# With its mark, as PowerShell writes what a command says.
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Found(NamedTuple):
    """The entries of a file, and how many of its rows are of other models or hold nothing."""

    entries: list[Entry]
    others: int
    empty: int


def entry_of(raw: dict[str, Any], number: str, at: str) -> Entry:
    """A rating with its `id`, `visit` and `at`, where it brings them, as an entry of the log."""
    own = dict(raw)
    number = word_of(own.pop("id", number), "id")
    visit = own.pop("visit", "")
    visit = "" if visit in (None, "") else word_of(visit, "visit")
    when = own.pop("at", at)
    if not isinstance(when, str) or len(when) > 40:
        raise DataError("at: must be a time as text")
    return Entry(number, visit, when, content_of(rating_of(own)))


def content_of(rating: Rating) -> str:
    """A rating as the log keeps it; of no trial nothing is said."""
    content = rating.model_dump()
    if not content.get("trial"):
        content.pop("trial", None)
    return json.dumps(content, ensure_ascii=False, sort_keys=True)


def as_row(entry: Entry) -> dict[str, Any]:
    """An entry as a row of our own files, which `read_feedback` takes."""
    about = {"id": entry.id, "at": entry.at, **({"visit": entry.visit} if entry.visit else {})}
    return {**about, **json.loads(entry.content)}


def read_feedback(file: Path, assistant: str, models: Sequence[str] = ()) -> Found:
    """The entries in `file`; DataError with every broken row, of which the first are named.

    Of an export, the rows that rate the assistant, a version of it (`NAME@VERSION`), or one of
    `models`. A row has the same id whenever it is read, so that importing again adds nothing.
    """
    entries: list[Entry] = []
    errors: list[str] = []
    others = empty = 0
    names, at = {assistant, *models}, utc_now()
    for where, raw in _rows(file):
        try:
            if is_chat(raw):
                raise DataError(
                    "is a chat, in which no rating stands: have Open WebUI export its feedback "
                    "(Admin Panel, Evaluations, Feedback)"
                )
            if not is_export(raw):
                entries.append(entry_of(_object(raw), _name_of(raw), at))
                continue
            model = model_of(raw)
            if model not in names and model.partition(AT)[0] not in names:
                others += 1
                continue
            when = created(raw) or at
            found = [
                Entry(_word(name), "", when, content_of(rating))
                for name, rating in ratings_of(raw, assistant)
            ]
            entries += found
            empty += not found
        except DataError as error:
            errors.append(f"{file}: {where}: {error}")
    if errors:
        more = len(errors) - MOST_ERRORS
        told = [*errors[:MOST_ERRORS], *([f"and {more} more"] if more > 0 else [])]
        raise DataError("\n".join(["nothing was imported; mend these rows:", *told]))
    return Found(entries, others, empty)


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Each row with its place: of a JSON list, or of lines of JSON."""
    try:
        with unchanged(file):
            raw = file.read_bytes()
            text = raw.decode("utf-16" if raw[:2] in _UTF_16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't be read ({error}): name a JSON or JSONL file") from error
    if _is_one_object(text):
        yield "row 1", _parsed(text)
        return
    if text.lstrip().startswith("["):
        try:
            rows = json_text.read(text, unique_keys=True)
        except json_text.JsonError as error:
            place = f"row {error.row}: " if error.row else ""
            raise DataError(f"{file}: {place}is no JSON list: {error.told}") from None
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        return
    # A line ends with \n alone: other ends of lines may stand within a text as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _parsed(line)


def _is_one_object(text: str) -> bool:
    """Whether the file is one object over several lines, as a person or a program sets it out."""
    first = text.strip().partition("\n")[0].strip()
    return (
        first.startswith("{")
        and isinstance(_parsed(first), json_text.JsonError)
        and not (isinstance(_parsed(text), json_text.JsonError))
    )


def _parsed(line: str) -> Any:
    try:
        return json_text.read(line, unique_keys=True)
    except json_text.JsonError as error:
        return error


def _object(raw: Any) -> dict[str, Any]:
    if isinstance(raw, json_text.JsonError):
        raise DataError(f"is no JSON: {raw.told}")
    if not isinstance(raw, dict):
        raise DataError("must be a JSON object")
    lists = [name for name, value in raw.items() if isinstance(value, list) and name != "prompt"]
    if "kind" not in raw and lists:
        raise DataError(f"is no rating: write the list that stands in {lists[0][:64]} alone")
    return raw


def _name_of(raw: Any) -> str:
    """What a row without an id is called: its content's hash, so that it is added once."""
    text = json.dumps(raw, sort_keys=True, default=str)
    return f"row-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:32]}"


def _word(name: str) -> str:
    """`name` as an id that `word_of` takes, too."""
    ours = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "-" for c in name)
    return ours[:64].ljust(16, "-")
