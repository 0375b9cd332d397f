"""What became of the rows of each source: read, valid, kept, and why the others were dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FUNNEL_FILE = "funnel.json"

# Reasons that say nothing against a row: it is fit, and there were better ones, or enough.
CHOICES = frozenset(
    {
        "domain",
        "weak_preference",
        "over_per_prompt",
        "not_sampled",
        "duplicate",
        "near_duplicate",
        "near_repeat",  # near duplicates of what is held out, in every table of training rows
        "unscored",
        "over_share",
        "contradicted",
    }
)


class Funnel:
    """Counts by source; what is neither a choice nor kept was not valid."""

    def __init__(self) -> None:
        self._read: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {}

    def read(self, source: str, rows: int = 1) -> None:
        self._read[source] += rows

    def drop(self, source: str, reason: str, rows: int = 1) -> None:
        if rows:
            self._dropped.setdefault(source, Counter())[reason] += rows

    def read_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows by their `source`."""
        self._read.update(row["source"] for row in rows)

    def drop_rows(self, rows: Iterable[Mapping[str, Any]], reason: str) -> None:
        """Count dropped rows by their `source`."""
        for source, count in Counter(row["source"] for row in rows).items():
            self.drop(source, reason, count)

    def dropped(self) -> dict[str, int]:
        """How many rows were dropped, by reason, over all sources."""
        total: Counter[str] = Counter()
        for reasons in self._dropped.values():
            total.update(reasons)
        return dict(sorted(total.items()))

    def sources(self) -> dict[str, dict[str, Any]]:
        """Source -> `read`, `valid`, `kept` and `dropped` by reason; read = kept + dropped."""
        found = {}
        for source in sorted(self._read):
            dropped = dict(sorted(self._dropped.get(source, Counter()).items()))
            unfit = sum(count for reason, count in dropped.items() if reason not in CHOICES)
            read = self._read[source]
            found[source] = {
                "read": read,
                "valid": read - unfit,
                "kept": read - sum(dropped.values()),
                "dropped": dropped,
            }
        return found

    def write(self, output: Path) -> None:
        """Write `funnel.json` into a version folder."""
        text = json.dumps({"sources": self.sources()}, indent=1, sort_keys=True)
        (output / FUNNEL_FILE).write_text(text + "\n", encoding="utf-8")
