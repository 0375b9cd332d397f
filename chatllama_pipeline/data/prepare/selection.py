"""Which of the fit rows an assistant takes: filters, pairs per prompt, weights and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from chatllama_pipeline.data.hashes import Hashes
from chatllama_pipeline.data.spill.column import Indices
from chatllama_pipeline.settings.data import SourceChoice

Flags = npt.NDArray[np.bool_]
# Leading bits by which values are counted, before those on the border alone are sorted.
_BITS = 16


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


def lowest(chunks: Callable[[], Iterable[tuple[Indices, Hashes]]], count: int) -> Iterator[Indices]:
    """The places of the `count` lowest values, of equal ones those that come first.

    `chunks` yields places and values, some at a time, anew at each call.
    """
    shift = np.uint64(64 - _BITS)
    totals = np.zeros(1 << _BITS, np.int64)
    for _, values in chunks():
        totals += np.bincount((values >> shift).astype(np.int64), minlength=len(totals))
    border = int(np.searchsorted(np.cumsum(totals), count))
    places, on_border = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for here, values in chunks():
        leading = (values >> shift).astype(np.int64)
        yield here[leading < border]
        places.append(here[leading == border])
        on_border.append(values[leading == border])
    left = count - int(totals[:border].sum())
    order = np.argsort(np.concatenate(on_border), kind="stable")[:left]
    yield np.concatenate(places)[order]


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
