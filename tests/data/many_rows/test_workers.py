"""Several processes make what one makes; none outlives its run; one that is killed is told of."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.prepare.desk import Desk
from chatllama_pipeline.data.prepare.notes import Reading
from chatllama_pipeline.data.prepare.tokens import Limits
from chatllama_pipeline.data.sources import catalog, raw
from chatllama_pipeline.data.sources.catalog import build_source
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.data.workers import batches, processes
from chatllama_pipeline.errors import ChildError, DataError, SettingsError
from chatllama_pipeline.schemas import PAIR_SCHEMA
from tests.data.small_tables import pair, prefer, settings

REPOSITORY = Path(__file__).parents[3]
ROWS = [
    pair(f"question {n % 50}", " ".join(f"word{(n * k) % 97}" for k in range(45)), f"reply {n % 9}")
    for n in range(120)
]
TABLE = pa.Table.from_pylist(ROWS, schema=PAIR_SCHEMA)
READING = Reading(("chosen", "rejected"), Limits(None, None), None, 120)


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, however few the rows and cores."""
    monkeypatch.setattr(batches, "LEAST_ROWS", 10)
    monkeypatch.setenv(processes.VARIABLE, "2")


def test_several_processes_write_the_bytes_that_one_writes(
    tmp_path: Path, personal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(data={"max_length": 400}, actor_config={"model": "scratch"})
    started: list[int] = []
    monkeypatch.setattr("chatllama_pipeline.table_files._ROWS_PER_BATCH", 30)
    monkeypatch.setattr(batches, "LEAST_ROWS", 10)
    begin = processes.Workers.__init__

    def counted(self: processes.Workers, count: int, *given: Any) -> None:
        started.append(count)
        begin(self, count, *given)

    monkeypatch.setattr(processes.Workers, "__init__", counted)
    made = []
    for count in ("1", "2"):
        monkeypatch.setenv(processes.VARIABLE, count)
        _, outcome, output = prefer(tmp_path, personal, [*ROWS, *ROWS[:20]], chosen, count)
        files = {path.name: path.read_bytes() for path in output.iterdir()}
        made.append((files, outcome))
    assert made[0] == made[1]
    assert started == [2]
    assert made[0][1].metrics["dropped"]["duplicate"] > 0


PUBLIC = [
    {"history": f"post {n % 40}", "human_ref_A": f"a {n}", "human_ref_B": "b", "labels": n % 3}
    for n in range(120)
]


def write_public(folder: Path, kind: str) -> None:
    folder.mkdir()
    text = "\n".join(["no json", "", *map(json.dumps, PUBLIC)])
    if kind == "lines":
        (folder / "train.jsonl").write_text(text)
    elif kind == "gzip":
        (folder / "train.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    elif kind == "list":
        (folder / "train.json").write_text(json.dumps([*PUBLIC, 3]))
    else:
        pq.write_table(pa.Table.from_pylist(PUBLIC), folder / "train.parquet")


@pytest.mark.parametrize("kind", ["lines", "gzip", "list", "parquet"])
def test_several_processes_make_the_source_that_one_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write_public(tmp_path / "shp", kind)
    monkeypatch.setattr(raw, "ROWS_PER_BATCH", 30)
    monkeypatch.setattr(raw, "_BYTES_PER_BATCH", 3_000)
    monkeypatch.setattr(raw, "_USUAL_BYTES", 100)
    monkeypatch.setattr(catalog, "LEAST_ROWS", 20)
    started: list[int] = []
    begin = processes.Workers.__init__

    def counted(self: processes.Workers, *given: Any) -> None:
        started.append(given[0])
        begin(self, *given)

    monkeypatch.setattr(processes.Workers, "__init__", counted)
    made = []
    for count in ("1", "2"):
        monkeypatch.setenv(processes.VARIABLE, count)
        (tmp_path / count).mkdir()
        outcome = build_source("shp", tmp_path / count, Asked(str(tmp_path / "shp")))
        made.append((outcome, (tmp_path / count / "data.parquet").read_bytes()))
    assert made[0] == made[1]
    # Of three labels one is none.
    assert made[0][0].rows == 80
    assert started == [2]
    unread = {"lines": {"no_json": 1}, "gzip": {"no_json": 1}, "list": {"no_object": 1}}
    assert made[0][0].metrics["dropped"] == {"no_label": 40, **unread.get(kind, {})}


def test_few_rows_start_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(processes.VARIABLE, "2")
    monkeypatch.delattr(batches, "Workers")
    [(table, notes)] = Desk(READING, tmp_path).read("rows", [TABLE])
    assert table is TABLE
    assert len(notes.columns["exact"]) == 120


def test_a_process_that_is_killed_is_told_of_and_the_others_end(
    several: None, tmp_path: Path
) -> None:
    read = Desk(READING, tmp_path).read("rows", [TABLE] * 200)
    next(read)
    family = psutil.Process().children()
    own = [process for process in family if processes.__name__ in process.cmdline()]
    assert len(own) == 2
    own[0].send_signal(signal.SIGKILL)
    with pytest.raises(
        ChildError, match=rf"pid {own[0].pid}\) was ended by signal 9 .*=1 if memory"
    ):
        list(read)
    assert not any(process.is_running() for process in own)


def test_what_a_process_cannot_do_is_raised_here(several: None, tmp_path: Path) -> None:
    reading = Reading(("chosen",), Limits(4, None), (str(tmp_path), ""))
    with pytest.raises(DataError, match=r"gives no tokenizer\.json to count them by"):
        list(Desk(reading, tmp_path).read("rows", [TABLE]))


def test_no_process_outlives_one_that_is_killed() -> None:
    program = """
import time
from chatllama_pipeline.data.sources import shp
from chatllama_pipeline.data.sources.pairs import Converting
from chatllama_pipeline.data.workers.processes import Workers
started = Workers(2, Converting(shp.convert, ()))
# Both have begun to work.
[each.result() for each in [started.ask("pairs", ([], "")) for _ in range(8)]]
print(*(process.pid for process in started._processes), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    own = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(own) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 60
    while any(process.is_running() for process in own) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(process.is_running() for process in own)


def test_a_process_waits_for_no_settings_when_it_starts() -> None:
    program = (
        "import sys, chatllama_pipeline.data.workers.processes\n"
        "import chatllama_pipeline.data.prepare.notes, chatllama_pipeline.data.sources.hh_rlhf\n"
        "print({'chatllama_pipeline.settings', 'pydantic', 'tokenizers'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("named", ["0", "-1", "two"])
def test_another_number_of_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv(processes.VARIABLE, named)
    with pytest.raises(SettingsError, match=r"CHATLLAMA_DATA_WORKERS is .* set it to a number"):
        processes.workers_asked()
