"""The columns of a file that names them once: CSV, spreadsheets, Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def columns_error(names: Sequence[str]) -> str | None:
    """Why a file with these columns can't be read, with the cure: of two columns of one name either
    could be meant. Columns without a name don't count."""
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if not twice:
        return None
    return f"the column {twice[0]} stands there {names.count(twice[0])} times; remove or rename one"


def without_nameless(names: Sequence[str]) -> dict[str, int]:
    """The columns that have a name, with their places."""
    return {name: place for place, name in enumerate(names) if name}
