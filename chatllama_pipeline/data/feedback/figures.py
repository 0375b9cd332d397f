"""What people said of each version, and whether the side on which a reply stood decided."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from chatllama_pipeline.data.feedback.ratings import Edit, Preference, Thumb
from chatllama_pipeline.data.feedback.words import Word
from chatllama_pipeline.data.patterns import redact
from chatllama_pipeline.statistics import wilson_interval

FIGURES_FILE = "feedback.json"
MOST_REASONS, REASON_CHARACTERS = 12, 200


@dataclass
class Said:
    """Of the replies of one version: thumbs, comparisons, and how many were edited."""

    up: int = 0
    down: int = 0
    won: int = 0
    lost: int = 0
    tied: int = 0
    edited: int = 0


class Sides(NamedTuple):
    """How many comparisons the reply on each side won."""

    left: int
    right: int

    @property
    def left_share(self) -> float | None:
        """Of the comparisons that a side won; None of none."""
        decided = self.left + self.right
        return self.left / decided if decided else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the shares that as many comparisons would have given."""
        return wilson_interval(self.left_share or 0.0, self.left + self.right)

    @property
    def decide(self) -> bool:
        """Whether the side decides, for certain."""
        low, high = self.interval
        return not low <= 0.5 <= high

    def __str__(self) -> str:
        if self.left_share is None:
            return "no comparison in which a side won"
        low, high = self.interval
        return (
            f"the left reply won {self.left_share:.1%} of {self.left + self.right} comparisons "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )


@dataclass(frozen=True)
class FeedbackFigures:
    """`said` maps a version of the release ("" where nobody knows) to what was said of it; `left`
    and `right` count the comparisons that each side won; `reasons` are the newest, shortened."""

    ratings: int
    visits: int
    held_out: int
    contradictions: int
    left: int
    right: int
    said: dict[str, Said] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def sides(self) -> Sides:
        return Sides(self.left, self.right)

    def write(self, folder: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1, sort_keys=True)
        (folder / FIGURES_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        raw = json.loads((folder / FIGURES_FILE).read_text(encoding="utf-8"))
        said = {version: Said(**counts) for version, counts in raw.pop("said").items()}
        return cls(said=said, **raw)


def figures_of(
    words: Sequence[Word], held_out: int, contradictions: int, kinds: Sequence[str]
) -> FeedbackFigures:
    """Of words, one a visit on the same replies; `kinds` of personal data are redacted."""
    said: dict[str, Said] = {}
    sides = {"left": 0, "right": 0}
    for word in words:
        rating = word.rating
        if isinstance(rating, Preference):
            _compare(rating, said)
            if rating.better in sides:
                sides[rating.better] += 1
            continue
        counts = said.setdefault(rating.reply.version, Said())
        if isinstance(rating, Edit):
            counts.edited += 1
        elif rating.good:
            counts.up += 1
        else:
            counts.down += 1
    return FeedbackFigures(
        ratings=len(words),
        visits=len({word.visit for word in words} - {""}),
        held_out=held_out,
        contradictions=contradictions,
        said=dict(sorted(said.items())),
        reasons=_reasons(words, kinds),
        **sides,
    )


def _compare(rating: Preference, said: dict[str, Said]) -> None:
    for side, reply in (("left", rating.left), ("right", rating.right)):
        counts = said.setdefault(reply.version, Said())
        if rating.better == side:
            counts.won += 1
        elif rating.better == "tie":
            counts.tied += 1
        else:
            counts.lost += 1


def _reasons(words: Sequence[Word], kinds: Sequence[str]) -> list[str]:
    given: list[Any] = [
        word.rating.reason for word in words if isinstance(word.rating, Thumb | Preference)
    ]
    newest = [reason for reason in reversed(given) if reason.strip()][:MOST_REASONS]
    return [redact(reason, kinds)[:REASON_CHARACTERS] for reason in newest]
