"""One row of a user's file, in any of the accepted shapes, as rows of our tables.

| fields | belongs into | becomes |
|---|---|---|
| `user_input`, `completion` | actor | one row |
| `user_input`, `completion`, `score` | reward | one scored row |
| `user_input` | rlhf | one prompt |
| `prompt` in the place of `user_input` | all three | the same; a text, or role messages |
| `prompt`, `chosen`, `rejected` | reward | one pair |
| `messages` | actor | one row per assistant turn, with all turns before it as its prompt |
| `messages`, `score` | reward | one scored row: the last assistant turn |
| `messages` | rlhf | one prompt, which ends on a user turn |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from chatllama_pipeline.data.splits import Messages, Row
from chatllama_pipeline.data.tables import user_messages
from chatllama_pipeline.records import MESSAGES, PAIR_SCHEMA

PERSONAL = "personal"
ERRORS_TOLD = 20
_SHOWN_CHARACTERS = 60

_PROMPT = pa.field("prompt", MESSAGES, nullable=False)
_COMPLETION = pa.field("completion", pa.string(), nullable=False)
_SOURCE = pa.field("source", pa.string(), nullable=False)
TABLES: dict[str, pa.Schema] = {
    "actor": pa.schema([_PROMPT, _COMPLETION, _SOURCE]),
    "reward": pa.schema([_PROMPT, _COMPLETION, pa.field("score", pa.float64()), _SOURCE]),
    "rlhf": pa.schema([_PROMPT, _SOURCE]),
    "pairs": PAIR_SCHEMA,
}

ROLES = ("system", "user", "assistant")
_ROLE_HINTS = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant"}
# What a file of each table holds beside its prompt, in the original's shape.
_BESIDE_PROMPT: dict[str, tuple[str, ...]] = {
    "actor": ("completion",),
    "reward": ("completion", "score"),
    "rlhf": (),
}


@dataclass
class Errors:
    """The first twenty errors, and how many there are in all."""

    told: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.told) < ERRORS_TOLD:
            self.told.append(text)

    def lines(self) -> list[str]:
        more = self.count - len(self.told)
        return [*self.told, f"and {more} more"] if more else self.told


def wanted_fields(table: str, present: Collection[str]) -> tuple[str, ...]:
    """The fields that a row (or a file with columns) of `table` must have, by those it has."""
    if table == "reward" and {"chosen", "rejected"} & set(present):
        return ("prompt", "chosen", "rejected")
    score = ("score",) if table == "reward" else ()
    if "messages" in present:
        return ("messages", *score)
    prompt = "prompt" if "prompt" in present and "user_input" not in present else "user_input"
    return (prompt, *_BESIDE_PROMPT[table])


def told_value(value: Any) -> str:
    """A value as an error shows it: its repr, cut."""
    text = repr(value[:_SHOWN_CHARACTERS]) if isinstance(value, str) else repr(value)
    cut = len(text) > _SHOWN_CHARACTERS + 2 or (isinstance(value, str) and len(value) > 60)
    return f"{text[:_SHOWN_CHARACTERS]} ..." if cut else text


def text_error(value: Any) -> str | None:
    """Why a value is no usable text, with the cure; None if it is one."""
    if not isinstance(value, str):
        return f"{told_value(value)} is no text; write it in double quotes"
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


def score_error(value: Any) -> str | None:
    """Why a value is no score, with the cure; None if it is one, or null."""
    # JSON's true and false are numbers to Python, and no scores.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and 0 <= value <= 5):
        return None
    return f"{told_value(value)} is no score; write a number from 0 to 5, or null to have it scored"


def turns_error(value: Any) -> str | None:
    """Why a value is no conversation: turns of user and assistant by turns, user first, a system
    turn before them if any; None if it is one."""
    if not isinstance(value, list) or not value:
        return f'{told_value(value)} is no list of turns; write [{{"role": ..., "content": ...}}]'
    expected: tuple[str, ...] = ROLES[:2]
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            return f"turn {number}: {told_value(turn)} has not both role and content; add them"
        role = turn["role"]
        if role not in ROLES:
            hint = _ROLE_HINTS.get(str(role).lower())
            cure = f"write {hint}" if hint else "write system, user or assistant"
            return f"turn {number}: the role {told_value(role)} is unknown; {cure}"
        if role not in expected:
            return (
                f"turn {number}: the role {role} cannot stand here; write {' or '.join(expected)}, "
                "join turns of the same role, and begin with the user"
            )
        if told := text_error(turn["content"]):
            return f"turn {number}, content: {told.replace('remove the row', 'remove the turn')}"
        expected = ("assistant",) if role == "user" else ("user",)
    return None


def _prompt_error(value: Any) -> str | None:
    if not isinstance(value, list):
        return text_error(value)
    if told := turns_error(value):
        return told
    if value[-1]["role"] != "user":
        return f"ends on a turn of the {value[-1]['role']}; end it on the user's"
    return None


def _reply_error(value: Any) -> str | None:
    """A reply is a text, or (as some exports write it) a conversation that ends on it."""
    if not isinstance(value, list):
        return text_error(value)
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


_FINDS: dict[str, Callable[[Any], str | None]] = {
    "user_input": text_error,
    "completion": _reply_error,
    "prompt": _prompt_error,
    "chosen": _reply_error,
    "rejected": _reply_error,
    "score": score_error,
    "messages": _conversation_error,
}


def rows_of(table: str, raw: Any, where: str, errors: Errors) -> list[tuple[str, Row]]:
    """What a raw row of a file for `table` becomes, as (table, row); nothing if it has errors."""
    if not isinstance(raw, dict):
        wanted = ", ".join(f'"{name}": ...' for name in wanted_fields(table, ()))
        errors.add(f"{where}: {told_value(raw)} is no object; write {{{wanted}}}")
        return []
    # A table read from columns has a null where another row has another shape.
    present = {name for name, value in raw.items() if value is not None} or set(raw)
    fields = wanted_fields(table, present)
    before = errors.count
    if table != "reward" and {"chosen", "rejected"} <= present:
        errors.add(f"{where}: is a pair; pairs belong into reward_config.train_dataset_path")
        return []
    for name in fields:
        find = _prompt_error if (table, name) == ("rlhf", "messages") else _FINDS[name]
        if name not in raw:
            cure = "null to have it scored" if name == "score" else "a text"
            errors.add(f"{where}: the field {name} is missing; add it, with {cure}")
        elif told := find(raw[name]):
            errors.add(f"{where}, field {name}: {told}")
    if errors.count == before and "chosen" in fields:
        _check_same_prompt(raw, where, errors)
    return _converted(table, raw, fields) if errors.count == before else []


def _check_same_prompt(raw: Mapping[str, Any], where: str, errors: Errors) -> None:
    """A reply written as a whole conversation must go on from the row's own prompt."""
    for name in ("chosen", "rejected"):
        before = raw[name][:-1] if isinstance(raw[name], list) else []
        if before and _turns(before) != _messages(raw["prompt"]):
            errors.add(f"{where}, field {name}: does not begin with the row's prompt; correct it")


def _turns(turns: list[Mapping[str, Any]]) -> Messages:
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _messages(prompt: Any) -> Messages:
    return _turns(prompt) if isinstance(prompt, list) else user_messages(prompt)


def _reply(value: Any) -> str:
    text: str = value[-1]["content"] if isinstance(value, list) else value
    return text


def _converted(table: str, raw: Row, fields: tuple[str, ...]) -> list[tuple[str, Row]]:
    shared: Row = {"source": PERSONAL}
    if "score" in fields:
        shared["score"] = None if raw["score"] is None else float(raw["score"])
    if "chosen" in fields:
        pair = {
            "prompt": _messages(raw["prompt"]),
            "chosen": _reply(raw["chosen"]),
            "rejected": _reply(raw["rejected"]),
            "strength": 1.0,
            "domain": "",
            **shared,
        }
        return [("pairs", pair)]
    if "messages" in fields and table != "rlhf":
        turns = _turns(raw["messages"])
        ends = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
        return [
            (table, {"prompt": turns[:end], "completion": turns[end]["content"], **shared})
            for end in (ends if table == "actor" else ends[-1:])
        ]
    row: Row = {"prompt": _messages(raw[fields[0]]), **shared}
    if "completion" in fields:
        row["completion"] = _reply(raw["completion"])
    return [(table, row)]
