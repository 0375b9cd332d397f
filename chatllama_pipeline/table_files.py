"""Tables on disk: one Parquet file, or a folder of its name with parts of a bounded size, in order.

pandas, pyarrow, Spark and others read such a folder as they read a file; who takes it for a file
fails at once, and never takes a part for the whole. Here everybody who reads a version's table
comes, and needn't know which it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.progress import MEGABYTE, counted

VARIABLE = "CHATLLAMA_DATA_FILE_MB"
_USUAL_MEGABYTES = 1_000
_ROWS_PER_BATCH = 4_096


def most_bytes() -> int:
    """Bytes of a file, about, after which a table goes on in another one: what `VARIABLE` says."""
    named = os.environ.get(VARIABLE, "").strip() or str(_USUAL_MEGABYTES)
    if not named.isdecimal() or int(named) < 1:
        raise SettingsError(f"{VARIABLE} is {named!r}; set it to megabytes, 1 or more")
    return int(named) * MEGABYTE


def table_files(path: Path) -> list[Path]:
    """The Parquet files of the table at `path`, in the order of its rows."""
    return sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]


def row_count(path: Path) -> int:
    """How many rows a table has."""
    return sum(pq.read_metadata(file).num_rows for file in table_files(path))


def table_schema(path: Path) -> pa.Schema:
    """A table's columns, with what its schema notes beside them."""
    return pq.read_schema(table_files(path)[0])


def record_batches(
    path: Path, columns: list[str] | None = None, most_rows: int | None = None
) -> Iterator[pa.RecordBatch]:
    """A table's rows, so many at a time, in its order; as a phase: what is done with each counts
    in."""
    # <asset>/<assistant>/versions/<version>/<file>
    asset = path.parts[-5] if path.parts[-3:-2] == ("versions",) else path.parent.name
    batches = _batches(path, columns, most_rows or _ROWS_PER_BATCH)
    return counted(f"reads {asset}", batches, row_count(path), "rows", lambda one: one.num_rows)


def rows_at(path: Path, places: npt.NDArray[np.int64], columns: list[str]) -> pa.Table:
    """The rows at those places of a table, in their order."""
    # Brings pandas, which whoever loads the definitions doesn't wait for.
    import pyarrow.dataset as ds

    files = [str(file) for file in table_files(path)]
    return ds.dataset(files, format="parquet").take(pa.array(places, pa.int64()), columns=columns)


def _batches(path: Path, columns: list[str] | None, most_rows: int) -> Iterator[pa.RecordBatch]:
    for part in table_files(path):
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(most_rows, columns=columns, use_threads=False)


def next_part(path: Path, number: int) -> Path:
    """Where part `number` >= 1 of what stands at `path` goes: a folder from then on, whose part 0
    is the file that stood there."""
    if not path.is_dir():
        first = path.with_name(f".{path.name}.first")
        path.rename(first)
        path.mkdir()
        first.rename(_part(path, 0))
    return _part(path, number)


def _part(path: Path, number: int) -> Path:
    return path / f"part-{number:05}{path.suffix}"


class TableWriter:
    """Writes rows as the table at `path`; each `write` is a row group, or more where it is large.

    A file of `file_bytes` (None: see `most_bytes`) is followed by another: the same rows in the
    same groups give the same bytes.
    """

    def __init__(self, path: Path, schema: pa.Schema, file_bytes: int | None = None) -> None:
        self._path, self._schema = path, schema
        self._most = file_bytes or most_bytes()
        self._parts = 0
        self._open(path)

    def _open(self, path: Path) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._writer: Any = pq.ParquetWriter(self._file, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def write(self, rows: pa.Table) -> None:
        """Add rows behind the others."""
        if self._file.tell() >= self._most:
            self.close()
            self._parts += 1
            self._open(next_part(self._path, self._parts))
        self._writer.write_table(rows)

    def close(self) -> None:
        self._writer.close()
        self._file.close()

    def discard(self) -> None:
        """Close, and leave nothing behind."""
        self.close()
        if self._path.is_dir():
            shutil.rmtree(self._path)
        else:
            self._path.unlink()
