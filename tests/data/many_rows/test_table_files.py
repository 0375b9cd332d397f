"""A large table is a folder of files of a bounded size, and reads as the one file would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.runs.metadata import _sample, _table_schema
from chatllama_pipeline import table_files
from chatllama_pipeline.data import ordered
from chatllama_pipeline.data.audit.pairs import measure_pairs
from chatllama_pipeline.data.audit.tables import PersonalData, commonest_replies, scan_table
from chatllama_pipeline.data.near_duplicates import TextIndex
from chatllama_pipeline.data.own.personal import build_personal_data
from chatllama_pipeline.data.prepare.datasets import build_actor_training_data
from chatllama_pipeline.data.sources.catalog import build_source
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.data.tables import SplitRows, read_first, read_rows, read_split
from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.records import SPLITS, Outcome
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.manifests import list_payload
from chatllama_pipeline.table_files import (
    TableWriter,
    record_batches,
    row_count,
    rows_at,
    table_schema,
)
from chatllama_pipeline.table_files import (
    table_files as files_of,
)
from tests.data.own_files import RLHF, jsonl
from tests.data.small_tables import pair, prefer, settings, table

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string())])
ROWS = [pair(f"question {n} of many", f"reply {n % 7} to it", f"nothing {n}") for n in range(150)]


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 4 KB in place of as many MB, and row groups of 20 rows."""
    monkeypatch.setattr(table_files, "MEGABYTE", 1_000)
    monkeypatch.setenv(table_files.VARIABLE, "4")
    monkeypatch.setattr(ordered, "ROWS_PER_GROUP", 20)


def noise(count: int) -> pa.Table:
    """Rows of 100 bytes that no packing shortens."""
    draw = np.random.default_rng(0)
    return pa.table(
        {"n": range(count), "text": [draw.bytes(50).hex() for _ in range(count)]}, SCHEMA
    )


def test_a_table_beyond_the_limit_goes_on_in_parts_that_read_as_one(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = noise(200)
    path = tmp_path / "a.parquet"
    with TableWriter(path, SCHEMA.with_metadata({"by": "us"})) as writer:
        for start in range(0, 200, 10):
            writer.write(rows.slice(start, 10))
    parts = files_of(path)
    assert [part.name for part in parts] == [f"part-{n:05}.parquet" for n in range(len(parts))]
    assert len(parts) > 3
    assert all(part.stat().st_size < 8_000 for part in parts)
    assert sorted(tmp_path.iterdir()) == [path]
    assert pq.read_table(path).equals(rows)
    assert pa.Table.from_batches(record_batches(path, most_rows=7)).equals(rows)
    assert next(record_batches(path, ["n"])).schema.names == ["n"]
    assert row_count(path) == 200
    assert table_schema(path).metadata == {b"by": b"us"}
    assert rows_at(path, np.array([199, 3, 101]), ["n"])["n"].to_pylist() == [199, 3, 101]
    assert [file.path for file in list_payload(tmp_path)] == [f"a.parquet/{p.name}" for p in parts]


def test_a_table_within_the_limit_is_the_file_that_pyarrow_writes(tmp_path: Path) -> None:
    rows = noise(50)
    with TableWriter(tmp_path / "a.parquet", SCHEMA) as writer:
        writer.write(rows)
    pq.write_table(rows, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("named", ["0", "1.5", "all"])
def test_a_size_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    monkeypatch.setenv(table_files.VARIABLE, named)
    with pytest.raises(SettingsError, match=r"CHATLLAMA_DATA_FILE_MB is .* set it to megabytes"):
        TableWriter(tmp_path / "a.parquet", SCHEMA)


def test_a_wrong_size_is_told_before_a_row_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, personal: Path
) -> None:
    monkeypatch.setenv(table_files.VARIABLE, "0")
    monkeypatch.delattr("chatllama_pipeline.data.prepare.rows.Preparation.scanned")
    monkeypatch.delattr("chatllama_pipeline.data.sources.catalog.read_file")
    with pytest.raises(SettingsError, match="set it to megabytes"):
        prefer(tmp_path, personal, ROWS, settings())
    (tmp_path / "rows.jsonl").write_bytes(jsonl([{}]))
    with pytest.raises(SettingsError, match="set it to megabytes"):
        build_source("shp", tmp_path, Asked(str(tmp_path / "rows.jsonl")))


def make(tmp_path: Path, personal: Path, take: str) -> tuple[Path, Path, list[Outcome]]:
    """The pairs, and the conversations that follow from them."""
    _, first, pairs = prefer(tmp_path, personal, ROWS, settings(), take)
    none = table(tmp_path / "none", [], table_schema(personal / "actor.parquet"))
    actor = tmp_path / f"actor_{take}"
    actor.mkdir()
    second = build_actor_training_data(pairs, none, personal, settings(), actor)
    return pairs, actor, [first, second]


def listed(path: Path) -> list[Any]:
    """The rows of a JSON list, or of several in a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [row for file in files for row in json.loads(file.read_text())]


def test_datasets_in_parts_hold_the_rows_of_those_in_one_file_and_all_who_read_them_agree(
    tmp_path: Path, personal: Path, request: pytest.FixtureRequest
) -> None:
    one_pairs, one_actor, one = make(tmp_path, personal, "one")
    request.getfixturevalue("small_files")
    pairs, actor, many = make(tmp_path, personal, "many")
    assert many == one
    for whole, parted in ((one_pairs, pairs), (one_actor, actor)):
        assert (whole / "data.parquet").is_file() and len(files_of(parted / "data.parquet")) > 1
        assert read_rows(parted) == read_rows(whole)
        for split in SPLITS:
            assert read_split(parted, split) == read_split(whole, split)
            assert len(SplitRows(parted, split)) == len(read_split(whole, split))
        assert read_first(parted, "train", 70) == read_first(whole, "train", 70)
        both = [folder / "data.parquet" for folder in (whole, parted)]
        assert _sample(both[0]) == _sample(both[1])
        assert _table_schema(both[0]) == _table_schema(both[1])
    original = "actor_training_data.json"
    assert (actor / original).is_dir() and listed(actor / original) == listed(one_actor / original)
    assert measure_pairs(pairs, 40) == measure_pairs(one_pairs, 40)
    shown = []
    for folder in (one_actor, actor):
        scan = scan_table(
            "actor_training_data", folder, PersonalData(), TextIndex(), None, tmp_path
        )
        keys = scan.row_keys.read(0, scan.rows).tolist()
        shown.append((commonest_replies(scan, 3), scan.by_split(), keys))
    assert shown[0] == shown[1]


def test_own_rows_beyond_the_limit_go_on_in_parts(
    folder: Path, tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.data.own.personal._ROWS_PER_WRITE", 20)
    asked = [{"user_input": f"{n}: {text}"} for n, text in enumerate(noise(90)["text"].to_pylist())]
    path = folder / f"{RLHF}.jsonl"
    path.write_bytes(jsonl(asked))
    output = tmp_path / "out"
    output.mkdir()
    build_personal_data(folder, AssistantSettings(), output)
    assert len(files_of(output / "rlhf.parquet")) > 1
    found = [row["prompt"][0]["content"] for row in read_rows(output, "rlhf.parquet")]
    assert found == [row["user_input"] for row in asked]
    path.write_bytes(path.read_bytes() + b"no row\n")
    none = tmp_path / "none"
    none.mkdir()
    with pytest.raises(DataError, match="need a correction"):
        build_personal_data(folder, AssistantSettings(), none)
    assert list(none.iterdir()) == []
