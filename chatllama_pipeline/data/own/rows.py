"""The rows of one user's file as rows of our tables, whatever format they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from chatllama_pipeline.data.own.errors import Errors, UnfitError, told_value
from chatllama_pipeline.data.own.recognising import Misfit, Recogniser
from chatllama_pipeline.data.own.shapes import Shape
from chatllama_pipeline.data.own.transcripts import is_transcript, plain_prompt, plain_reply
from chatllama_pipeline.data.own.values import (
    is_imitated,
    looks_like_turns,
    number_in,
    plain_turn,
    score_error,
    text_error,
    thumb_in,
    turns_error,
    turns_in,
)
from chatllama_pipeline.data.splits import Messages, Row
from chatllama_pipeline.data.tables import user_messages
from chatllama_pipeline.schemas import MESSAGES, PAIR_SCHEMA

PERSONAL = "personal"
_ROWS_TOLD = 3
THUMB_SCORES = {True: 5.0, False: 0.0}

_PROMPT = pa.field("prompt", MESSAGES, nullable=False)
_COMPLETION = pa.field("completion", pa.string(), nullable=False)
_SOURCE = pa.field("source", pa.string(), nullable=False)
TABLES: dict[str, pa.Schema] = {
    "actor": pa.schema([_PROMPT, _COMPLETION, _SOURCE]),
    "reward": pa.schema([_PROMPT, _COMPLETION, pa.field("score", pa.float64()), _SOURCE]),
    "rlhf": pa.schema([_PROMPT, _SOURCE]),
    "pairs": PAIR_SCHEMA,
}
# Kept beside the scores that they became.
THUMBS = pa.schema([_PROMPT, _COMPLETION, pa.field("label", pa.bool_(), nullable=False), _SOURCE])


@dataclass
class Reading:
    """What is known of a file while it is read.

    `name` is its path as errors spell it. A format of `texts` (CSV, a spreadsheet) holds no
    numbers: they are read from texts, with a decimal comma where the file is of such a country.
    """

    table: str
    name: str
    errors: Errors
    texts: bool = False
    decimal_comma: bool = False


@dataclass
class FileRows:
    """Turns raw rows of a file into rows of tables. What many rows have alike is told once, by
    `close`, when the file is through.

    `columns` maps our fields to the file's, as config.yaml says.
    """

    reading: Reading
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    mapped: set[str] = field(default_factory=set)
    shapes: Counter[str] = field(default_factory=Counter)
    _told: dict[str, Shape] = field(default_factory=dict)
    _misfits: dict[str, tuple[list[int], int]] = field(default_factory=dict)
    _wrong: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    _unscored: int = 0
    _weightless: int = 0
    _unanswered: int = 0

    def __post_init__(self) -> None:
        self._recogniser = Recogniser(self.reading.table, self.columns)

    def rows_of(self, number: int, raw: Any) -> list[tuple[str, Row]]:
        """What a raw row becomes, as (table, row); nothing if it has errors."""
        self.rows += 1
        if not isinstance(raw, dict):
            where = f"{self.reading.name}, row {number}"
            self.reading.errors.add(
                f"{where}: {told_value(raw)} is no object; write {{{_WANTED[self.reading.table]}}}"
            )
            return []
        row = self._renamed(raw)
        shape = self._recogniser.shape_of(row)
        if isinstance(shape, Misfit):
            known, count = self._misfits.get(shape.told, ([], 0))
            self._misfits[shape.told] = ([*known, number][:_ROWS_TOLD], count + 1)
            return []
        self.shapes[shape.name] += 1
        self._told[shape.name] = shape
        try:
            plain_rows = shape.rows(row)
            self._unanswered += shape.kind == "talk" and not plain_rows
            found = [
                made for plain in plain_rows for made in self._made(shape, self._evened(plain))
            ]
        except UnfitError as error:
            self._note(number, error)
            return []
        return found

    def _renamed(self, raw: Row) -> Row:
        here = {ours: theirs for ours, theirs in self.columns.items() if theirs in raw}
        if not here:
            return raw
        self.mapped.update(here)
        taken = set(here.values())
        row = {name: value for name, value in raw.items() if name not in taken}
        return {**row, **{ours: raw[theirs] for ours, theirs in here.items()}}

    def _note(self, number: int, error: UnfitError) -> None:
        theirs = self.columns.get(error.field, error.field)
        where = f"{self.reading.name}, row {number}" + (f", field {theirs}" if theirs else "")
        told = f"{where}: {error.told}"
        if not isinstance(error, _NoTextError):
            self.reading.errors.add(told)
            return
        first, count = self._wrong.get((theirs, error.kind), (told, 0))
        self._wrong[theirs, error.kind] = (first, count + 1)

    def close(self) -> None:
        """Tell what was kept back: of formats, and of what many rows have alike."""
        errors, name = self.reading.errors, self.reading.name
        for told, (numbers, count) in self._misfits.items():
            errors.add(f"{name}{_place(numbers, count, self.rows)}: {told}")
        for told, count in self._wrong.values():
            errors.add(told if count == 1 else f"{told} (and {count - 1} more such rows)")
        for shape in self._told.values():
            if shape.told:
                alone = self.reading.table == "rlhf" and shape.kind != "prompt"
                only = "; of these the prompts alone" if alone else ""
                errors.warn(f"{name}: read as {shape.name}: {shape.told}{only}")
        if self._unscored and not errors.count:
            errors.warn(
                f"{name}: {self._unscored:,} rows have no field score; they are to be scored by "
                "llm.judge"
            )
        if self._unanswered:
            errors.warn(
                f"{name}: {self._unanswered:,} conversations hold no question with a reply that "
                "can be read; they become no row"
            )
        if self._weightless:
            errors.warn(
                f"{name}: {self._weightless:,} conversations mark every reply as not to be learned "
                "(weight 0; train, training or loss false); they become no row"
            )

    # From our fields to tables

    def _evened(self, row: Row) -> Row:
        """A row of our fields with its values read: turns, transcripts, and numbers of texts."""
        row = dict(row)
        in_transcript = is_transcript(row.get("prompt"))
        if "prompt" in row:
            row["prompt"] = plain_prompt(_turns_if_any(row["prompt"]))
        for name in ("completion", "chosen", "rejected"):
            if name in row:
                row[name] = plain_reply(_turns_if_any(row[name]), in_transcript)
        if "messages" in row:
            row["messages"] = _turns_if_any(row["messages"])
        score = row.get("score")
        if self.reading.texts and isinstance(score, str):
            number = number_in(score, self.reading.decimal_comma)
            row["score"] = number if score.strip() and number is not None else score or None
        system = row.pop("system", None)
        if system not in (None, ""):
            if told := text_error(system):
                raise UnfitError("system", told)
            name = "messages" if "messages" in row else "prompt"
            row[name] = _with_system(row[name], system)
        return row

    def _made(self, shape: Shape, row: Row) -> list[tuple[str, Row]]:
        table = self.reading.table
        if table == "rlhf":
            name = "messages" if "messages" in row else "prompt"
            if name == "messages" and shape.told:
                row["messages"] = _asked(row["messages"])
            self._hold(shape, row, name, _prompt_error)
            return [("rlhf", {"prompt": _messages(row[name]), "source": PERSONAL})]
        if shape.kind == "pair":
            return [("pairs", self._pair(shape, row))]
        if shape.kind == "talk":
            return self._talk(shape, row)
        if "messages" in row:
            self._hold(shape, row, "messages", _conversation_error)
            row |= {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
        self._hold(shape, row, "prompt", _prompt_error)
        self._hold(shape, row, "completion", _reply_error)
        made: Row = {
            "prompt": _messages(row["prompt"]),
            "completion": _reply(row["completion"]),
            "source": PERSONAL,
        }
        if table == "actor":
            return [(table, made)]
        if shape.kind == "thumb":
            thumb = bool(thumb_in(row["label"]))
            return [
                (table, {**made, "score": THUMB_SCORES[thumb]}),
                ("thumbs", {**made, "label": thumb}),
            ]
        return [(table, {**made, "score": self._score(shape, row)})]

    def _pair(self, shape: Shape, row: Row) -> Row:
        self._hold(shape, row, "prompt", _prompt_error)
        for name in ("chosen", "rejected"):
            self._hold(shape, row, name, _reply_error)
            before = row[name][:-1] if isinstance(row[name], list) else []
            if before and _turns(before) not in _beginnings(_messages(row["prompt"])):
                theirs = shape.names.get(name, name)
                raise UnfitError(theirs, "does not begin with the row's prompt; correct it")
        return {
            "prompt": _messages(row["prompt"]),
            "chosen": _reply(row["chosen"]),
            "rejected": _reply(row["rejected"]),
            "strength": 1.0,
            "domain": "",
            "source": PERSONAL,
        }

    def _talk(self, shape: Shape, row: Row) -> list[tuple[str, Row]]:
        self._hold(shape, row, "messages", _conversation_error)
        turns = _turns(row["messages"])
        ends = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
        extra: Row = {"source": PERSONAL}
        if self.reading.table == "reward":
            ends, extra["score"] = ends[-1:], self._score(shape, row)
        else:
            ends = [number for number in ends if is_imitated(row["messages"][number])]
            self._weightless += not ends
        return [
            (
                self.reading.table,
                {"prompt": turns[:end], "completion": turns[end]["content"], **extra},
            )
            for end in ends
        ]

    def _score(self, shape: Shape, row: Row) -> float | None:
        self._unscored += "score" not in row
        self._hold(shape, row, "score", score_error)
        return None if row.get("score") is None else float(row["score"])

    def _hold(self, shape: Shape, row: Row, name: str, find: Callable[[Any], str | None]) -> None:
        """Raise UnfitError where a value is none of its field, by the format's own name of it."""
        theirs, told, value = shape.names.get(name, name), find(row.get(name)), row.get(name)
        if told and name != "score" and not isinstance(value, str | list):
            raise _NoTextError(theirs, told, type(value).__name__)
        if told:
            raise UnfitError(theirs, told)


class _NoTextError(UnfitError):
    """A value of another kind where a text belongs: a whole column is often so."""

    def __init__(self, field: str, told: str, kind: str) -> None:
        super().__init__(field, told)
        self.kind = kind


# What an object of each table holds at least, as an error spells it.
_WANTED = {
    "actor": '"prompt": ..., "completion": ...',
    "reward": '"prompt": ..., "completion": ..., "score": ...',
    "rlhf": '"prompt": ...',
}


def _place(numbers: list[int], count: int, rows: int) -> str:
    """Which rows an error is of, behind the file's name; all of them need not be told."""
    if count == 1:
        return f", row {numbers[0]}"
    if count == rows:
        return ""
    more = f" and {count - len(numbers)} more" if count > len(numbers) else ""
    return f", rows {', '.join(map(str, numbers))}{more}"


def _turns_if_any(value: Any) -> Any:
    """Turns in role and content, where a value holds turns in any spelling; else the value."""
    if looks_like_turns(value):
        read = turns_in(value)
        value = value if read is None else read
    if isinstance(value, dict) and ({"role", "content"} <= set(value) or "from" in value):
        value = [value]
    return [plain_turn(turn) for turn in value] if isinstance(value, list) else value


def _with_system(prompt: Any, system: str) -> Any:
    turns = _messages(prompt) if isinstance(prompt, str) else prompt
    if not isinstance(turns, list):
        return prompt
    first = turns[0] if turns else None
    if isinstance(first, dict) and first.get("role") == "system":
        if first.get("content") != system:
            raise UnfitError(
                "system", "differs from the system turn that the row begins with; keep one"
            )
        return turns
    return [{"role": "system", "content": system}, *turns]


def _prompt_error(value: Any) -> str | None:
    if not isinstance(value, list):
        return turns_error(value) if looks_like_turns(value) else text_error(value)
    if told := turns_error(value):
        return told
    if value[-1]["role"] != "user":
        return f"ends on a turn of the {value[-1]['role']}; end it on the user's"
    return None


def _reply_error(value: Any) -> str | None:
    """A reply is a text, or (as some exports write it) a conversation that ends on it."""
    if not isinstance(value, list):
        return turns_error(value) if looks_like_turns(value) else text_error(value)
    turns = value if len(value) > 1 else [{"role": "user", "content": "-"}, *value]
    if told := turns_error(turns):
        return told
    if value[-1]["role"] != "assistant":
        return "ends on a turn of the user; end it on the assistant's"
    return None


def _conversation_error(value: Any) -> str | None:
    if told := turns_error(value):
        return told
    if value[-1]["role"] != "assistant":
        return "ends on a turn of the user, which nobody answers; remove it, or add the answer"
    return None


def _turns(turns: list[Mapping[str, Any]]) -> Messages:
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _messages(prompt: Any) -> Messages:
    return _turns(prompt) if isinstance(prompt, list) else user_messages(prompt)


def _asked(turns: Any) -> Any:
    """A conversation without the reply that it ends on."""
    last = turns[-1] if isinstance(turns, list) and len(turns) > 1 else None
    return turns[:-1] if isinstance(last, dict) and last.get("role") == "assistant" else turns


def _beginnings(prompt: Messages) -> tuple[Messages, ...]:
    """How a conversation may begin that goes on from a prompt: with its system turn or without."""
    return (prompt, prompt[1:]) if prompt[0]["role"] == "system" else (prompt,)


def _reply(value: Any) -> str:
    text: str = value[-1]["content"] if isinstance(value, list) else value
    return text
