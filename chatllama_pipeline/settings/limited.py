"""Settings that show what was declared and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from chatllama_pipeline.settings.section import Section

_Section = TypeVar("_Section", bound=Section)


def limited_to(settings: _Section, readable: Collection[str]) -> _Section:
    """A copy of `settings` with the dotted keys `readable` alone.

    Any other is missing there, and to read it raises UndeclaredSettingError.
    """
    whole = {key for key in readable if "." not in key}
    below: dict[str, set[str]] = {}
    for key in readable:
        section, dot, rest = key.partition(".")
        if dot:
            below.setdefault(section, set()).add(rest)
    values: Mapping[str, object] = vars(settings)
    kept: dict[str, object] = {}
    for name, value in values.items():
        if name in whole:
            kept[name] = value
        elif isinstance(value, Section):
            kept[name] = limited_to(value, below.get(name, ()))
    limited = settings.model_copy()
    # Frozen against writing by name: there is no other way to leave a field out.
    limited.__dict__.clear()
    limited.__dict__.update(kept)
    return limited
