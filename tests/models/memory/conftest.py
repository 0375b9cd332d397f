"""A model of 1,000 weights, and an allocator that leaves no holes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline import machine
from tests.models.memory.plans import make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 1,000 weights."""
    return make_folder(tmp_path, {"a": [50, 10], "b": [500]})


@pytest.fixture
def allocator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the process is said to have loaded: an allocator that leaves no holes."""
    loaded = tmp_path / "maps"
    loaded.write_text("7f00-7f01 r-xp 0 00:00 0 /usr/lib/libmimalloc.so\n")
    monkeypatch.setattr(machine, "OWN_LIBRARIES", loaded)
    return loaded
