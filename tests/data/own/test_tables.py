"""What holds own rows: endings, packings, encodings, separators, sheets; read alike, or told."""

from __future__ import annotations

import decimal
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook

from tests.data.own_files import ACTOR, REWARD, RLHF, build, errors_of, jsonl, put, user

ROWS = [{"user_input": "Sing!", "completion": "La"}, {"user_input": "Écris!", "completion": "5"}]
WANTED = [(user("Sing!"), "La"), (user("Écris!"), "5")]


def replies(folder: Path) -> list[tuple[Any, str]]:
    tables, _ = build(folder)
    return [(row["prompt"], row["completion"]) for row in tables["actor"]]


def zstd(raw: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


def csv_text(separator: str = ",") -> str:
    header = separator.join(ROWS[0])
    return "\n".join([header, *(separator.join(row.values()) for row in ROWS)]) + "\n"


def sheet(folder: Path, rows: list[list[Any]], name: str = f"{ACTOR}.xlsx") -> Workbook:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(folder / name)
    return book


CELLS = [list(ROWS[0]), ["Sing!", "La"], ["Écris!", 5]]


def packed(content: bytes) -> bytes:
    """gzip without its clock: every worker must give a test the same name."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".CSV", csv_text().encode()),
        (".JSON", json.dumps(ROWS).encode()),
        (".Jsonl", jsonl(ROWS)),
        (".ndjson", jsonl(ROWS)),
        (".NDJSON.GZ", packed(jsonl(ROWS))),
        (".jsonl.zst", zstd(jsonl(ROWS))),
        (".json.zst", zstd(json.dumps(ROWS).encode())),
        (".csv.ZST", zstd(csv_text().encode())),
        (".tsv", csv_text("\t").encode()),
        (".tsv.gz", packed(csv_text("\t").encode())),
        # Packed, and the name doesn't say so.
        (".jsonl", packed(jsonl(ROWS))),
        (".csv", zstd(csv_text().encode())),
        # As Excel and PowerShell write them.
        (".csv", csv_text("\t").encode("utf-16")),
        (".jsonl", jsonl(ROWS).decode().encode("utf-16")),
        (".json", json.dumps(ROWS, ensure_ascii=False).encode("utf-16")),
        (".jsonl", b"\xfe\xff" + jsonl(ROWS).decode().encode("utf-16-be")),
        (".csv", csv_text(";").encode("utf-8-sig")),
        (".csv", f"sep=;\r\n{csv_text(';')}".encode()),
        (".csv", f"sep=,\n{csv_text()}".encode("utf-16")),
        (".csv", csv_text("|").encode()),
        # Two files that were joined.
        (".jsonl", b"".join(b"\xef\xbb\xbf" + jsonl([row]) for row in ROWS)),
    ],
)
def test_the_same_rows_are_read_from_every_ending_packing_encoding_and_separator(
    folder: Path, name: str, content: bytes
) -> None:
    (folder / f"{ACTOR}{name}").write_bytes(content)
    assert replies(folder) == WANTED


def test_a_workbook_is_read_as_its_one_sheet_with_cells(folder: Path) -> None:
    book = sheet(folder, [[], *CELLS, [], ["Hum_x000D_!", None, "a note"], ["=not", True]])
    book.active["A7"].data_type = "s"
    book.create_sheet("empty")
    book.save(folder / f"{ACTOR}.xlsx")
    told = errors_of(folder)
    assert f"{ACTOR}.xlsx, row 6, field completion: is empty; write a text" in told
    book.active["B6"] = "Hm"
    book.save(folder / f"{ACTOR}.xlsx")
    assert replies(folder) == [*WANTED, (user("Hum\r!"), "Hm"), (user("=not"), "true")]


def test_scores_of_a_workbook_are_numbers_and_an_empty_cell_is_to_be_scored(folder: Path) -> None:
    header = ["user_input", "completion", "score"]
    rows = [header, ["Sing!", "La", 4.5], ["Sing!", 0, None], ["Sing!", "Hm", "3"]]
    sheet(folder, rows, f"{REWARD}.xlsx")
    tables, _ = build(folder)
    found = [(row["completion"], row["score"]) for row in tables["reward"]]
    assert found == [("La", 4.5), ("0", None), ("Hm", 3.0)]


def two_sheets(book: Workbook) -> None:
    book.create_sheet("more").append(["user_input"])


def merged(book: Workbook) -> None:
    book.active.merge_cells("A2:A3")


def formula(book: Workbook) -> None:
    book.active["B2"] = '=CONCATENATE("L","a")'


def percent(book: Workbook) -> None:
    book.active["B3"].number_format = "0%"


def a_date(book: Workbook) -> None:
    book.active["B3"] = date(2020, 1, 2)


def an_error(book: Workbook) -> None:
    book.active["B3"] = "#N/A"


def twice(book: Workbook) -> None:
    book.active["C1"] = "completion"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (two_sheets, ".xlsx: has 2 sheets with cells (Sheet, more); keep one, or save each as"),
        (merged, ".xlsx: the cells A2:A3 are merged; unmerge them, and write into each what"),
        (formula, ".xlsx: the cell B2 holds a formula without its value; open the file in Excel"),
        (percent, ".xlsx, row 3: the cell B3 is shown as 0%; format it as text, and write what"),
        (a_date, ".xlsx, row 3: the cell B3 holds a date or time; format it as text, and write"),
        (an_error, ".xlsx, row 3: the cell B3 holds the error #N/A; correct it"),
        (twice, ".xlsx: the column completion stands there 2 times; remove or rename one"),
    ],
)
def test_what_a_sheet_has_and_a_table_can_not_have_is_told(
    folder: Path, spoil: Callable[[Workbook], None], told: str
) -> None:
    book = sheet(folder, CELLS)
    spoil(book)
    book.save(folder / f"{ACTOR}.xlsx")
    assert told in errors_of(folder)


def test_the_saved_value_of_a_formula_counts(folder: Path) -> None:
    import zipfile

    book = sheet(folder, CELLS)
    book.active["B2"] = '=CONCATENATE("L","a")'
    book.save(folder / "formula.xlsx")
    inside = "xl/worksheets/sheet1.xml"
    with (
        zipfile.ZipFile(folder / "formula.xlsx") as old,
        zipfile.ZipFile(folder / f"{ACTOR}.xlsx", "w") as new,
    ):
        for name in old.namelist():
            raw = old.read(name)
            if name == inside:
                cell = raw[raw.index(b'<c r="B2"') :].split(b"</c>")[0]
                assert b"<f>" in cell
                saved = b'<c r="B2" t="str"><f>CONCATENATE("L","a")</f><v>La</v>'
                raw = raw.replace(cell, saved)
            new.writestr(name, raw)
    (folder / "formula.xlsx").unlink()
    assert replies(folder) == WANTED


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (".csv", b"user_input,completion,completion\nHi,a,b\n", "column completion stands there 2"),
        (".tsv", b"user_input\tuser_input\nHi\ta\n", "column user_input stands there 2 times"),
        (".jsonl", b'{"user_input": "Hi", "completion": "a", "completion": "b"}\n', "row 1: the "),
        (".json", b'[{"user_input": "Hi", "completion": "a", "completion": "b"}]', "the key compl"),
        (
            ".csv",
            b"user_input,completion\nHi,La\nHum!;La\n",
            "row 2: has 1 values, and the header names 2 columns; the row is separated by "
            "semicolons, the header by commas: use one of them in the whole file",
        ),
        (".csv", b"PK\x03\x04 and more", ".csv: is an Excel workbook or a zip; name it .xlsx"),
        (".jsonl", b"PAR1 and more", ".jsonl: is a Parquet file; name it .parquet"),
        (".xlsx", b"\xd0\xcf\x11\xe0 and more", ".xlsx: is an old .xls file, or one with a pass"),
        (".xlsx", b"no workbook", ".xlsx: is no Excel workbook, or a damaged one"),
        (".jsonl.zst", zstd(jsonl(ROWS * 5000))[:-9], "is no zstd file, or one that was cut sho"),
        (".jsonl.zst", b"no zstd at all", ".jsonl.zst: is no zstd file, or one that was cut shor"),
        (".csv", csv_text().encode("utf-16-le"), "begins with a NUL byte, as UTF-16 without its"),
        (".csv", csv_text().encode("utf-16")[:-1], ".csv: is no whole text in UTF-16"),
        (".json", b'[{"user_input": "Two\nlines"}]', "column 21; a line break or a tab stands wi"),
        (".jsonl", b'{"user_input": "Two\nlines"}\n', "row 1: no JSON at column 16; a text has no"),
        (".jsonl", b'{\n  "user_input": "Hi"\n}\n', "its first row is spread over several lines"),
        (".json", b'{"user_input": {"0": "Hi"}}', 'writes one by to_json(..., orient="records")'),
        (".json", b'[{"user_input": "Hi"}, {"a": ' + b"[" * 100_000, "row 2: is nested too deepl"),
        (".json", b"[" * 100_000, ".json: is nested too deeply; write plain values"),
        (".jsonl", b'{"user_input": "Hi"}\n{"a":' + b"[" * 100_000 + b"\n", "row 2: is nested to"),
        (
            ".jsonl",
            b'{"user_input": "Hi", "completion": ' + b"9" * 5000 + b"}\n",
            "row 1, field completion: a number of 5,000 digits is a HugeNumber and no text",
        ),
        (".json", b'[{"user_input": null, "completion": "a"}]', "user_input: is null; write a te"),
        (".json", b'[{"user_input": ["a"], "completion": "a"}]', "has not both role and content"),
        (".json", b'[{"user_input": {"a": 1}, "completion": "a"}]', "is an object and no text; w"),
        (".json", b'[{"user_input": true, "completion": "a"}]', "True is no text; write the word"),
    ],
)
def test_a_damaged_file_is_told_with_its_cure(
    folder: Path, name: str, content: bytes, told: str
) -> None:
    (folder / f"{ACTOR}{name}").write_bytes(content)
    assert told in errors_of(folder)


def test_duplicate_columns_of_parquet_are_told(folder: Path) -> None:
    columns = [pa.array(["Hi"])] * 3
    table = pa.Table.from_arrays(columns, names=["user_input", "completion", "completion"])
    pq.write_table(table, folder / f"{ACTOR}.parquet")
    assert f"{ACTOR}.parquet: the column completion stands there 2 times" in errors_of(folder)


@pytest.mark.parametrize("name", [".json", ".jsonl"])
def test_a_huge_number_in_a_field_that_nobody_reads_does_no_harm(folder: Path, name: str) -> None:
    row = b'{"user_input": "Sing!", "completion": "La", "id": ' + b"9" * 5000 + b"}"
    put(folder, f"{ACTOR}{name}", b"[%s]" % row if name == ".json" else row)
    assert replies(folder) == WANTED[:1]


def test_scores_of_parquet_may_be_decimals(folder: Path) -> None:
    scores = pa.array([decimal.Decimal("4.5"), None], pa.decimal128(3, 1))
    texts = pa.array(["a", "b"])
    table = pa.table({"user_input": texts, "completion": texts, "score": scores})
    pq.write_table(table, folder / f"{REWARD}.parquet")
    tables, _ = build(folder)
    assert [row["score"] for row in tables["reward"]] == [4.5, None]


@pytest.mark.parametrize(
    ("score", "separator", "found"),
    [("4.5", ",", 4.5), ("4,5", ";", 4.5), (" 4 ", ",", 4.0), ("", ",", None), ("5e-1", ",", 0.5)],
)
def test_a_score_in_a_csv_is_a_number_in_plain_digits(
    folder: Path, score: str, separator: str, found: float | None
) -> None:
    text = f"user_input,completion,score\nHi,La,{'{}'}\n".replace(",", separator)
    put(folder, f"{REWARD}.csv", text.replace("{}", score).encode())
    tables, _ = build(folder)
    assert [row["score"] for row in tables["reward"]] == [found]


@pytest.mark.parametrize("score", ["0_4", "4_0", "nan", "inf", "٤", "4,5", "0x4", "null"])
def test_what_is_no_plain_number_is_no_score(folder: Path, score: str) -> None:
    put(folder, f"{REWARD}.csv", f'user_input,completion,score\nHi,La,"{score}"\n'.encode())
    assert f"{REWARD}.csv, row 1, field score: {score!r} is no score" in errors_of(folder)


def test_own_files_need_no_openpyxl_and_a_workbook_says_that_it_does(folder: Path) -> None:
    sheet(folder, CELLS)
    program = (
        "import sys; sys.modules['openpyxl'] = None\n"
        "from pathlib import Path\n"
        "from chatllama_pipeline.data.own.personal import build_personal_data as build\n"
        "from chatllama_pipeline.settings import AssistantSettings\n"
        "build(Path(sys.argv[1]), AssistantSettings(), Path(sys.argv[1]).parent)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False
    )
    assert f"{ACTOR}.xlsx: needs the package openpyxl: install the extra `excel`" in run.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".json", b"[]"),
        (".json", b""),
        (".jsonl", b"\n\n"),
        (".jsonl.gz", b""),
        (".csv", b""),
        (".csv", b"user_input,completion\n"),
        (".tsv", b"user_input\tcompletion"),
    ],
)
def test_a_table_without_a_row_is_told(folder: Path, name: str, content: bytes) -> None:
    put(folder, f"{RLHF}{name}", content)
    tables, outcome = build(folder)
    assert outcome.warnings == [f"{RLHF}{name}: holds no row; nothing is learned from it"]
    assert tables["rlhf"] == []


def test_parquet_and_workbooks_without_a_row_are_told(folder: Path) -> None:
    pq.write_table(pa.table({"user_input": pa.array([], pa.string())}), folder / f"{RLHF}.parquet")
    sheet(folder, CELLS[:1])
    _, outcome = build(folder)
    assert outcome.warnings == [
        f"{ACTOR}.xlsx: holds no row; nothing is learned from it",
        f"{RLHF}.parquet: holds no row; nothing is learned from it",
    ]
