"""The user's own rows: three JSON files in the original ChatLLaMA's formats, and templates.json.

Files are read, never written. All errors of all files are told at once, so that one round of
corrections is enough.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.tables import user_messages, write_rows
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import MESSAGES, Outcome
from chatllama_pipeline.settings import (
    ActorSettings,
    AssistantSettings,
    PpoSettings,
    RewardSettings,
)

TEMPLATES_FILE = "templates.json"
TEMPLATE_KEYS = ("actor", "reward", "rlhf")
_ERRORS_TOLD = 20

_PROMPT = pa.field("prompt", MESSAGES, nullable=False)
_COMPLETION = pa.field("completion", pa.string(), nullable=False)
_SOURCE = pa.field("source", pa.string(), nullable=False)
TABLES: dict[str, pa.Schema] = {
    "actor": pa.schema([_PROMPT, _COMPLETION, _SOURCE]),
    "reward": pa.schema([_PROMPT, _COMPLETION, pa.field("score", pa.float64()), _SOURCE]),
    "rlhf": pa.schema([_PROMPT, _SOURCE]),
}

Errors = list[str]


def _text_error(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{value!r} is no text; write it in double quotes"
    return None if value.strip() else "is empty; write a text, or remove the row"


def _score_error(value: Any) -> str | None:
    # JSON's true and false are numbers to Python, and no scores.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and 0 <= value <= 5):
        return None
    return f"{value!r} is no score; write a number from 0 to 5, or null to have it scored"


_FIELDS: dict[str, dict[str, Callable[[Any], str | None]]] = {
    "actor": {"user_input": _text_error, "completion": _text_error},
    "reward": {"user_input": _text_error, "completion": _text_error, "score": _score_error},
    "rlhf": {"user_input": _text_error},
}


def _settings_of(settings: AssistantSettings) -> dict[str, tuple[str, str, str]]:
    """table: (dotted key of its path, the path, the default path)."""
    examples = PpoSettings().examples_path
    return {
        "actor": (
            "actor_config.train_dataset_path",
            settings.actor_config.train_dataset_path,
            ActorSettings().train_dataset_path,
        ),
        "reward": (
            "reward_config.train_dataset_path",
            settings.reward_config.train_dataset_path,
            RewardSettings().train_dataset_path,
        ),
        "rlhf": ("trainer_config.examples_path", settings.trainer_config.examples_path, examples),
    }


def _decode(raw: bytes, name: str, errors: Errors) -> Any:
    """The value of a JSON file, or None with an error noted."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        errors.append(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8")
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cure = "write it as JSON: double quotes, and no comma after the last value"
        if text.startswith("None", error.pos):
            cure = "None is Python's word: write null"
        elif text.startswith(("True", "False"), error.pos):
            cure = "write true or false, in small letters"
        errors.append(f"{name}: no JSON at line {error.lineno}, column {error.colno}; {cure}")
        return None


def _check_rows(table: str, listed: Any, name: str, errors: Errors) -> list[Row]:
    fields = _FIELDS[table]
    if not isinstance(listed, list):
        errors.append(f"{name}: holds no list; write [ before the first row and ] after the last")
        return []
    rows: list[Row] = []
    for number, row in enumerate(listed, start=1):
        where = f"{name}, row {number}"
        if not isinstance(row, dict):
            wanted = ", ".join(f'"{field}": ...' for field in fields)
            errors.append(f"{where}: {row!r} is no object; write {{{wanted}}}")
            continue
        for field, find_error in fields.items():
            if field not in row:
                cure = "null to have it scored" if field == "score" else "a text"
                errors.append(f"{where}: the field {field} is missing; add it, with {cure}")
            elif told := find_error(row[field]):
                errors.append(f"{where}, field {field}: {told}")
        rows.append(row)
    return rows


def _read_table(table: str, folder: Path, settings: AssistantSettings, errors: Errors) -> list[Row]:
    key, path, default = _settings_of(settings)[table]
    file = folder / path
    if not file.is_file():
        # The original's configs spell the defaults out: a default that isn't there is no mistake.
        if posixpath.normpath(path) != posixpath.normpath(default):
            errors.append(
                f"{path}: there is no such file in {folder.name}/; correct {key} in config.yaml"
            )
        return []
    found = len(errors)
    listed = _decode(file.read_bytes(), path, errors)
    return _check_rows(table, listed, path, errors) if len(errors) == found else []


def _read_templates(folder: Path, errors: Errors) -> dict[str, str] | None:
    file = folder / TEMPLATES_FILE
    if not file.is_file():
        return None
    found = len(errors)
    templates = _decode(file.read_bytes(), TEMPLATES_FILE, errors)
    if len(errors) > found:
        return None
    if not isinstance(templates, dict):
        errors.append(f'{TEMPLATES_FILE}: holds no object; write {{"actor": "...", ...}}')
        return None
    for key, value in templates.items():
        if key not in TEMPLATE_KEYS:
            near = difflib.get_close_matches(key, TEMPLATE_KEYS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            errors.append(f"{TEMPLATES_FILE}: unknown key {key!r}; {hint}use actor, reward or rlhf")
        elif told := _text_error(value):
            errors.append(f"{TEMPLATES_FILE}, key {key}: {told.replace('row', 'key')}")
    return templates


def read_personal(
    folder: Path, settings: AssistantSettings
) -> tuple[dict[str, list[Row]], dict[str, str] | None]:
    """The validated rows by table (actor, reward, rlhf), and the templates if there are any.

    Raises DataError with up to 20 errors, each with file, row, field, value and cure.
    """
    errors: Errors = []
    tables = {table: _read_table(table, folder, settings, errors) for table in TABLES}
    templates = _read_templates(folder, errors)
    if errors:
        told = errors[:_ERRORS_TOLD]
        if len(errors) > _ERRORS_TOLD:
            told.append(f"and {len(errors) - _ERRORS_TOLD} more")
        raise DataError(f"the files of {folder.name} need a correction:\n  " + "\n  ".join(told))
    return tables, templates


def build_personal_data(folder: Path, settings: AssistantSettings, output: Path) -> Outcome:
    """Validate the user's files; write {actor,reward,rlhf}.parquet, and templates.json if any."""
    tables, templates = read_personal(folder, settings)
    for table, rows in tables.items():
        converted = [
            {**row, "prompt": user_messages(row["user_input"]), "source": "personal"}
            for row in rows
        ]
        write_rows(converted, TABLES[table], output, f"{table}.parquet")
    if templates is not None:
        text = json.dumps(templates, ensure_ascii=False, indent=1, sort_keys=True)
        (output / TEMPLATES_FILE).write_text(text + "\n", encoding="utf-8")
    row_counts = {table: len(rows) for table, rows in tables.items()}
    return Outcome(rows=sum(row_counts.values()), metrics={"rows": row_counts})


def personal_fingerprint(folder: Path, settings: AssistantSettings) -> dict[str, str]:
    """sha256 by file name, as the settings spell it; files that aren't there are left out."""
    names = [path for _, path, _ in _settings_of(settings).values()] + [TEMPLATES_FILE]
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in sorted(names)
        if (folder / name).is_file()
    }
