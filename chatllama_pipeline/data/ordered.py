"""A table written in the order of its rows' keys, however the rows came, in bounded memory.

Rows wait in up to `_BUCKETS` files by the leading bits of their keys (an external bucket sort); a
bucket at a time is then read, sorted and written. Row groups hold a fixed number of rows, so equal
rows give equal bytes.
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
import pyarrow.parquet as pq

from chatllama_pipeline.progress import phase

ROWS_PER_GROUP = 10_000
Keys = npt.NDArray[np.uint64]

_BUCKETS = 64
_KEY = "_key"


class OrderedTable:
    """Takes tables with a key per row (uint64); on leaving, writes one Parquet file by key.

    `on_group` is called with each row group as it is written, in order; more than `waiting_bytes`
    of rows go to disk meanwhile.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        on_group: Callable[[pa.Table], None] | None = None,
        waiting_bytes: int = 64 << 20,
    ) -> None:
        self.rows = 0
        self._path = path
        self._schema = schema
        self._on_group = on_group
        self._spill = path.with_name(f".{path.name}.sorting")
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._most_waiting = waiting_bytes
        self._files: dict[int, Any] = {}

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
            for file in self._files.values():
                file.close()
            shutil.rmtree(self._spill, ignore_errors=True)

    def add(self, table: pa.Table, keys: Keys) -> None:
        """Take rows; columns beyond the schema are left out."""
        if table.num_rows == 0:
            return
        self.rows += table.num_rows
        keyed = table.select(self._schema.names).cast(self._schema)
        keyed = keyed.append_column(_KEY, pa.array(keys, pa.uint64()))
        self._waiting.append(keyed)
        self._waiting_bytes += keyed.nbytes
        if self._waiting_bytes > self._most_waiting:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._spill.mkdir(exist_ok=True)
        table = _sorted(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_bytes = [], 0
        numbers = _bucket(table[_KEY].to_numpy())
        starts = np.searchsorted(numbers, np.arange(_BUCKETS + 1))
        for bucket in range(_BUCKETS):
            first, last = int(starts[bucket]), int(starts[bucket + 1])
            if first == last:
                continue
            if bucket not in self._files:
                path = self._spill / f"{bucket:02}.arrow"
                self._files[bucket] = pa.ipc.new_stream(path, table.schema)
            self._files[bucket].write_table(table.slice(first, last - first))

    def _sorted_parts(self) -> Iterator[pa.Table]:
        if not self._files:
            if self._waiting:
                yield _sorted(pa.concat_tables(self._waiting))
            return
        self._flush()
        for bucket in sorted(self._files):
            self._files[bucket].close()
            path = self._spill / f"{bucket:02}.arrow"
            with pa.ipc.open_stream(path) as stream:
                yield _sorted(stream.read_all())
            path.unlink()

    def _write(self) -> None:
        rest: pa.Table = self._schema.empty_table()
        counter = phase(f"writes {self._path.name}", self.rows, "rows")
        with pq.ParquetWriter(self._path, self._schema) as writer:
            for part in self._sorted_parts():
                rest = pa.concat_tables([rest, part.drop_columns([_KEY])])
                full = rest.num_rows - rest.num_rows % ROWS_PER_GROUP
                for start in range(0, full, ROWS_PER_GROUP):
                    self._write_group(writer, rest.slice(start, ROWS_PER_GROUP))
                rest = rest.slice(full)
                counter.advance(part.num_rows)
            if rest.num_rows:
                self._write_group(writer, rest)

    def _write_group(self, writer: Any, rows: pa.Table) -> None:
        group = rows.combine_chunks()
        writer.write_table(group)
        if self._on_group is not None:
            self._on_group(group)


def _bucket(keys: Keys) -> npt.NDArray[np.int64]:
    return (keys >> np.uint64(58)).astype(np.int64)


def _sorted(table: pa.Table) -> pa.Table:
    order = np.argsort(table[_KEY].to_numpy(), kind="stable")
    return table.combine_chunks().take(pa.array(order))
