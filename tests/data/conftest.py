"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.data.own.personal import TABLES
from tests.data.small_tables import table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "poet" / "datasets").mkdir(parents=True)
    return tmp_path / "poet"


@pytest.fixture
def personal(tmp_path: Path) -> Path:
    """A version of personal_data without rows; tests write rows into its tables."""
    for name, schema in TABLES.items():
        table(tmp_path / "personal", [], schema, name)
    return tmp_path / "personal"
