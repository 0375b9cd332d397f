"""Rows of data files as they are, a batch at a time: Parquet, JSON lines, JSON lists.

A batch comes as it is quickest to hand to another process, who makes rows of it (`rows_in`). A row
that is no row at all comes as the name of its defect; a file that can't be read to its end
is a DataError with its name, since half of a file is no dataset.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.data.columns import columns_error
from chatllama_pipeline.data.sources import json_text
from chatllama_pipeline.data.sources.json_text import JsonError
from chatllama_pipeline.data.unchanged import unchanged
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.progress import MEGABYTE, counted, phase

RawRow = dict[str, Any] | str
# Whole lines of a file of JSON lines, rows of a Parquet, or rows of a JSON list.
Batch: TypeAlias = "bytes | pa.RecordBatch | list[RawRow]"
ROWS_PER_BATCH = 2_000
_BYTES_PER_BATCH = 1 << 22
_USUAL_BYTES = 2_000


def read_file(path: Path, needed: tuple[str, ...], used: tuple[str, ...]) -> Iterator[Batch]:
    """A file in batches. A Parquet without a `needed` column is a DataError, and so is
    a file that changes meanwhile; of Parquet only `used` columns are read."""
    with unchanged(path) as require_unchanged:
        for batch in _read(path, needed, used):
            require_unchanged()
            yield batch


def rows_in(batch: Batch) -> list[RawRow]:
    """The rows of a batch."""
    if isinstance(batch, bytes):
        return list(_json_lines(batch.split(b"\n")))
    return batch if isinstance(batch, list) else _plain(batch)


def count_of(batch: Batch) -> int:
    """How many rows of usual size a batch is worth."""
    if isinstance(batch, list):
        return len(batch)
    size = len(batch) if isinstance(batch, bytes) else batch.nbytes
    return int(size) // _USUAL_BYTES


def _read(path: Path, needed: tuple[str, ...], used: tuple[str, ...]) -> Iterator[Batch]:
    try:
        if path.name.lower().endswith(".parquet"):
            yield from _parquet(path, needed, used)
            return
        with _open(path) as lines:
            batches = _batches(_json_list(lines, path)) if _is_list(lines) else _blocks(lines)
            counter = phase(f"reads {path.name}", path.stat().st_size / MEGABYTE, "MB")
            # Of a compressed file, what was read of it as it stands.
            stored = getattr(lines, "fileobj", lines)
            for batch in batches:
                yield batch
                counter.reach(stored.tell() / MEGABYTE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is damaged: its gzip stream breaks off ({error}); fetch it again"
        ) from error
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} is damaged or no Parquet file ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def text_defect(text: Any) -> str | None:
    """Why a value can't be a text of a row, or None; empty texts are for the converter to judge."""
    if not isinstance(text, str):
        return "not_text"
    if "\x00" in text:
        return "nul_byte"
    if not text.isascii():
        try:
            text.encode()
        # JSON may spell half of a surrogate pair, which no file can hold.
        except UnicodeEncodeError:
            return "not_utf8"
    return None


def _open(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _is_list(lines: BinaryIO) -> bool:
    """Whether a file is one JSON list rather than a row per line."""
    start = lines.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    lines.seek(0)
    return start.startswith(b"[")


def _json_list(lines: BinaryIO, path: Path) -> Iterator[RawRow]:
    try:
        listed = json_text.read(lines.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no JSON list: {error}; fetch it again") from error
    except JsonError as error:
        place = f", row {error.row}," if error.row else ""
        if error.line:
            place = f", line {error.line}, column {error.column},"
        raise DataError(f"{path}{place} is no JSON list: {error}; fetch it again") from error
    for row in listed:
        yield row if isinstance(row, dict) else "no_object"


def _blocks(lines: BinaryIO) -> Iterator[bytes]:
    while block := lines.read(_BYTES_PER_BATCH):
        yield block + lines.readline()


def _json_lines(lines: Iterable[bytes]) -> Iterator[RawRow]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield "not_utf8"
        except (ValueError, RecursionError):
            yield "no_json"
        else:
            yield row if isinstance(row, dict) else "no_object"


def _parquet(
    path: Path, needed: tuple[str, ...], used: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        have = file.schema_arrow.names
        if told := columns_error(have):
            raise DataError(f"{path}: {told}")
        missing = [name for name in needed if name not in have]
        if missing:
            raise DataError(
                f"{path} has no column {', '.join(missing)}; those it has: {', '.join(have)}"
            )
        columns = [name for name in used if name in have]
        batches = file.iter_batches(ROWS_PER_BATCH, columns=columns, use_threads=False)
        rows = file.metadata.num_rows
        yield from counted(f"reads {path.name}", batches, rows, "rows", lambda one: one.num_rows)


def _plain(batch: pa.RecordBatch) -> list[RawRow]:
    try:
        rows: list[RawRow] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        # One broken text costs its own row, not the others.
        return [_row(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _row(batch: pa.RecordBatch) -> RawRow:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
        return row
    except UnicodeDecodeError:
        return "not_utf8"


def _batches(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    batch: list[RawRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
