"""The reward stage's losses as pure functions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


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


def pair_accuracy(chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """Share of pairs whose chosen reply scores higher; a tie counts half. `[P]`, `[P]`."""
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
