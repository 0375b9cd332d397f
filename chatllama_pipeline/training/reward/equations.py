"""The reward stage's losses as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F

CALIBRATION_BINS = 5


def bradley_terry(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | None = None
) -> torch.Tensor:
    """-log sigmoid(chosen - rejected - margin) per pair: `[P]`, `[P]`, `[P]` -> `[P]` (nats).

    Bradley & Terry 1952; the margin as in Llama 2 (Touvron et al. 2023, section 3.2.2).
    """
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    return -F.logsigmoid(difference)


def centering(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """(chosen + rejected)^2 per pair, `[P]`: keeps scores near 0 (Eisenstein et al. 2023)."""
    return (chosen + rejected) ** 2


def score_errors(found: torch.Tensor, score: torch.Tensor, midpoint: torch.Tensor) -> torch.Tensor:
    """Per reply (found - score)^2, or where `midpoint` isn't NaN the nats of a thumb, each `[S]`.

    A thumb is a choice between the reply and one that is neither good nor bad, by the Bradley-Terry
    model. A reply that is far enough on its side is pushed no further, and one that a person
    mistook pulls no harder the farther it is.
    """
    middle = midpoint.nan_to_num()
    thumb = -F.logsigmoid((score - middle).sign() * (found - middle))
    return torch.where(midpoint.isnan(), (found - score) ** 2, thumb)


def win_share(chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """Share of pairs whose chosen reply has the higher number; a tie counts half. `[P]`, `[P]`."""
    wins = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    return float(wins.mean())


def strength_margin(strength: float) -> float:
    """The margin that a pair's strength asks for: its logarithm, 0 where strength is 1 (or less).

    A source's strength is a ratio of votes, and the Bradley-Terry model's difference of rewards is
    the logarithm of such a ratio.
    """
    return math.log(max(strength, 1.0))


def shift_and_scale(scores: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of `scores[N]`; the deviation is 1 where all are equal."""
    if len(scores) < 2:
        return (float(scores.mean()) if len(scores) else 0.0), 1.0
    deviation = float(scores.double().std())
    return float(scores.double().mean()), deviation if deviation > 0 else 1.0


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs that the model is about equally sure of; see `calibration`."""

    pairs: int
    predicted: float
    observed: float


def calibration(difference: torch.Tensor) -> list[CalibrationBin]:
    """How often the model is right when it is how sure, from `difference[P]` = chosen - rejected.

    By the Bradley-Terry model its own choice is right with probability sigmoid(|difference|),
    between 1/2 and 1: that range is cut into equal bins, and empty ones are left out.
    """
    sure = torch.sigmoid(difference.abs().double())
    right = (difference > 0).double() + 0.5 * (difference == 0).double()
    number = ((sure - 0.5) * 2 * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    bins = []
    for each in range(CALIBRATION_BINS):
        inside = number == each
        if count := int(inside.sum()):
            predicted, observed = float(sure[inside].mean()), float(right[inside].mean())
            bins.append(CalibrationBin(count, round(predicted, 4), round(observed, 4)))
    return bins


def calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """The mean distance of predicted from observed, each pair counting once (Guo et al. 2017)."""
    pairs = sum(each.pairs for each in bins)
    if pairs == 0:
        return None
    gaps = sum(each.pairs * abs(each.predicted - each.observed) for each in bins)
    return round(gaps / pairs, 4)


def rank_correlation(left: torch.Tensor, right: torch.Tensor) -> float | None:
    """Spearman's correlation of `left[N]` with `right[N]`, ties at their mean rank.

    None where there are fewer than two, or all of one side are equal.
    """
    ranks = [pd.Series(values.tolist(), dtype=float).rank() for values in (left, right)]
    if len(left) < 2 or any(rank.nunique() < 2 for rank in ranks):
        return None
    return float(ranks[0].corr(ranks[1]))
