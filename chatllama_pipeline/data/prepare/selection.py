"""Which of the fit rows an assistant takes: filters, pairs per prompt, weights and counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from chatllama_pipeline.data.hashes import Hashes
from chatllama_pipeline.settings.data import SourceChoice

Flags = npt.NDArray[np.bool_]


def first_of_each(keys: Hashes, *ranks: npt.NDArray[np.generic]) -> Flags:
    """True for one row per key: the one with the lowest ranks, the first rank deciding first."""
    return within_first(keys, 1, *ranks)


def within_first(keys: Hashes, count: int, *ranks: npt.NDArray[np.generic]) -> Flags:
    """True for the `count` rows per key with the lowest ranks, the first rank deciding first."""
    order = np.lexsort((*reversed(ranks), keys))
    ordered = keys[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(keys)]
    starts = np.flatnonzero(is_first)
    place = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    found = np.zeros(len(keys), np.bool_)
    found[order] = place < count
    return found


def quotas(
    available: Mapping[str, int],
    choices: Mapping[str, SourceChoice],
    number_of_samples: int | None,
) -> dict[str, int]:
    """How many rows each source gives.

    No source gives more than its `count`, or than `number_of_samples` where it has none. Where any
    source has a weight, all give in proportion to their weights (1 where none is set): as much as
    the scarcest one allows.
    """
    most = {
        name: min(
            available.get(name, 0), choice.count or number_of_samples or available.get(name, 0)
        )
        for name, choice in choices.items()
    }
    if all(choice.weight is None for choice in choices.values()):
        return most
    weights = {name: choice.weight or 1.0 for name, choice in choices.items()}
    scale = min(most[name] / weight for name, weight in weights.items())
    # Of 3 rows per unit of weight, 3 * (1 / 3) must not become 0 by rounding.
    return {name: int(scale * weight + 1e-9) for name, weight in weights.items()}
