"""Which files this process opens."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_watching: list[list[Path]] = []


@cache
def _listen() -> None:
    # A hook stays for the life of its process: one for all blocks.
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watching and isinstance(arguments[0], str | os.PathLike):
        for opened in _watching:
            opened.append(Path(arguments[0]))


@contextlib.contextmanager
def opened_files() -> Iterator[list[Path]]:
    """The files opened while the block runs, in order; one that is opened twice stands twice."""
    _listen()
    opened: list[Path] = []
    _watching.append(opened)
    try:
        yield opened
    finally:
        _watching.remove(opened)
