"""Whatever memory is set, the same rows become the same bytes; too little is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.data import near_duplicates, ordered
from chatllama_pipeline.data.spill import budget, column, known
from chatllama_pipeline.errors import SettingsError
from tests.data.small_tables import pair, prefer, settings

ROWS = [
    pair(f"question {n % 50}", " ".join(f"word{(n * k) % 97}" for k in range(45)), f"reply {n % 9}")
    for n in range(120)
]


def test_rows_become_the_same_bytes_whatever_memory_is_set(
    tmp_path: Path, personal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that little is a few values each and a lot is all, of as few rows as these.
    for module, bound, usual in (
        (column, "MOST_BYTES", 4_000),
        (column, "VALUES_AT_ONCE", 200),
        (column, "_TAKEN_AT_ONCE", 100),
        (known, "LEAST_SLOTS", 1),
        (known, "MOST_SLOTS", 1 << 9),
        (near_duplicates, "_MOST_EDGES", 400),
        (near_duplicates, "_SIGNATURES_AT_ONCE", 100),
        (ordered, "WAITING_BYTES", 100_000),
    ):
        monkeypatch.setattr(module, bound, usual)
    sorts = []
    divide = ordered._Buckets._flush

    def sorts_on_disk(self: ordered._Buckets) -> None:
        sorts.append(asked)
        divide(self)

    monkeypatch.setattr(ordered._Buckets, "_flush", sorts_on_disk)
    chosen = settings(data={"max_length": 400}, actor_config={"model": "scratch"})
    made = []
    for asked in ("", "100", "4000"):
        monkeypatch.setenv(budget.VARIABLE, asked)
        name = asked or "usual"
        _, outcome, output = prefer(tmp_path, personal, [*ROWS, *ROWS[:20]], chosen, name)
        made.append((outcome, {path.name: path.read_bytes() for path in output.iterdir()}))
    assert made[0] == made[1] == made[2]
    assert made[0][0].metrics["dropped"]["duplicate"] > 0
    assert set(sorts) == {"100"}


@pytest.mark.parametrize("asked", ["99", "0", "-5", "2GB", "1.5"])
def test_too_little_memory_is_told_before_rows_are_read(
    tmp_path: Path, personal: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv(budget.VARIABLE, asked)
    told = rf"CHATLLAMA_DATA_MEMORY_MB is '{asked}'; set it to megabytes, 100 or more"
    with pytest.raises(SettingsError, match=told):
        prefer(tmp_path, personal, ROWS)
