"""What differs between two versions of an asset: in what they are made from, and in what came out.

Pure: it reads two manifests and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chatllama_pipeline.store.manifests import Manifest, Recipe

Kind = Literal["code", "upstream", "settings", "inputs", "data", "figures", "checks"]
# The longest value that is told in full where space is scarce.
BRIEF = 24
# Of a figure: what is beyond them is rounding.
_DIGITS = 5
# What tells of the machine and of the run, and differs each time.
_OF_THE_RUN = ("seconds", "_per_second", "peak_", "planned_", "llm_")


@dataclass(frozen=True)
class Change:
    """One thing that differs; what only one side has is None on the other."""

    kind: Kind
    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} {brief(self.before)} -> {brief(self.after)}"


def recipe_changes(before: Manifest | Recipe, after: Manifest | Recipe) -> list[Change]:
    """What two versions are made from differs in: code, upstream versions, settings, inputs."""
    parts: list[tuple[Kind, Mapping[str, Any], Mapping[str, Any]]] = [
        ("code", {"code version": before.code_version}, {"code version": after.code_version}),
        ("upstream", before.upstream, after.upstream),
        ("settings", before.settings, after.settings),
        ("inputs", before.inputs, after.inputs),
    ]
    return [change for kind, was, now in parts for change in _differ(kind, was, now)]


def changes(before: Manifest, after: Manifest) -> list[Change]:
    """All that differs between two versions, but for times, machines and money."""
    return [
        *recipe_changes(before, after),
        *_differ("data", _counts(before), _counts(after)),
        *_differ("figures", _figures(before), _figures(after)),
        *_differ("checks", _checks(before), _checks(after)),
    ]


def brief(value: Any, most: int = BRIEF) -> str:
    """A value on one line as JSON has it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 4] + " ..."


def summary(found: list[Change], most: int = 6) -> str:
    """The first changes on one line, and how many more there are."""
    told = "; ".join(str(change) for change in found[:most])
    return f"{told}; and {len(found) - most} more" if len(found) > most else told


def _differ(kind: Kind, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for key in sorted(set(was) | set(now)):
        if was.get(key) != now.get(key):
            yield Change(kind, key, was.get(key), now.get(key))


def _counts(manifest: Manifest) -> dict[str, Any]:
    """Rows, and whatever a version counts by name: its rows per source, what was dropped and why.

    Files of the user's that are among the inputs are no counts: they differ there.
    """
    found: dict[str, Any] = {} if manifest.rows is None else {"rows": manifest.rows}
    for name, value in manifest.metrics.items():
        if isinstance(value, dict):
            found.update(_flat(name, value))
    return found


def _figures(manifest: Manifest) -> dict[str, Any]:
    return {
        name: _rounded(value)
        for name, value in manifest.metrics.items()
        if not isinstance(value, dict)
        and name != "rows"
        and not any(mark in name for mark in _OF_THE_RUN)
    }


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _checks(manifest: Manifest) -> dict[str, Any]:
    return {check.name: "passed" if check.passed else "failed" for check in manifest.checks}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value
