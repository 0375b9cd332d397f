"""The house as a stranger walks it: rooms of a dozen, telling names, nothing too long."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("chatllama_pipeline", "assets", "resources")
HOUSE = (*PACKAGES, "benchmarks", "deploy", "docs", "examples", "tests")
MOST_FILES = 12
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
FILES = [
    path
    for folder in HOUSE
    for path in (REPOSITORY / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
]
PYTHON = [path for path in FILES if path.suffix == ".py"]
ROOMS = sorted(path.parent for path in PYTHON if path.name == "__init__.py")


def crowded(files: list[Path]) -> dict[Path, int]:
    """The folders with more than a dozen files, `__init__.py` not counted."""
    counts = Counter(path.parent for path in files if path.name != "__init__.py")
    return {folder: count for folder, count in counts.items() if count > MOST_FILES}


def repeating(files: list[Path]) -> list[Path]:
    """The files whose name has a word of their folder's, be it in the plural or not."""
    return [path for path in files if words(path.parent.name) & words(path.stem)]


def words(name: str) -> set[str]:
    return {word.removesuffix("s") for word in name.split("_")}


def long_parts(text: str) -> list[str]:
    """What a module has too many lines of: itself, and functions, from `def` to the last line."""
    lines = len(text.splitlines())
    found = [f"{lines} lines"] if lines > MOST_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                found.append(f"{node.name}: {lines} lines")
    return found


def test_no_folder_has_more_than_a_dozen_files() -> None:
    assert crowded(FILES) == {}


def test_no_module_repeats_the_name_of_its_folder() -> None:
    assert repeating(PYTHON) == []


def test_no_module_and_no_function_is_too_long() -> None:
    found = {path: long_parts(path.read_text("utf-8")) for path in PYTHON}
    assert {path: parts for path, parts in found.items() if parts} == {}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(REPOSITORY)))
def test_a_room_says_who_lives_there(room: Path) -> None:
    assert (room / "__init__.py").read_text().startswith('"""')


def test_what_is_against_the_rules_is_found() -> None:
    room = [Path("judges", f"part_{number}.py") for number in range(13)]
    assert crowded([*room, Path("judges/__init__.py"), Path("llm/calls.py")]) == {
        Path("judges"): 13
    }
    assert repeating([*room, Path("judges/test_judge.py")]) == [Path("judges/test_judge.py")]
    assert long_parts("def talk():\n" + "    pass\n" * 59) == []
    assert long_parts("def talk():\n" + "    pass\n" * 60) == ["talk: 61 lines"]
    assert long_parts("import os\n" * 401) == ["401 lines"]
