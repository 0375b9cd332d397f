"""The user's own rows and templates: validated, and written as the tables of `personal_data`.

Their files are read, never written. All errors of all files are told at once, so that one round of
corrections is enough.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from chatllama_pipeline.data.own.errors import Errors
from chatllama_pipeline.data.own.files.json_rows import read_json
from chatllama_pipeline.data.own.files.reading import read_file
from chatllama_pipeline.data.own.finding import OwnFile, find_files
from chatllama_pipeline.data.own.rows import TABLES, THUMBS, FileRows, Reading
from chatllama_pipeline.data.own.unread import unread_files
from chatllama_pipeline.data.own.values import text_error
from chatllama_pipeline.data.patterns import redact_table
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.unchanged import changed_file, unchanged
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.progress import counted
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.manifests import hash_file
from chatllama_pipeline.table_files import TableWriter

__all__ = [
    "TABLES",
    "TEMPLATES_FILE",
    "TEMPLATE_KEYS",
    "build_personal_data",
    "personal_fingerprint",
]

TEMPLATES_FILE = "templates.json"
TEMPLATE_KEYS = ("actor", "reward", "rlhf")
# What is held back before it is written, so that memory stays flat, rows of 5 MB included.
_ROWS_PER_WRITE = 5_000
_CHARACTERS_PER_WRITE = 8 * 2**20
_UNREADABLE = "cannot be read"
_SCHEMAS = {**TABLES, "thumbs": THUMBS}


class _Tables:
    """Writers of all tables; what was added goes to the files in portions. That of thumbs stands
    where there are any."""

    def __init__(self, output: Path, redact: Collection[str]) -> None:
        self.redacted: Counter[str] = Counter()
        self._redact = redact
        self.rows: Counter[str] = Counter({table: 0 for table in TABLES})
        self._waiting: dict[str, list[Row]] = {table: [] for table in _SCHEMAS}
        self._characters = 0
        self._paths = {table: output / f"{table}.parquet" for table in _SCHEMAS}
        self._writers: dict[str, TableWriter] = {}
        for table in TABLES:
            self._open(table)

    def _open(self, table: str) -> TableWriter:
        if table not in self._writers:
            self._writers[table] = TableWriter(self._paths[table], _SCHEMAS[table])
        return self._writers[table]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        for writer in self._writers.values():
            if kind is None:
                writer.close()
            else:
                writer.discard()

    def add(self, table: str, row: Row) -> None:
        self._waiting[table].append(row)
        if table in TABLES:
            self.rows[table] += 1
        self._characters += sum(len(turn["content"]) for turn in row["prompt"])
        self._characters += sum(len(value) for value in row.values() if isinstance(value, str))
        full = len(self._waiting[table]) >= _ROWS_PER_WRITE
        if full or self._characters >= _CHARACTERS_PER_WRITE:
            self._flush()

    def _flush(self) -> None:
        for table, rows in self._waiting.items():
            if rows:
                written = pa.Table.from_pylist(rows, schema=_SCHEMAS[table])
                written, counts = redact_table(written, self._redact)
                self._open(table).write(written)
                if table in TABLES:
                    self.redacted += counts
                rows.clear()
        self._characters = 0


def _add_rows(
    file: OwnFile, columns: Mapping[str, str], tables: _Tables, errors: Errors
) -> FileRows:
    """Add the rows of a file while there are no errors, and tell what is to be told of it."""
    reading = Reading(file.table, file.name, errors)
    rows = FileRows(reading, columns)
    identical: list[int] = []
    before = errors.count
    read = read_file(file.path, reading, columns.values())
    for number, raw in counted(f"reads {file.name}", read, 0, "rows"):
        for table, row in rows.rows_of(number, raw):
            if table == "pairs" and row["chosen"].strip() == row["rejected"].strip():
                identical.append(number)
            if not errors.count:
                tables.add(table, row)
    rows.close()
    if not rows.rows and errors.count == before:
        errors.warn(f"{file.name}: holds no row; nothing is learned from it")
    if identical:
        errors.warn(
            f"{file.name}, row {identical[0]}: chosen and rejected are the same text; it teaches "
            f"nothing and is dropped ({len(identical)} such pairs in this file)"
        )
    return rows


def _hold_columns(
    settings: AssistantSettings, files: Sequence[OwnFile], read: Sequence[FileRows], errors: Errors
) -> None:
    """What config.yaml names must stand in some file of the table."""
    for table, columns in settings.data.columns.by_table().items():
        of_table = [rows for file, rows in zip(files, read, strict=True) if file.table == table]
        seen = set().union(*(rows.mapped for rows in of_table))
        if not any(rows.rows for rows in of_table):
            continue
        for ours, theirs in columns.items():
            if ours not in seen:
                errors.add(
                    f"data.columns.{table}.{ours} in config.yaml: no file of this table has a "
                    f"field {theirs}; correct it"
                )


def _read_templates(folder: Path, errors: Errors) -> dict[str, str] | None:
    file = folder / TEMPLATES_FILE
    if not file.is_file():
        return None
    found = errors.count
    with unchanged(file):
        templates = read_json(file.read_bytes(), TEMPLATES_FILE, errors)
    if errors.count > found:
        return None
    if not isinstance(templates, dict):
        errors.add(f'{TEMPLATES_FILE}: holds no object; write {{"actor": "...", ...}}')
        return None
    for key, value in templates.items():
        if key not in TEMPLATE_KEYS:
            near = difflib.get_close_matches(key, TEMPLATE_KEYS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            errors.add(f"{TEMPLATES_FILE}: unknown key {key!r}; {hint}use actor, reward or rlhf")
        elif told := text_error(value):
            errors.add(f"{TEMPLATES_FILE}, key {key}: {told.replace('row', 'key')}")
    return templates


def build_personal_data(
    folder: Path,
    settings: AssistantSettings,
    output: Path,
    fingerprint: Mapping[str, str] | None = None,
) -> Outcome:
    """Validate the user's files; write {actor,reward,rlhf,pairs}.parquet, with personal data
    redacted as `data.redact` says, and templates.json if there is one.

    Raises DataError with up to 20 errors, each with file, row, field, value and cure, and
    ChangedFileError where a file changes meanwhile, or isn't what `fingerprint` (see
    `personal_fingerprint`) says of it; nothing is written then.
    """
    errors = Errors()
    files = find_files(folder, settings, errors)
    columns = settings.data.columns.by_table()
    with _Tables(output, settings.data.redact) as tables:
        read = [_add_rows(file, columns[file.table], tables, errors) for file in files]
        _hold_columns(settings, files, read, errors)
        templates = _read_templates(folder, errors)
        if errors.count:
            told = "\n  ".join([*errors.lines(), *unread_files(folder, settings)])
            raise DataError(f"the files of {folder.name} need a correction:\n  {told}")
        if fingerprint is not None:
            _require_as_found(folder, settings, fingerprint)
    if templates is not None:
        text = json.dumps(templates, ensure_ascii=False, indent=1, sort_keys=True)
        (output / TEMPLATES_FILE).write_text(text + "\n", encoding="utf-8")
    return Outcome(
        rows=tables.rows.total(),
        metrics={
            "rows": dict(tables.rows),
            "files": len(files),
            "redacted": dict(tables.redacted),
            "read_as": {
                file.name: dict(rows.shapes) for file, rows in zip(files, read, strict=True)
            },
        },
        warnings=[*unread_files(folder, settings), *errors.warnings],
    )


def _require_as_found(folder: Path, settings: AssistantSettings, found: Mapping[str, str]) -> None:
    """Raise ChangedFileError for a file that changed, came or went since `found` was."""
    now = personal_fingerprint(folder, settings)
    for name in sorted({*found, *now}):
        if found.get(name) != now.get(name):
            path = folder / name.split(": ", 1)[-1]
            raise changed_file(path, "it isn't what the run found at its start")


def personal_fingerprint(folder: Path, settings: AssistantSettings) -> dict[str, str]:
    """sha256 of every file that the settings match, by table and name, and of the templates.

    Files that aren't there are left out. What is wrong with the others is told when they are read.
    """
    files = find_files(folder, settings, Errors())
    paths = {f"{file.table}: {file.name}": file.path for file in files}
    paths[TEMPLATES_FILE] = folder / TEMPLATES_FILE
    found = {}
    for name, path in sorted(paths.items()):
        if path.is_file():
            try:
                found[name] = hash_file(path)
            except OSError:
                found[name] = _UNREADABLE
    return found
