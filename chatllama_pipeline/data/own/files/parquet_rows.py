"""The rows of Parquet files; of their columns those that some format reads."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.data.columns import columns_error
from chatllama_pipeline.data.own.files.json_rows import Numbered
from chatllama_pipeline.data.own.recognising import is_known
from chatllama_pipeline.data.own.rows import Reading

_ROWS_PER_BATCH = 256


def parquet_rows(path: Path, reading: Reading, also: Collection[str] | None) -> Numbered:
    """The rows of a file. Columns that no format reads and that `also` (None: all) doesn't name are
    left in the file, and stand in the rows as true: they are there, and nothing is known of them.
    """
    try:
        # An open handle, so that a missing right is an OSError and no complaint about Parquet.
        with path.open("rb") as handle, pq.ParquetFile(handle) as table:
            names = table.schema_arrow.names
            if told := columns_error(names):
                reading.errors.add(f"{reading.name}: {told}")
                return
            wanted = [name for name in names if also is None or is_known(name) or name in also]
            others = dict.fromkeys((name for name in names if name not in wanted), True)
            number = 1
            for batch in table.iter_batches(_ROWS_PER_BATCH, columns=wanted):
                for row_number, row in _batch_rows(batch, number, reading):
                    yield row_number, {**row, **others}
                number += batch.num_rows
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        first = str(error).splitlines()[0]
        reading.errors.add(
            f"{reading.name}: is no Parquet file, or a damaged one ({first}); write it again"
        )


def _batch_rows(batch: pa.RecordBatch, first: int, reading: Reading) -> Numbered:
    try:
        rows = batch.to_pylist() if batch.num_columns else [{}] * batch.num_rows
        yield from enumerate(map(_plain, rows), start=first)
        return
    except UnicodeDecodeError:
        pass
    for offset in range(batch.num_rows):
        row = batch.slice(offset, 1)
        for name in row.schema.names:
            try:
                row[name].to_pylist()
            except UnicodeDecodeError as error:
                reading.errors.add(
                    f"{reading.name}, row {first + offset}, field {name}: byte {error.start} is "
                    "not UTF-8; write the text as UTF-8"
                )
                break
        else:
            yield first + offset, _plain(row.to_pylist()[0])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """With decimals as the numbers that they are."""
    if not any(isinstance(value, Decimal) for value in row.values()):
        return row
    return {
        name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()
    }
