"""Which versions of an asset were current, and since when: one line a change, oldest first.

    <store>/<asset>/<assistant or _shared>/history.jsonl

Whoever writes holds the asset's lock. A line that a kill cut off is no line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FILE = "history.jsonl"
How = Literal["made", "reused", "rolled back"]


@dataclass(frozen=True)
class Use:
    """A version that became current at `at` (UTC, ISO), and how."""

    version: str
    at: str
    how: How


def note_use(folder: Path, use: Use) -> None:
    """Add a line and have the disk hold it."""
    line = json.dumps(dataclasses.asdict(use)).encode() + b"\n"
    with (folder / FILE).open("ab+") as handle:
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                line = b"\n" + line
        handle.write(line)
        handle.flush()
        os.fsync(handle.fileno())


def merged(uses: Iterable[Use], others: Iterable[Use]) -> list[Use]:
    """The lines of two histories, each once, oldest first."""
    return sorted({*uses, *others}, key=lambda use: (use.at, use.version))


def write_uses(folder: Path, uses: Iterable[Use]) -> None:
    """Put a whole history in the place of the one that stands."""
    beside = folder / f".{FILE}.new"
    with beside.open("w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(dataclasses.asdict(use)) + "\n" for use in uses)
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(folder / FILE)


def read_uses(folder: Path) -> list[Use]:
    """All lines of the history; none where there is none."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            found.append(Use(**json.loads(line)))
    return found
