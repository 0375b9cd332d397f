"""What is wrong with a user's files, and what is told of them besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ERRORS_TOLD = 20
_SHOWN_CHARACTERS = 60


@dataclass
class Errors:
    """The first twenty errors, and how many there are in all; and warnings, all of them."""

    told: list[str] = field(default_factory=list)
    count: int = 0
    warnings: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.told) < ERRORS_TOLD:
            self.told.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def lines(self) -> list[str]:
        more = self.count - len(self.told)
        return [*self.told, f"and {more} more"] if more else self.told


class UnfitError(Exception):
    """Why a row of a known format can't be read: `field` is the file's own name of it, "" for the
    row as a whole."""

    def __init__(self, field: str, told: str) -> None:
        super().__init__(told)
        self.field = field
        self.told = told


def told_value(value: Any) -> str:
    """A value as an error shows it: its repr, cut."""
    text = repr(value[:_SHOWN_CHARACTERS]) if isinstance(value, str) else repr(value)
    cut = len(text) > _SHOWN_CHARACTERS + 2 or (isinstance(value, str) and len(value) > 60)
    return f"{text[:_SHOWN_CHARACTERS]} ..." if cut else text
