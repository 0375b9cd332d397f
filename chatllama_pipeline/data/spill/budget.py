"""How much memory the preparation of rows may take.

Everything that a bound of this folder holds down is a part of it; whatever the parts, the same rows
become the same bytes.
"""

from __future__ import annotations

import os

from chatllama_pipeline.errors import SettingsError

VARIABLE = "CHATLLAMA_DATA_MEMORY_MB"
# What all parts come to, about, where each is full; with less than the least, files become many and
# small, and every look at them long.
USUAL_MEGABYTES, LEAST_MEGABYTES = 2_000, 100


def megabytes() -> int:
    """What `VARIABLE` says; raises SettingsError where that is no number, or too small."""
    named = os.environ.get(VARIABLE, "").strip() or str(USUAL_MEGABYTES)
    if not named.isdecimal() or int(named) < LEAST_MEGABYTES:
        raise SettingsError(
            f"{VARIABLE} is {named!r}; set it to megabytes, {LEAST_MEGABYTES} or more"
        )
    return int(named)


def part(usual: int) -> int:
    """How much that may be which is `usual` where nothing is set: bytes, values, or whatever."""
    return max(1, usual * megabytes() // USUAL_MEGABYTES)
