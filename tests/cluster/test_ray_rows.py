"""Rows of data worked on by the nodes of a real Ray cluster: the bytes of one process, whatever
becomes of a node."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.sources import catalog, raw
from chatllama_pipeline.data.sources.catalog import build_source
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.data.workers import batches, processes
from chatllama_pipeline.data.workers.cluster import RayWorkers
from chatllama_pipeline.errors import ChildError, DataError, SettingsError
from tests.cluster.machines.ray_nodes import Nodes
from tests.data.many_rows.test_workers import write_public
from tests.data.small_tables import pair, prefer, settings, table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
REPOSITORY = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the tests' trades; few rows count as many."""
    monkeypatch.setenv("PYTHONPATH", REPOSITORY)
    monkeypatch.setattr(batches, "LEAST_ROWS", 10)
    monkeypatch.setattr(catalog, "LEAST_ROWS", 10)
    monkeypatch.setattr(raw, "_USUAL_BYTES", 100)
    monkeypatch.setattr("chatllama_pipeline.table_files._ROWS_PER_BATCH", 30)


@dataclass(frozen=True)
class Waiting:
    """A trade that says in `folder` which batches it has begun, and ends none before it may."""

    folder: Path

    def opened(self, files: Sequence[int]) -> Waiting:
        return self

    def double(self, batch: int) -> int:
        if batch < 0:
            raise DataError(f"row {batch} is below 0")
        if batch == 13:
            os._exit(3)
        (self.folder / f"{batch}.{os.getpid()}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.05)
        return 2 * batch


def begun(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.*")]


def test_a_lost_node_s_batches_are_worked_on_again(nodes: Nodes, tmp_path: Path) -> None:
    waiting = tmp_path / "begun"
    waiting.mkdir()
    with RayWorkers(nodes.address, tmp_path / "rows.log", Waiting(waiting)) as workers:
        assert workers.count == 4
        asked = [workers.ask("double", number) for number in range(8)]
        nodes.wait(lambda: len(begun(waiting)) == 4)
        at_work = [psutil.Process(int(name.split(".")[1])) for name in begun(waiting)]
        parents = {process: process.ppid() for process in at_work}
        nodes.lose("n2")
        # What worked for the node's actors is nobody's.
        nodes.wait(lambda: sum(one.ppid() != parents[one] for one in at_work) == 2)
        (waiting / "go").touch()
        assert [one.result(300) for one in asked] == [2 * number for number in range(8)]
    batches_begun = [name.split(".")[0] for name in begun(waiting)]
    assert (len(set(batches_begun)), len(batches_begun)) == (8, 10)


def test_tables_are_those_of_one_process(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        pair(f"question {n % 50}", " ".join(f"w{(n * k) % 97}" for k in range(45)), f"no {n % 9}")
        for n in range(120)
    ]
    for name, schema in TABLES.items():
        table(tmp_path / "personal", [], schema, name)
    write_public(tmp_path / "shp", "gzip")
    chosen = settings(data={"max_length": 400}, actor_config={"model": "scratch"})
    monkeypatch.setenv(processes.VARIABLE, "1")
    start = partial(RayWorkers, nodes.address, tmp_path / "rows.log")

    def made(take: str) -> object:
        _, outcome, output = prefer(tmp_path, tmp_path / "personal", rows, chosen, take)
        (tmp_path / take).mkdir()
        source = build_source("shp", tmp_path / take, Asked(str(tmp_path / "shp")))
        folders = [output, tmp_path / take]
        files = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
        return outcome, source, files

    here = made("here")
    monkeypatch.delenv(processes.VARIABLE)
    monkeypatch.delattr(batches, "Workers")
    with batches.working_elsewhere(start):
        assert made("there") == here


def test_what_a_node_cannot_do_is_raised_here(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    log = tmp_path / "rows.log"
    with RayWorkers(nodes.address, log, Waiting(tmp_path)) as workers:
        with pytest.raises(DataError, match="row -1 is below 0"):
            workers.ask("double", -1).result(300)
        with pytest.raises(ChildError, match=r"ended with exit code 3\), and nothing was written"):
            workers.ask("double", 13).result(300)
        with pytest.raises(ChildError, match="exit code 3"):
            workers.ask("double", 1).result(300)
    with pytest.raises(SettingsError, match=r"(?s)no Ray cluster .*address '127.0.0.1:1'.*refused"):
        RayWorkers("127.0.0.1:1", log, Waiting(tmp_path))
