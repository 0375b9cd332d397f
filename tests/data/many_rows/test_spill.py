"""Columns and tables of bounded memory tell what they would tell if all were in memory."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from chatllama_pipeline.data.near_duplicates import TextIndex
from chatllama_pipeline.data.prepare.selection import lowest
from chatllama_pipeline.data.spill import column as columns
from chatllama_pipeline.data.spill.column import Column, groups
from chatllama_pipeline.data.spill.known import LEAST_SLOTS, Known, shared_file, slots_for
from chatllama_pipeline.data.spill.rows import SpilledRows
from tests.data.prepare.test_near_duplicates import PAIRS, clusters

DRAW = np.random.default_rng(0)
HASHES = DRAW.integers(1, 2**64, 3000, np.uint64, endpoint=False)


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if memory ended after a few values."""
    monkeypatch.setattr(columns, "MOST_BYTES", 100)
    monkeypatch.setattr(columns, "VALUES_AT_ONCE", 70)
    monkeypatch.setattr(columns, "_TAKEN_AT_ONCE", 30)


def filled(column: Column, values: np.ndarray) -> Column:
    for start in range(0, len(values), 37):
        column.append(values[start : start + 37])
    return column


@pytest.mark.parametrize("most_bytes", [0, 1 << 30])
def test_a_column_gives_back_what_was_appended_from_memory_and_from_disk(
    tmp_path: Path, cramped: None, most_bytes: int
) -> None:
    wide = DRAW.integers(0, 9, (500, 3)).astype(np.uint32)
    places = DRAW.integers(0, 500, 200)
    for values in (HASHES[:500], wide):
        width = 1 if values.ndim == 1 else 3
        column = filled(Column(values.dtype, tmp_path, width, most_bytes), values)
        assert len(column) == 500
        assert np.array_equal(column.read(13, 400), values[13:400])
        assert np.array_equal(column.read(490, 600), values[490:])
        assert np.array_equal(column.take(places), values[places])
        column.append(values[:5])
        read = [(here.start, part) for here, part in column.chunks()]
        assert [start for start, _ in read] == list(range(0, 505, 70))
        assert np.array_equal(
            np.concatenate([p for _, p in read]), np.concatenate([values, values[:5]])
        )
    # Files without names are gone however the process ends.
    assert list(tmp_path.iterdir()) == []


def test_equal_hashes_come_together_and_no_more_at_once_than_may(
    tmp_path: Path, cramped: None
) -> None:
    values = HASHES[DRAW.integers(0, 200, 600)]
    wanted = DRAW.random(600) < 0.7
    found = list(groups(filled(Column(np.uint64, tmp_path), values), wanted))
    assert len(found) == -(-int(wanted.sum()) // 70)
    assert (
        sorted(np.concatenate([places for places, _ in found])) == np.flatnonzero(wanted).tolist()
    )
    seen: set[int] = set()
    for places, hashes in found:
        assert np.array_equal(values[places], hashes)
        assert np.all(np.diff(places) > 0)
        assert not seen & set(hashes.tolist())
        seen |= set(hashes.tolist())


def test_the_lowest_values_are_those_that_sorting_all_would_give() -> None:
    # A few leading bits, so that many share them, and many equal values.
    values = (HASHES >> np.uint64(61) << np.uint64(61)) + HASHES % np.uint64(40)
    for count in (1, 700, 2999):
        parts = [(np.arange(s, s + 500), values[s : s + 500]) for s in range(0, 3000, 500)]
        found = np.concatenate(list(lowest(lambda parts=parts: parts, count)))  # type: ignore[misc]
        assert sorted(found) == sorted(np.argsort(values, kind="stable")[:count])


def test_a_table_knows_what_was_put_in_and_what_others_put_in(tmp_path: Path) -> None:
    file = shared_file(slots_for(3000), tmp_path)
    mine, others = Known(file), Known(file)
    os.close(file)
    mine.put(HASHES[:2000], HASHES[:2000] + 1, HASHES[:2000] + 2)
    found, first, second = others.find(HASHES)
    assert found.tolist() == [True] * 2000 + [False] * 1000
    assert np.array_equal(first[:2000], HASHES[:2000] + 1)
    assert np.array_equal(second[:2000], HASHES[:2000] + 2)
    assert not first[2000:].any()
    others.put(HASHES[:1], HASHES[5:6], HASHES[6:7])
    assert [part.tolist() for part in mine.find(HASHES[:1])[1:]] == [[HASHES[5]], [HASHES[6]]]


def test_a_table_that_is_full_or_torn_forgets_and_never_errs(tmp_path: Path) -> None:
    table = Known.alone(0, tmp_path)
    many = DRAW.integers(1, 2**64, 4 * LEAST_SLOTS, np.uint64, endpoint=False)
    table.put(many, many + 1, many + 2)
    found, first, second = table.find(many)
    assert LEAST_SLOTS / 2 < found.sum() <= LEAST_SLOTS
    assert np.array_equal(first[found], many[found] + 1)
    assert np.array_equal(second[found], many[found] + 2)
    # As where two processes wrote into each slot at once.
    table._first[:] += 1
    assert not table.find(many)[0].any()


def test_texts_have_the_same_clusters_where_nothing_fits_into_memory(
    cramped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [pair[side] for pair in PAIRS[::3] for side in ("one", "other")]
    with pytest.MonkeyPatch.context() as roomy:
        roomy.setattr(columns, "MOST_BYTES", 1 << 30)
        roomy.setattr(columns, "VALUES_AT_ONCE", 1 << 30)
        whole = clusters(texts)
    monkeypatch.setattr("chatllama_pipeline.data.near_duplicates._MOST_EDGES", 10)
    assert clusters(texts) == whole
    assert len(set(whole)) < len(texts)


def test_a_full_disk_is_an_error_that_a_store_tells_with_its_cure(tmp_path: Path) -> None:
    index = TextIndex(tmp_path)
    column = index._signatures = Column(np.uint32, tmp_path, 64, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as refused:
            for _ in range(9):
                column.append(np.zeros((4, 64), np.uint32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.errno == errno.EFBIG


@pytest.mark.parametrize("most_bytes", [0, 1 << 30])
def test_rows_on_disk_are_those_that_a_list_would_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr(columns, "MOST_BYTES", most_bytes)
    monkeypatch.setattr("chatllama_pipeline.data.spill.rows._ROWS_AT_ONCE", 7)
    folder = tmp_path / "not yet"
    rows: SpilledRows[tuple[str, list[int]]] = SpilledRows(folder)
    assert (len(rows), list(rows), rows[:3]) == (0, [], [])
    listed = [(f"row {n}" * (n % 4), list(range(n % 5))) for n in range(50)]
    for number, row in enumerate(listed):
        rows.append(row)
        # What was added last is there, whether it waits or not.
        assert rows[number] == rows[-1] == row
    assert list(rows) == list(rows) == listed
    assert rows[3:40:5] == listed[3:40:5]
    assert rows[-4:] == listed[-4:]
    with pytest.raises(IndexError):
        rows[50]
    assert list(folder.iterdir()) == []
    assert (rows._bytes._file is not None) == (most_bytes == 0)
