"""Broken files and rows of public data: told with their file, or dropped and counted by name."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.sources.catalog import build_source
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import Outcome

ROW = {"history": "Why flat?", "human_ref_A": "Yeast.", "human_ref_B": "Dunno.", "labels": 1}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def build(tmp_path: Path, place: Path, name: str = "shp") -> tuple[Outcome, list[dict[str, Any]]]:
    output = tmp_path / "out"
    output.mkdir(exist_ok=True)
    outcome = build_source(name, output, Asked(source=str(place)))
    return outcome, pq.read_table(output / "data.parquet").to_pylist()


def test_a_truncated_gzip_is_an_error_that_names_it(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*({**ROW, "history": f"Why {n}?"} for n in range(500))))
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz is damaged: its gzip stream breaks off"):
        build(tmp_path, file)


def test_what_is_called_gzip_or_parquet_and_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(lines(ROW))
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz is damaged"):
        build(tmp_path, tmp_path / "rows.jsonl.gz")
    (tmp_path / "rows.parquet").write_bytes(lines(ROW))
    with pytest.raises(DataError, match=r"rows\.parquet is damaged or no Parquet file"):
        build(tmp_path, tmp_path / "rows.parquet")


def test_a_parquet_without_a_needed_column_is_an_error_that_names_both(tmp_path: Path) -> None:
    rows = [{key: value for key, value in ROW.items() if key != "human_ref_B"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(DataError) as failure:
        build(tmp_path, tmp_path / "rows.parquet")
    assert str(failure.value).endswith(
        "rows.parquet has no column human_ref_B; those it has: history, human_ref_A, labels"
    )


def test_json_rows_without_a_column_are_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(ROW, {"history": "x"}, [1], "text"))
    outcome, rows = build(tmp_path, tmp_path / "rows.jsonl")
    assert (len(rows), outcome.metrics["dropped"]) == (1, {"missing_column": 1, "no_object": 2})


def test_a_column_that_stands_twice_is_an_error_that_names_it(tmp_path: Path) -> None:
    texts = [pa.array(["\n\nHuman: a\n\nAssistant: b"])] * 3
    table = pa.Table.from_arrays(texts, names=["chosen", "rejected", "chosen"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet: the column chosen stands there 2 times"):
        build(tmp_path, tmp_path / "rows.parquet", "hh_rlhf")


def test_a_deeply_nested_row_and_a_number_of_5000_digits_cost_themselves(tmp_path: Path) -> None:
    deep = b'{"history": ' + b"[" * 100_000 + b"\n"
    huge = lines(ROW).replace(b'"labels": 1', b'"labels": ' + b"1" * 5000)
    (tmp_path / "ROWS.JSONL").write_bytes(lines(ROW) + deep + huge)
    outcome, rows = build(tmp_path, tmp_path)
    assert (len(rows), outcome.metrics["dropped"]) == (1, {"no_json": 2})


def test_a_list_names_the_row_that_is_nested_too_deeply_and_reads_beside_a_huge_number(
    tmp_path: Path,
) -> None:
    row = json.dumps(ROW).encode()
    file = tmp_path / "rows.json"
    file.write_bytes(b"[" + row + b", " + row[:-1] + b', "id": ' + b"7" * 5000 + b"}]")
    assert build(tmp_path, file)[0].rows == 2
    file.write_bytes(b"[" + row + b', {"history": ' + b"[" * 100_000)
    with pytest.raises(
        DataError, match=r"rows\.json, row 2, is no JSON list: is nested too deeply"
    ):
        build(tmp_path, file)


def test_mixed_types_in_a_column_cost_their_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        lines(ROW, {**ROW, "history": 5}, {**ROW, "human_ref_A": ["x"]}, {**ROW, "labels": "A"})
    )
    numbers = pa.Table.from_pylist([{**ROW, "history": number} for number in range(3)])
    pq.write_table(numbers, tmp_path / "b.parquet")
    outcome, rows = build(tmp_path, tmp_path)
    assert len(rows) == 1
    assert outcome.metrics["dropped"] == {"no_label": 1, "not_text": 2 + 3}


def test_null_empty_and_blank_texts_are_counted_by_name(tmp_path: Path) -> None:
    bad = [{"history": None}, {"history": ""}, {"history": " \t\n"}, {"human_ref_A": " "}]
    (tmp_path / "rows.jsonl").write_bytes(lines(ROW, *({**ROW, **change} for change in bad)))
    outcome, rows = build(tmp_path, tmp_path / "rows.jsonl")
    assert len(rows) == 1
    assert outcome.metrics["dropped"] == {"empty_prompt": 2, "empty_reply": 1, "not_text": 1}
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())["sources"]["shp"]
    assert (funnel["read"], funnel["valid"], funnel["kept"]) == (5, 1, 1)


def test_nul_bytes_and_invalid_utf8_cost_their_rows_alone(tmp_path: Path) -> None:
    broken = lines({**ROW, "history": "caf?"}).replace(b"?", b"\xe9")
    unfinished = b'{"history": "Why'
    nul = lines({**ROW, "human_ref_B": "a\x00b"})
    (tmp_path / "a.jsonl").write_bytes(lines(ROW) + broken + nul + unfinished)
    texts = pa.array([b"Why not?", b"caf\xe9", b"a\x00b"], pa.binary())
    replies = {"human_ref_A": ["x"] * 3, "human_ref_B": ["y"] * 3, "labels": [1] * 3}
    # Parquet files of others hold what Arrow would never write.
    history = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    pq.write_table(pa.table({"history": history, **replies}), tmp_path / "b.parquet")
    outcome, rows = build(tmp_path, tmp_path)
    assert sorted(row["prompt"][0]["content"] for row in rows) == ["Why flat?", "Why not?"]
    assert outcome.metrics["dropped"] == {"no_json": 1, "not_utf8": 2, "nul_byte": 2}


def test_a_row_of_five_megabytes_emojis_and_right_to_left_text_come_through_unharmed(
    tmp_path: Path,
) -> None:
    long = "word " * 1_000_000 + "end"
    family = "Why \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea?"
    shalom = "\u05dc\u05de\u05d4 \u202b\u05e9\u05dc\u05d5\u05dd\u202c\u061f"
    rows = [{**ROW, "history": text} for text in (long, family, shalom)]
    (tmp_path / "rows.jsonl").write_bytes(lines(*rows))
    _, found = build(tmp_path, tmp_path / "rows.jsonl")
    assert {row["prompt"][0]["content"] for row in found} == {long, family, shalom}


def test_a_loop_of_links_ends_and_a_link_to_nowhere_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(lines(ROW))
    (folder / "again").symlink_to(folder)
    outcome, _ = build(tmp_path, folder)
    assert outcome.rows == 1
    (folder / "lost.jsonl").symlink_to(folder / "lost.jsonl")
    with pytest.raises(DataError, match=r"lost\.jsonl cannot be read"):
        build_source("shp", tmp_path / "out", Asked(source=str(folder)))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, which open every folder."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_without_rights_is_told(tmp_path: Path) -> None:
    # Above the test's own folder others may not enter either: that is told in the same words.
    locked = tmp_path / "in" / "harmless-base"
    locked.mkdir(parents=True)
    (locked / "rows.jsonl").write_bytes(lines(ROW))
    for folder in (locked, tmp_path / "in"):
        folder.chmod(0)
        with as_nobody(), pytest.raises(DataError, match=r"cannot be read: Permission denied"):
            build_source("shp", tmp_path, Asked(source=str(folder)))
        folder.chmod(0o700)


def test_a_source_that_yields_nothing_says_why(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(*[{**ROW, "labels": 7}] * 3))
    outcome, _ = build(tmp_path, tmp_path / "rows.jsonl")
    failed = [check for check in outcome.checks if not check.passed]
    assert [check.description for check in failed] == [
        "no rows: all were dropped (no_label 3); set CHATLLAMA_SHP to a place that holds rows"
    ]
