"""The pages that tell what is, and the blocks that stand in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
FILES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("**/*.md")),
    *sorted((REPOSITORY / "examples").glob("**/README.md")),
]
# Path from the repository's root -> text.
PAGES = {str(file.relative_to(REPOSITORY)): file.read_text("utf-8") for file in FILES}
ALL = "\n".join(PAGES.values())


class Block(NamedTuple):
    """A fenced block: the page, the line that opens it, the language it says, its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE):
        line = PAGES[page].count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[1], match[2]))
    return found


def section(page: str, heading: str) -> str:
    """What stands under a heading of a page, up to the next of its level or above."""
    marks = heading.split()[0]
    below = PAGES[page].split(f"\n{heading}\n")[1]
    return re.split(rf"^#{{1,{len(marks)}}} ", below, flags=re.MULTILINE)[0]
