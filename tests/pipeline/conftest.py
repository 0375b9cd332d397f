"""Fixtures of the whole chain: an empty place, and one where the tiny assistant is made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from filelock import FileLock

from chatllama_pipeline.store.versions import Store
from tests.pipeline.place import TINY_CONFIG, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Place:
    """The whole chain, made once for the tiny assistant; tests copy it before they change it.

    Workers of one test run share it: the first to ask makes it, the others wait.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    place, made = Place(shared / "tiny_run"), shared / "tiny_run.made"
    with FileLock(shared / "tiny_run.lock"):
        if not made.is_file():
            place.add_assistant("tiny", TINY_CONFIG)
            run = place.by_command("tiny")
            assert run.returncode == 0, run.stderr
            made.touch()
    return place


@pytest.fixture
def copied(tiny_run: Place, tmp_path: Path) -> Place:
    """A copy of the made chain that a test may change."""
    shutil.copytree(tiny_run.root, tmp_path / "copy")
    return Place(tmp_path / "copy")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store and a folder of assistants of the test's own, for runs in this process."""
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    return Store(tmp_path / "storage")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened
