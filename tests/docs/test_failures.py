"""docs/failures.md tells of errors in the words in which they are raised."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import PAGES, REPOSITORY

ROWS = re.findall(r"^\| (.+?) \| (.+) \|$", PAGES["docs/failures.md"], re.MULTILINE)
TOLD = sorted({words for what, _ in ROWS for words in re.findall(r"`([^`]+)`", what)})
FOLDERS = ("chatllama_pipeline", "assets", "resources")


def said() -> list[str]:
    """Every text in the code, with ... where something is filled in."""
    texts = []
    for folder in FOLDERS:
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", None) for part in node.values]
                    texts.append("".join(x if isinstance(x, str) else "..." for x in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return texts


SAID = said()


def is_said(words: str) -> bool:
    """Whether each piece of a message, between its dots, stands in a text of the code."""
    pieces = [piece.strip(" ;:") for piece in words.split("...")]
    return all(any(piece in text for text in SAID) for piece in pieces if piece)


@pytest.mark.parametrize("words", TOLD)
def test_an_error_is_told_in_the_words_in_which_it_is_raised(words: str) -> None:
    assert is_said(words), words


def test_words_that_nobody_says_are_noticed() -> None:
    assert len(TOLD) > 20
    assert not is_said("the moon is made of ... cheese")
