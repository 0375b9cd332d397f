"""Finding a user's files, and reading their rows one after the other: JSON, JSONL, CSV, Parquet.

Rows stream: memory doesn't grow with a file, but for a JSON list, which is read whole. What is
wrong with a file is noted as an error of it, and its other rows are read on where that is possible.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import posixpath
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.data.personal_rows import Errors, told_value, wanted_fields
from chatllama_pipeline.settings import (
    ActorSettings,
    AssistantSettings,
    PpoSettings,
    RewardSettings,
)

# A text of a CSV file, at most; a missing quote would else read the rest of the file as one.
LONGEST_CSV_TEXT = 256 * 2**20
_ROWS_PER_BATCH = 256
_GLOB = frozenset("*?[")

Numbered = Iterator[tuple[int, Any]]


@dataclass(frozen=True)
class OwnFile:
    """A file with rows for `table`; `name` is its path from the assistant's folder where it lies
    in there, as errors and fingerprints spell it."""

    table: str
    name: str
    path: Path


@dataclass(frozen=True)
class _Place:
    """What a setting says of a table's files."""

    table: str
    key: str
    paths: tuple[str, ...]
    default: str


def _places(settings: AssistantSettings) -> list[_Place]:
    actor, reward = settings.actor_config, settings.reward_config
    ppo = settings.trainer_config
    found = (
        (
            "actor",
            "actor_config.train_dataset_path",
            actor.train_dataset_path,
            ActorSettings().train_dataset_path,
        ),
        (
            "reward",
            "reward_config.train_dataset_path",
            reward.train_dataset_path,
            RewardSettings().train_dataset_path,
        ),
        ("rlhf", "trainer_config.examples_path", ppo.examples_path, PpoSettings().examples_path),
    )
    return [
        _Place(table, key, (paths,) if isinstance(paths, str) else tuple(paths), str(default))
        for table, key, paths, default in found
    ]


def find_files(folder: Path, settings: AssistantSettings, errors: Errors) -> list[OwnFile]:
    """The files that the settings name, each once per table, in the order of their names.

    A path may be a file, a folder, or a glob (`datasets/actor/*.jsonl`, `**` for folders in
    folders). The default path stands for the file of that name with any ending, and the folder of
    that name; it may be missing.
    """
    files: list[OwnFile] = []
    for place in _places(settings):
        seen: set[str] = set()
        for spelled in place.paths:
            for path in _matches(folder, spelled, place, errors):
                name = _name(folder, path)
                real = os.path.realpath(path)
                if told := _link_error(folder, path, spelled, real):
                    errors.add(f"{name}: {told}")
                elif real not in seen:
                    seen.add(real)
                    files.append(OwnFile(place.table, name, path))
    return files


def _matches(folder: Path, spelled: str, place: _Place, errors: Errors) -> list[Path]:
    """The files of one path of a setting, sorted."""
    path = folder / spelled
    is_default = posixpath.normpath(spelled) == posixpath.normpath(place.default)
    if is_default:
        stem = path.with_suffix("")
        alike = [stem.with_name(stem.name + ending) for ending in _FORMATS]
        return [file for file in alike if os.path.lexists(file)] + _in_folder(stem)
    if path.is_dir():
        found = _in_folder(path)
        if not found:
            errors.add(
                f"{spelled}: this folder holds no file that ends in {', '.join(_FORMATS)}; "
                f"correct {place.key} in config.yaml"
            )
        return found
    if os.path.lexists(path):
        return [path]
    if not _GLOB & set(spelled):
        errors.add(
            f"{spelled}: there is no such file in {folder.name}/; "
            f"correct {place.key} in config.yaml"
        )
        return []
    try:
        start = Path(path.anchor)
        found = sorted(start.glob(path.relative_to(start).as_posix()))
    except ValueError as error:
        errors.add(f"{spelled}: {error}; correct {place.key} in config.yaml")
        return []
    found = [file for file in found if not file.is_dir() and not _is_hidden(file, folder)]
    if not found:
        errors.add(
            f"{spelled}: matches no file in {folder.name}/; correct {place.key} in config.yaml"
        )
    return found


def _in_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.name.endswith(tuple(_FORMATS)))
    return sorted(path for path in files if not path.name.startswith("."))


def _is_hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else path.parts[-1:]
    return any(part.startswith(".") and part != ".." for part in parts)


def _name(folder: Path, path: Path) -> str:
    inside = os.path.relpath(path, folder)
    return str(path) if inside.startswith("..") else Path(inside).as_posix()


def _link_error(folder: Path, path: Path, spelled: str, real: str) -> str | None:
    if path.is_symlink() and not path.exists():
        return "is a link to nothing, or to itself; remove it, or put the file in its place"
    # A path that leaves the folder in so many words is the user's own wish; a link is a surprise.
    said = os.path.isabs(spelled) or ".." in Path(spelled).parts
    if not said and not Path(real).is_relative_to(os.path.realpath(folder)):
        return (
            f"is a link out of the assistant's folder, to {real}; put the file in its place, or "
            "write where it lies into config.yaml"
        )
    return None


def read_file(file: OwnFile, errors: Errors) -> Numbered:
    """The rows of a file as plain values, numbered from 1, not yet checked."""
    ending = next((ending for ending in _FORMATS if file.path.name.endswith(ending)), None)
    if ending is None:
        errors.add(
            f"{file.name}: its ending tells of no format; name it with one of {', '.join(_FORMATS)}"
        )
        return
    try:
        if ending == ".parquet":
            yield from _parquet_rows(file, errors)
            return
        opened: Any = gzip.open if ending.endswith(".gz") else open
        with opened(file.path, "rb") as handle:
            yield from _FORMATS[ending](handle, file, errors)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        errors.add(
            f"{file.name}: is no gzip file, or one that was cut short ({error}); copy it again"
        )
    except FileNotFoundError:
        errors.add(f"{file.name}: there is no such file; check its path")
    except OSError as error:
        reason = error.strerror or str(error)
        errors.add(f"{file.name}: cannot be read ({reason}); give yourself the right to read it")


def read_json(raw: bytes, name: str, errors: Errors) -> Any:
    """The value of a JSON file, or None with an error noted."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        errors.add(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8")
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        errors.add(f"{name}: no JSON at {where}; {_json_cure(error)}")
        return None


def _json_cure(error: json.JSONDecodeError) -> str:
    if error.doc.startswith("None", error.pos):
        return "None is Python's word: write null"
    if error.doc.startswith(("True", "False"), error.pos):
        return "write true or false, in small letters"
    if error.msg == "Extra data" and error.lineno > 1:
        return "where every line is a row of its own, name the file .jsonl"
    return "write it as JSON: double quotes, and no comma after the last value"


def _json_rows(handle: BinaryIO, file: OwnFile, errors: Errors) -> Numbered:
    before = errors.count
    listed = read_json(handle.read(), file.name, errors)
    if errors.count > before:
        return
    if not isinstance(listed, list):
        errors.add(f"{file.name}: holds no list; write [ before the first row and ] after the last")
        return
    yield from enumerate(listed, start=1)


def _jsonl_rows(handle: Iterable[bytes], file: OwnFile, errors: Errors) -> Numbered:
    """A row per line; empty lines are passed over, and counted, so that a row is its line."""
    for number, line in enumerate(handle, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if line.lstrip().startswith(b"["):
                errors.add(f"{file.name}: is a list in JSON; name the file .json")
                return
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            place = f"byte {error.start} of the line"
            errors.add(f"{file.name}, row {number}: {place} is not UTF-8; save the file as UTF-8")
        except json.JSONDecodeError as error:
            told = f"no JSON at column {error.colno}; {_json_cure(error)}"
            errors.add(f"{file.name}, row {number}: {told}")
        except RecursionError:
            errors.add(f"{file.name}, row {number}: is nested too deeply; write plain values")
        else:
            yield number, row


def _csv_rows(handle: BinaryIO, file: OwnFile, errors: Errors) -> Numbered:
    """A row per record; the first record names the columns. Stray bytes are found with the text
    that they stand in (surrogateescape)."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CSV_TEXT))
    with io.TextIOWrapper(handle, "utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            yield from _csv_records(reader, file, errors)
        except csv.Error as error:
            errors.add(
                f"{file.name}, line {reader.line_num}: {error}; put texts in double quotes, and "
                'write a double quote within one as ""'
            )


def _csv_records(reader: Iterator[list[str]], file: OwnFile, errors: Errors) -> Numbered:
    header = [name.strip() for name in next(reader, [])]
    if not _has_columns(header, file, errors):
        return
    for number, record in enumerate(filter(None, reader), start=1):
        if len(record) == len(header):
            yield number, _csv_row(dict(zip(header, record, strict=True)))
        else:
            errors.add(
                f"{file.name}, row {number}: has {len(record)} values, and the header names "
                f"{len(header)} columns; put texts that hold commas in double quotes"
            )


def _csv_row(row: dict[str, Any]) -> dict[str, Any]:
    """With its score as a number, or null where it is empty; what is no number is told later."""
    score = row.get("score")
    if score is not None:
        with contextlib.suppress(ValueError):
            row["score"] = float(score) if score.strip() else None
    return row


def _has_columns(columns: list[str], file: OwnFile, errors: Errors) -> bool:
    wanted = wanted_fields(file.table, columns)
    missing = [name for name in wanted if name not in columns]
    for name in missing:
        there = told_value(", ".join(columns)) if columns else "none"
        comma = len(columns) == 1 and (";" in columns[0] or "\t" in columns[0])
        cure = "separate the columns by commas" if comma else f"those there are: {there}; add it"
        errors.add(f"{file.name}: the column {name} is missing; {cure}")
    return not missing


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    types = pa.types
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(is_of(kind) for is_of in texts)


def _is_turns(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    turn = kind.value_type
    return pa.types.is_struct(turn) and {"role", "content"} <= {child.name for child in turn}


def _is_score(kind: pa.DataType) -> bool:
    numbers = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)
    return any(is_of(kind) for is_of in numbers)


def _column_error(name: str, kind: pa.DataType) -> str | None:
    if name == "score":
        return None if _is_score(kind) else "write it as a number"
    if name == "messages":
        return None if _is_turns(kind) else "write it as a list of {role, content}"
    if _is_text(kind) or (name not in ("user_input",) and _is_turns(kind)):
        return None
    return "write it as text"


def _parquet_rows(file: OwnFile, errors: Errors) -> Numbered:
    try:
        # An open handle, so that a missing right is an OSError and no complaint about Parquet.
        with file.path.open("rb") as handle, pq.ParquetFile(handle) as table:
            schema = table.schema_arrow
            if not _has_columns(schema.names, file, errors):
                return
            wanted = wanted_fields(file.table, schema.names)
            before = errors.count
            for name in wanted:
                kind = schema.field(name).type
                if cure := _column_error(name, kind):
                    errors.add(f"{file.name}: the column {name} holds {kind}; {cure}")
            if errors.count > before:
                return
            number = 1
            for batch in table.iter_batches(_ROWS_PER_BATCH, columns=list(wanted)):
                yield from _batch_rows(batch, number, file, errors)
                number += batch.num_rows
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        first = str(error).splitlines()[0]
        errors.add(f"{file.name}: is no Parquet file, or a damaged one ({first}); write it again")


def _batch_rows(batch: pa.RecordBatch, first: int, file: OwnFile, errors: Errors) -> Numbered:
    try:
        yield from enumerate(batch.to_pylist(), start=first)
        return
    except UnicodeDecodeError:
        pass
    for offset in range(batch.num_rows):
        row = batch.slice(offset, 1)
        for name in row.schema.names:
            try:
                row[name].to_pylist()
            except UnicodeDecodeError as error:
                errors.add(
                    f"{file.name}, row {first + offset}, field {name}: byte {error.start} is not "
                    "UTF-8; write the text as UTF-8"
                )
                break
        else:
            yield first + offset, row.to_pylist()[0]


_FORMATS: dict[str, Callable[..., Numbered]] = {
    ".json": _json_rows,
    ".json.gz": _json_rows,
    ".jsonl": _jsonl_rows,
    ".jsonl.gz": _jsonl_rows,
    ".csv": _csv_rows,
    ".csv.gz": _csv_rows,
    ".parquet": _parquet_rows,
}
