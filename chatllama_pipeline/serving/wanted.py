"""The versions of a release that are to be served, and how the requests are shared among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store


class Wanted(NamedTuple):
    """A version that should speak, and its weight among all."""

    version: Version
    weight: float


def named_versions(texts: Sequence[str], name: str, store: Store) -> list[Wanted]:
    """The releases of assistant `name` that `ID=WEIGHT` and `ID` name, every file verified.

    Raises SettingsError for what is no weight, AbsentError, CorruptVersionError.
    """
    wanted: dict[str, Wanted] = {}
    for text in texts:
        number, _, weight = text.partition("=")
        if number in wanted:
            raise SettingsError(f"--version {text}: version {number} is named twice")
        if store.version("release", name, number) is None:
            have = ", ".join(one.id for one in store.versions("release", name)) or "none"
            raise AbsentError(
                f"--version {text}: release of assistant {name} has no version {number}; those "
                f"there are: {have}"
            )
        wanted[number] = Wanted(store.read("release", name, number), _weight(weight, text))
    return list(wanted.values())


def _weight(text: str, option: str) -> float:
    try:
        weight = float(text or 1)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise SettingsError(f"--version {option}: {text!r} is no weight: give a number above 0")
    return weight
