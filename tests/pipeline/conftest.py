"""Fixtures of the whole chain: an empty place, and one where the tiny assistant is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.place import TINY_CONFIG, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The whole chain, made once for the tiny assistant; tests copy it before they change it."""
    place = Place(tmp_path_factory.mktemp("tiny"))
    place.add_assistant("tiny", TINY_CONFIG)
    run = place.materialize("tiny")
    assert run.returncode == 0, run.stderr
    return place
