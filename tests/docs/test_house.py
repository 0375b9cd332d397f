"""docs/house.md leads a stranger to the file that answers."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES, REPOSITORY, section

TABLE = section("docs/house.md", "## What stands where")
ROWS = re.findall(r"^\| (.+?) \| (.+) \|$", TABLE, re.MULTILINE)[2:]


def files(cell: str) -> list[str]:
    """The texts of all files that a cell names, those of a folder included."""
    texts = []
    for path in re.findall(r"`([\w./]+/[\w.]*)`", cell):
        place = REPOSITORY / path
        texts += [file.read_text() for file in ([place] if place.is_file() else place.glob("*.py"))]
    return texts


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("KL penalty", "def shaped_rewards("),
        ("KL penalty", "kl_beta: NonNegative"),
        ("nearly the same", "class TextIndex"),
        ("pair a near duplicate", "def drop_near_duplicates("),
        ("rubric that an LLM judges by", "worthless"),
        ("rubric of `config.yaml`", "class Criterion("),
        ("gate and its rules", "(release.max_kl)"),
        ("gate and its rules", "max_kl: PositiveFloat"),
        ("killed training's state", "class States"),
        ("killed training's state", "<store>/_runs/<asset>/<assistant>/<fingerprint>"),
        ("Flan-T5", "ENCODER_DECODER_TEMPLATE"),
        ("out of memory", "def was_refused("),
        ("text that a judge is told", "Compare two replies by them."),
        ("text that a judge is told", "DEFAULTS"),
        ("text that a writer is told", "def pairs_text("),
        ("cron", "cron: str"),
        ("manifest's fields", "class Manifest"),
    ],
)
def test_what_a_stranger_asks_for_is_in_the_file_that_its_row_names(
    asked: str, answer: str
) -> None:
    named = [where for what, where in ROWS if asked in what]
    assert len(named) == 1, asked
    assert any(answer in text for text in files(named[0])), f"{asked}: {named[0]}"


def test_every_row_names_a_place() -> None:
    assert len(ROWS) > 15
    assert [what for what, where in ROWS if "`" not in where] == []


def test_the_floors_are_those_that_the_importer_is_held_to() -> None:
    assert "| `chatllama_pipeline/errors.py` |" in section("docs/house.md", "## The floors")
    assert PAGES["docs/house.md"].count("| 1 | `") == 1
