"""A table written in the order of its rows' keys, however the rows came, in bounded memory.

Rows wait in up to `_BUCKETS` files by the leading bits of their keys (an external bucket sort); a
bucket at a time is then read, sorted and written, a large one in buckets of its own. Row groups
hold a fixed number of rows, so equal rows give equal bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chatllama_pipeline.data.spill.budget import part
from chatllama_pipeline.progress import phase
from chatllama_pipeline.table_files import TableWriter, most_bytes

ROWS_PER_GROUP = 10_000
WAITING_BYTES = 64 << 20
Keys = npt.NDArray[np.uint64]

_BUCKETS, _BUCKET_BITS, _KEY_BITS = 64, 6, 64
# A bucket of more than so many times what may wait in memory is not sorted in one.
_MOST_WAITS_PER_BUCKET = 4
_KEY = "_key"


class OrderedTable:
    """Takes tables with a key per row (uint64); on leaving, writes them by key as one table (see
    `table_files`).

    `on_group` is called with each row group as it is written, in order; more than `waiting_bytes`
    of rows (None: their part of what is set) go to disk meanwhile, and a few times as much is
    sorted at once.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        on_group: Callable[[pa.Table], None] | None = None,
        waiting_bytes: int | None = None,
    ) -> None:
        self.rows = 0
        self._path = path
        self._schema = schema
        self._on_group = on_group
        self._spill = path.with_name(f".{path.name}.sorting")
        waiting = part(WAITING_BYTES) if waiting_bytes is None else waiting_bytes
        self._buckets = _Buckets(self._spill, waiting)
        # A setting that is wrong is told before rows are read.
        self._file_bytes = most_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._write()
        finally:
            self._buckets.close()
            shutil.rmtree(self._spill, ignore_errors=True)

    def add(self, table: pa.Table, keys: Keys) -> None:
        """Take rows; columns beyond the schema are left out."""
        if table.num_rows == 0:
            return
        self.rows += table.num_rows
        keyed = table.select(self._schema.names).cast(self._schema)
        self._buckets.add(keyed.append_column(_KEY, pa.array(keys, pa.uint64())))

    def _write(self) -> None:
        rest: pa.Table = self._schema.empty_table()
        counter = phase(f"writes {self._path.name}", self.rows, "rows")
        with TableWriter(self._path, self._schema, self._file_bytes) as writer:
            for part in self._buckets.in_order():
                rest = pa.concat_tables([rest, part.drop_columns([_KEY])])
                full = rest.num_rows - rest.num_rows % ROWS_PER_GROUP
                for start in range(0, full, ROWS_PER_GROUP):
                    self._write_group(writer, rest.slice(start, ROWS_PER_GROUP))
                rest = rest.slice(full)
                counter.advance(part.num_rows)
            if rest.num_rows:
                self._write_group(writer, rest)

    def _write_group(self, writer: TableWriter, rows: pa.Table) -> None:
        group = rows.combine_chunks()
        writer.write(group)
        if self._on_group is not None:
            self._on_group(group)


class _Buckets:
    """Rows by some bits of their keys, those behind the first `level` times as many; what doesn't
    fit in `most_waiting` bytes stands in files in `folder`."""

    def __init__(self, folder: Path, most_waiting: int, level: int = 0) -> None:
        self._folder, self._most_waiting, self._level = folder, most_waiting, level
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._files: dict[int, Any] = {}

    def add(self, keyed: pa.Table) -> None:
        self._waiting.append(keyed)
        self._waiting_bytes += keyed.nbytes
        if self._waiting_bytes > self._most_waiting:
            self._flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def in_order(self) -> Iterator[pa.Table]:
        """All rows by their keys, those of equal ones as they came; some at a time."""
        if not self._files:
            if self._waiting:
                yield _sorted(pa.concat_tables(self._waiting))
            return
        self._flush()
        self.close()
        for bucket in sorted(self._files):
            path = self._path(bucket)
            if path.stat().st_size > _MOST_WAITS_PER_BUCKET * self._most_waiting and self._is_wide:
                yield from self._divided(path)
            else:
                with pa.ipc.open_stream(path) as stream:
                    rows = stream.read_all()
                path.unlink()
                yield _sorted(rows)

    @property
    def _is_wide(self) -> bool:
        """Whether the keys of a bucket have bits left to tell them apart by."""
        return (self._level + 2) * _BUCKET_BITS <= _KEY_BITS

    def _divided(self, path: Path) -> Iterator[pa.Table]:
        inner = _Buckets(path.with_suffix(""), self._most_waiting, self._level + 1)
        try:
            with pa.ipc.open_stream(path) as stream:
                for batch in stream:
                    inner.add(pa.Table.from_batches([batch]))
            path.unlink()
            yield from inner.in_order()
        finally:
            inner.close()

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket:02}.arrow"

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._folder.mkdir(exist_ok=True)
        table = _sorted(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_bytes = [], 0
        starts = np.searchsorted(self._bucket_of(table[_KEY].to_numpy()), np.arange(_BUCKETS + 1))
        for bucket in range(_BUCKETS):
            first, last = int(starts[bucket]), int(starts[bucket + 1])
            if first == last:
                continue
            if bucket not in self._files:
                self._files[bucket] = pa.ipc.new_stream(self._path(bucket), table.schema)
            self._files[bucket].write_table(table.slice(first, last - first))

    def _bucket_of(self, keys: Keys) -> npt.NDArray[np.int64]:
        last = _KEY_BITS - (self._level + 1) * _BUCKET_BITS
        return ((keys >> np.uint64(last)) & np.uint64(_BUCKETS - 1)).astype(np.int64)


def _sorted(table: pa.Table) -> pa.Table:
    order = np.argsort(table[_KEY].to_numpy(), kind="stable")
    return table.combine_chunks().take(pa.array(order))
