"""The terms of a reward on one scale, weighted and added up. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatllama_pipeline.training.terms import RAW, SCALED

# Replies that say what is usual for a term. Later ones don't move its scale, so that a curve that
# rises means that replies earn more, and a resumed training goes on with the same scale.
USUAL_REPLIES = 256
# A spread below this share of the mean is rounding.
LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Term:
    """A part of the reward; one that is `scaled` already is left as it is."""

    name: str
    weight: float
    scaled: bool = False


@dataclass
class Scales:
    """By term: how many of its values were looked at, their mean, their summed squared distances.

    Plain data, which a training's state holds.
    """

    seen: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def scaled(self, name: str, raw: Tensor, learn: bool = True) -> Tensor:
        """`raw[B]` at mean 0 and standard deviation 1 by the term's first replies, float64.

        NaN is a reply that nobody could judge: it gets 0, which is neither praise nor blame. Where
        all first replies have one value, the standard deviation is taken as 1. Without `learn`
        these are not among the first replies, however few there were.
        """
        values = raw.double()
        count, mean, squares = self.seen.get(name, (0, 0.0, 0.0))
        known = values[~values.isnan()]
        if learn and count < USUAL_REPLIES and len(known):
            count, mean, squares = _joined((count, mean, squares), known)
            self.seen[name] = (count, mean, squares)
        spread = math.sqrt(squares / count) if count else 0.0
        if spread <= LEAST_SPREAD * max(1.0, abs(mean)):
            spread = 1.0
        return torch.nan_to_num((values - mean) / spread, nan=0.0)

    def weigh(self, scores: Tensor, terms: Sequence[Term], learn: bool = True) -> Earned:
        """`scores[B,K]`, a column for each of `terms`, as they were given; `[B]` without terms."""
        if not terms:
            return Earned(scores, {}, {})
        raw = {term.name: column for term, column in zip(terms, scores.T, strict=True)}
        scaled = {
            term.name: raw[term.name].double()
            if term.scaled
            else self.scaled(term.name, raw[term.name], learn)
            for term in terms
        }
        weighted = [term.weight * scaled[term.name] for term in terms]
        return Earned(torch.stack(weighted).sum(0).to(scores), raw, scaled)


@dataclass(frozen=True)
class Earned:
    """What B replies earn: `total[B]`; each term `[B]` as it was given, and on its scale."""

    total: Tensor
    raw: Mapping[str, Tensor]
    scaled: Mapping[str, Tensor]

    def figures(self) -> dict[str, float]:
        """Means for the curves: `reward/NAME` on its scale, `raw_reward/NAME` as it was given, and
        `unread/NAME`, the share that nobody could judge, where there are such."""
        found: dict[str, float] = {}
        for name, raw in self.raw.items():
            found[f"{SCALED}{name}"] = float(self.scaled[name].mean())
            found[f"{RAW}{name}"] = float(raw.nanmean())
            if bool(raw.isnan().any()):
                found[f"unread/{name}"] = float(raw.isnan().float().mean())
        return found

    def of_row(self, row: int) -> dict[str, float | None]:
        """What each term said of a reply; None where it could not be read."""
        values = {name: float(raw[row]) for name, raw in self.raw.items()}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def _joined(before: tuple[int, float, float], values: Tensor) -> tuple[int, float, float]:
    """Count, mean and summed squared distances with `values` among them (Chan et al. 1983)."""
    count, mean, squares = before
    more, its_mean = len(values), float(values.mean())
    its_squares = float((values - its_mean).square().sum())
    total, apart = count + more, its_mean - mean
    return (
        total,
        mean + apart * more / total,
        squares + its_squares + apart**2 * count * more / total,
    )
