"""Tables come out in the order of their keys, alike whether rows waited on disk or in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data import ordered
from chatllama_pipeline.data.ordered import ROWS_PER_GROUP, OrderedTable

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string())])
COUNT = 2 * ROWS_PER_GROUP + 500
KEYS = np.random.default_rng(0).integers(0, 2**64, COUNT, np.uint64, endpoint=False)


def write(path: Path, order: np.ndarray, waiting_bytes: int, batch: int) -> list[int]:
    groups: list[int] = []
    with OrderedTable(path, SCHEMA, lambda g: groups.append(g.num_rows), waiting_bytes) as ordered:
        for start in range(0, COUNT, batch):
            here = order[start : start + batch]
            rows = pa.table({"text": [f"row {n}" for n in here], "n": here, "more": here})
            ordered.add(rows, KEYS[here])
    assert ordered.rows == COUNT
    return groups


def test_rows_on_disk_and_in_memory_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    forth = np.arange(COUNT)
    mixed = np.random.default_rng(1).permutation(COUNT)
    groups = write(tmp_path / "a.parquet", forth, 1 << 40, 5_000)
    assert groups == [ROWS_PER_GROUP, ROWS_PER_GROUP, 500]
    assert write(tmp_path / "b.parquet", mixed, 50_000, 777) == groups
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.schema.equals(SCHEMA)
    assert table["n"].to_pylist() == np.argsort(KEYS).tolist()
    assert table["text"][0].as_py() == f"row {np.argmin(KEYS)}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_bucket_too_large_for_memory_is_sorted_in_buckets_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    one_sorted = ordered._sorted

    def sorted_here(table: pa.Table) -> pa.Table:
        taken.append(table.nbytes)
        return one_sorted(table)

    monkeypatch.setattr(ordered, "_sorted", sorted_here)
    tables = []
    for waiting in (1 << 40, 5_000):
        with OrderedTable(tmp_path / f"{waiting}.parquet", SCHEMA, None, waiting) as made:
            # All in the first bucket.
            for start in range(0, 3_000, 50):
                keys = KEYS[start : start + 50] >> np.uint64(6)
                made.add(pa.table({"n": np.arange(start, start + 50), "text": ["row"] * 50}), keys)
        tables.append((tmp_path / f"{waiting}.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert max(taken[1:]) < 5 * 5_000 < taken[0]
    # Rows that no bit of their keys tells apart stay as they came.
    with OrderedTable(tmp_path / "c.parquet", SCHEMA, waiting_bytes=500) as alike:
        for n in range(100):
            alike.add(pa.table({"n": [n], "text": ["x" * 50]}), np.array([7], np.uint64))
    assert pq.read_table(tmp_path / "c.parquet")["n"].to_pylist() == list(range(100))
    assert len(list(tmp_path.iterdir())) == 3


def test_no_rows_make_an_empty_table(tmp_path: Path) -> None:
    with OrderedTable(tmp_path / "a.parquet", SCHEMA) as ordered:
        ordered.add(SCHEMA.empty_table(), np.zeros(0, np.uint64))
    assert pq.read_table(tmp_path / "a.parquet").equals(SCHEMA.empty_table())


def test_nothing_waits_on_disk_after_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        OrderedTable(tmp_path / "a.parquet", SCHEMA, waiting_bytes=10) as ordered,
    ):
        ordered.add(pa.table({"n": [1, 2], "text": ["a", "b"]}), np.array([1, 2], np.uint64))
        assert [path.name for path in tmp_path.iterdir()] == [".a.parquet.sorting"]
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
