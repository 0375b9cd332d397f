"""A data file that changes while it is read is refused, by name, and nothing is made of it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.feedback.importing import read_feedback
from chatllama_pipeline.data.own.files import reading
from chatllama_pipeline.data.own.personal import build_personal_data, personal_fingerprint
from chatllama_pipeline.data.sources import raw
from chatllama_pipeline.data.sources.catalog import build_source, source_inputs
from chatllama_pipeline.data.sources.pairs import Converting
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.data.unchanged import ChangedFileError
from chatllama_pipeline.data.workers import processes
from chatllama_pipeline.settings import AssistantSettings
from tests.data.own_files import RLHF

ROW = {"history": "Why flat?", "human_ref_A": "Yeast.", "human_ref_B": "Dunno.", "labels": 1}
ROWS = [{**ROW, "history": f"Why {n}?"} for n in range(60)]
ASKED = [{"user_input": f"Sing number {n}!"} for n in range(60)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as the file's name says, of long ago: two changes within a tick look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        header = ",".join(rows[0])
        path.write_text("\n".join([header, *(",".join(row.values()) for row in rows)]) + "\n")
    else:
        packed = gzip.compress if path.suffix == ".gz" else bytes
        path.write_bytes(packed(lines(rows)))
    os.utime(path, (1e9, 1e9))
    return path


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"half of a ro")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path: Path) -> None:
    """In place, as many bytes."""
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(content.replace(b"Why", b"How"))


def replace(path: Path) -> None:
    """By another file of the same size and time."""
    other = path.with_name("other.tmp")
    other.write_bytes(path.read_bytes())
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


CHANGES: dict[Callable[[Path], None], str] = {
    grow: r"it grew from [\d,]+ to [\d,]+ bytes",
    shrink: r"it shrank from [\d,]+ to [\d,]+ bytes",
    rewrite: "it was written to",
    replace: "another file stands in its place",
    Path.unlink: "it is gone",
}


@pytest.fixture
def amid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something happen once the first rows of a file were read."""
    monkeypatch.setattr(raw, "ROWS_PER_BATCH", 5)

    def set_up(happens: Callable[[], None]) -> None:
        for module, name in ((raw, "_read"), (reading, "_read")):
            original = getattr(module, name)

            def read(*given: Any, original: Any = original) -> Iterator[Any]:
                rows = original(*given)
                first = next(rows)
                happens()
                yield first
                yield from rows

            monkeypatch.setattr(module, name, read)

    return set_up


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet"])
def test_a_public_file_that_changes_while_it_is_read_is_named_and_nothing_is_written(
    tmp_path: Path, amid: Any, ending: str, change: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "in" / f"rows.{ending}", ROWS)
    amid(lambda: change(path))
    output = tmp_path / "out"
    output.mkdir()
    told = rf"rows\.{ending} changed while it was read \({CHANGES[change]}\).*name a copy"
    with pytest.raises(ChangedFileError, match=told):
        build_source("shp", output, Asked(str(path)))
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_an_own_file_that_changes_while_it_is_read_is_named_and_nothing_is_written(
    folder: Path, tmp_path: Path, amid: Any, ending: str, change: Callable[[Path], None]
) -> None:
    path = write(folder / f"{RLHF}.{ending}", ASKED)
    amid(lambda: change(path))
    output = tmp_path / "out"
    output.mkdir()
    told = rf"{RLHF}\.{ending} changed while it was read \({CHANGES[change]}\).*run again"
    with pytest.raises(ChangedFileError, match=told):
        build_personal_data(folder, AssistantSettings(), output)
    assert list(output.iterdir()) == []


def test_a_file_that_grows_as_fast_as_it_is_read_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is read becomes pairs before more is read, five rows at a time.
    monkeypatch.setenv(processes.VARIABLE, "1")
    monkeypatch.setattr(raw, "_BYTES_PER_BATCH", len(lines(ROWS[:5])) - 1)
    path = write(tmp_path / "rows.jsonl", ROWS)
    convert, converted = Converting._converted, 0

    def grown(*given: Any) -> Any:
        nonlocal converted
        converted += 1
        assert converted < 1000
        with path.open("ab") as file:
            file.write(lines(ROWS))
        return convert(*given)

    monkeypatch.setattr(Converting, "_converted", grown)
    with pytest.raises(ChangedFileError, match=r"rows\.jsonl changed .* \(it grew"):
        build_source("shp", tmp_path, Asked(str(path)))
    assert converted == 5


def test_public_files_that_changed_since_a_run_looked_at_them_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "in" / "a.jsonl", ROWS[:30])
    last = write(tmp_path / "in" / "b.jsonl", ROWS[30:])
    os.utime(first, (1, 1))
    asked, output = Asked(str(tmp_path / "in")), tmp_path / "out"
    output.mkdir()
    inputs = source_inputs("shp", asked, None)
    assert build_source("shp", output, asked, inputs).rows == 60
    times = last.stat()
    rewrite(last)
    # Within a tick of the clock, or put back: only the hash tells.
    os.utime(last, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ChangedFileError, match=r"in changed .* at its start; last written is .*b"):
        build_source("shp", output, asked, inputs)


@pytest.mark.parametrize("happens", ["rewritten", "gone", "come", "template"])
def test_own_files_that_changed_since_a_run_looked_at_them_are_refused(
    folder: Path, tmp_path: Path, happens: str
) -> None:
    path = write(folder / f"{RLHF}.jsonl", ASKED)
    (folder / "templates.json").write_text("{}")
    settings = AssistantSettings()
    found = personal_fingerprint(folder, settings)
    build_personal_data(folder, settings, tmp_path, found)
    if happens == "rewritten":
        path.write_bytes(path.read_bytes().replace(b"Sing", b"Hum!"))
    elif happens == "gone":
        path.unlink()
    elif happens == "come":
        path = write(folder / RLHF / "more.jsonl", ASKED)
    else:
        path = folder / "templates.json"
        path.write_text("{ }")
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(ChangedFileError, match=rf"{path.name} changed .* at its start"):
        build_personal_data(folder, settings, output, found)
    assert list(output.iterdir()) == []


def test_a_file_of_feedback_that_is_written_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "words.jsonl", [{}])
    read = Path.read_bytes

    def grown(self: Path) -> bytes:
        raw = read(self)
        grow(self)
        return raw

    monkeypatch.setattr(Path, "read_bytes", grown)
    with pytest.raises(ChangedFileError, match=r"words\.jsonl changed .* \(it grew"):
        read_feedback(path, "poet")
