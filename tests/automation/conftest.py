"""A folder with one assistant, and an instance of Dagster that knows of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.automation.ticks import write


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "assistants"
    folder.mkdir()
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(folder))
    write(folder, "quickstart", "seed: 0")
    return folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made
