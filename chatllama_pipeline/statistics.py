"""The arithmetic of a comparison, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

CONFIDENCE = 0.95
# Of the standard normal distribution.
QUANTILE_975 = 1.959964
DIGITS = 6


def mean(values: Iterable[float]) -> float | None:
    """The mean, rounded to 6 digits; None where there is nothing, or nothing finite, to average."""
    found = list(values)
    if not found:
        return None
    result = math.fsum(found) / len(found)
    return round(result, DIGITS) if math.isfinite(result) else None


def preferences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """1 where `after` is larger, 0 where `before` is, .5 for a tie; both of one length."""
    return [0.5 * (1 + (b > a) - (b < a)) for a, b in zip(before, after, strict=True)]


def bootstrap_interval(
    values: Sequence[float], samples: int, seed: int
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of the mean (Efron 1979), values drawn with replacement.

    Resampling n values is a multinomial draw over the distinct ones, so that the cost does not
    grow with n. Returns (None, None) for no values.
    """
    if not values:
        return None, None
    import numpy as np

    levels, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=samples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws @ levels / len(values), [tail, 1 - tail])
    return round(float(low), DIGITS), round(float(high), DIGITS)


def krippendorff_alpha(ratings: Collection[Mapping[Any, str]]) -> float | None:
    """Agreement of raters on categories (Krippendorff 2011), 1 at best, 0 by chance.

    `ratings` holds each rater's word on each thing that he rated. None where no two raters met, or
    all say the same of everything, so that chance can't be told.
    """
    things = sorted({thing for own in ratings for thing in own}, key=str)
    words = sorted({word for own in ratings for word in own.values()})
    counts = [
        [sum(own.get(thing) == word for own in ratings) for word in words] for thing in things
    ]
    met = [row for row in counts if sum(row) > 1]
    if sum(any(column) for column in zip(*met, strict=True)) < 2:
        return None
    import krippendorff

    return round(
        float(krippendorff.alpha(value_counts=met, level_of_measurement="nominal")), DIGITS
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share seen in `count` trials (Wilson 1927); (0, 1) of none."""
    if count == 0:
        return 0.0, 1.0
    z2 = QUANTILE_975**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    half = QUANTILE_975 * spread / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)
