"""The floors of the house: what may import what."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("chatllama_pipeline", "assets", "resources")


def broken(house: Path) -> str:
    """What the contracts in pyproject.toml find in `house`; empty if nothing."""
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run(
        [linter, "--no-cache"],
        cwd=house,
        env={"PYTHONPATH": str(house), "PATH": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if found.returncode == 0 else found.stdout + found.stderr


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    for package in PACKAGES:
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=without)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_nothing_imports_from_a_floor_above_or_in_a_circle() -> None:
    assert broken(REPOSITORY) == ""


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        (
            "chatllama_pipeline/store/pool.py",
            "from chatllama_pipeline.lineage import recipes",
            "chatllama_pipeline.store is not allowed to import chatllama_pipeline.lineage",
        ),
        (
            "chatllama_pipeline/data/splits.py",
            "from chatllama_pipeline.data.prepare import rows",
            "No cycles are allowed in chatllama_pipeline.data",
        ),
    ],
)
def test_an_import_against_the_floors_is_named(
    house: Path, file: str, line: str, told: str
) -> None:
    with (house / file).open("a") as module:
        module.write(f"\n{line}\n")
    assert told in broken(house)
