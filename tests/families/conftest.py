"""Each family's folder, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families.kit import ACTORS, PRETRAINED_REWARDS, Family

FAMILIES = {family.name: family for family in (*ACTORS, *PRETRAINED_REWARDS)}


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The hub folder of a family, by its name."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            family: Family = FAMILIES[name]
            made[name] = family.make(tmp_path_factory.mktemp(name))
        return made[name]

    return make
