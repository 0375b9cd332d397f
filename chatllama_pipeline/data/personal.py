"""The user's own rows and templates: validated, and written as the tables of `personal_data`.

Their files are read, never written. All errors of all files are told at once, so that one round of
corrections is enough.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.data.patterns import redact_table
from chatllama_pipeline.data.personal_files import OwnFile, find_files, read_file, read_json
from chatllama_pipeline.data.personal_rows import TABLES, Errors, rows_of, text_error
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.manifests import hash_file
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.settings import AssistantSettings

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


class _Tables:
    """Writers of all tables; what was added goes to the files in portions."""

    def __init__(self, output: Path, redact: Collection[str]) -> None:
        self.redacted: Counter[str] = Counter()
        self._redact = redact
        self.rows: Counter[str] = Counter({table: 0 for table in TABLES})
        self._waiting: dict[str, list[Row]] = {table: [] for table in TABLES}
        self._characters = 0
        self._paths = {table: output / f"{table}.parquet" for table in TABLES}
        self._writers = {
            table: pq.ParquetWriter(path, TABLES[table]) for table, path in self._paths.items()
        }

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
            writer.close()
        if kind is not None:
            for path in self._paths.values():
                path.unlink()

    def add(self, table: str, row: Row) -> None:
        self._waiting[table].append(row)
        self.rows[table] += 1
        self._characters += sum(len(turn["content"]) for turn in row["prompt"])
        self._characters += sum(len(value) for value in row.values() if isinstance(value, str))
        full = len(self._waiting[table]) >= _ROWS_PER_WRITE
        if full or self._characters >= _CHARACTERS_PER_WRITE:
            self._flush()

    def _flush(self) -> None:
        for table, rows in self._waiting.items():
            if rows:
                written = pa.Table.from_pylist(rows, schema=TABLES[table])
                written, counts = redact_table(written, self._redact)
                self._writers[table].write_table(written)
                self.redacted += counts
                rows.clear()
        self._characters = 0


def _add_rows(file: OwnFile, tables: _Tables, errors: Errors) -> str | None:
    """Add the rows of a file while there are no errors; a warning about identical pairs, if any."""
    identical: list[int] = []
    for number, raw in read_file(file, errors):
        for table, row in rows_of(file.table, raw, f"{file.name}, row {number}", errors):
            if table == "pairs" and row["chosen"].strip() == row["rejected"].strip():
                identical.append(number)
            if not errors.count:
                tables.add(table, row)
    if not identical:
        return None
    return (
        f"{file.name}, row {identical[0]}: chosen and rejected are the same text; it teaches "
        f"nothing and is dropped ({len(identical)} such pairs in this file)"
    )


def _read_templates(folder: Path, errors: Errors) -> dict[str, str] | None:
    file = folder / TEMPLATES_FILE
    if not file.is_file():
        return None
    found = errors.count
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


def build_personal_data(folder: Path, settings: AssistantSettings, output: Path) -> Outcome:
    """Validate the user's files; write {actor,reward,rlhf,pairs}.parquet, with personal data
    redacted as `data.redact` says, and templates.json if there is one.

    Raises DataError with up to 20 errors, each with file, row, field, value and cure; nothing is
    written then.
    """
    errors = Errors()
    files = find_files(folder, settings, errors)
    with _Tables(output, settings.data.redact) as tables:
        warnings = [_add_rows(file, tables, errors) for file in files]
        templates = _read_templates(folder, errors)
        if errors.count:
            told = "\n  ".join(errors.lines())
            raise DataError(f"the files of {folder.name} need a correction:\n  {told}")
    if templates is not None:
        text = json.dumps(templates, ensure_ascii=False, indent=1, sort_keys=True)
        (output / TEMPLATES_FILE).write_text(text + "\n", encoding="utf-8")
    return Outcome(
        rows=tables.rows.total(),
        metrics={
            "rows": dict(tables.rows),
            "files": len(files),
            "redacted": dict(tables.redacted),
        },
        warnings=[warning for warning in warnings if warning],
    )


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
