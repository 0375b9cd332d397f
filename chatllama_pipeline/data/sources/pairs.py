"""Pairs of a public source's raw rows, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from chatllama_pipeline.data.hashes import Hashes, row_hash
from chatllama_pipeline.data.sources.raw import Batch, RawRow, rows_in
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.schemas import PAIR_SCHEMA


class Pairs(NamedTuple):
    """Of `read` rows: how many were dropped for which defect, and how many mended; the pairs that
    are left with their keys, and how many are of each domain."""

    read: int
    defects: Counter[str]
    mended: Counter[str]
    domains: Counter[str]
    table: pa.Table
    keys: Hashes


@dataclass(frozen=True)
class Converting:
    """How raw rows become pairs (see `catalog.Public`)."""

    convert: Callable[[dict[str, Any], str], Row | str]
    needed: tuple[str, ...]

    def opened(self, files: Sequence[int]) -> Converting:
        """Itself: nothing is kept of a batch."""
        return self

    def pairs(self, given: tuple[Batch, str]) -> Pairs:
        """The pairs of a batch and the subset that its file stands in."""
        batch, subset = given
        return pairs_of([self._converted(row, subset) for row in rows_in(batch)])

    def _converted(self, row: RawRow, subset: str) -> Row | str:
        if isinstance(row, str):
            return row
        if any(name not in row for name in self.needed):
            return "missing_column"
        return self.convert(row, subset)


def pairs_of(rows: Sequence[Row | str]) -> Pairs:
    """Pairs and defects as columns."""
    pairs = [row for row in rows if not isinstance(row, str)]
    return Pairs(
        len(rows),
        Counter(row for row in rows if isinstance(row, str)),
        Counter(pair["mended"] for pair in pairs if "mended" in pair),
        Counter(pair["domain"] for pair in pairs),
        pa.Table.from_pylist(pairs, schema=PAIR_SCHEMA),
        np.array([_pair_hash(pair) for pair in pairs], np.uint64),
    )


def _pair_hash(pair: Row) -> int:
    turns = [text for turn in pair["prompt"] for text in (turn["role"], turn["content"])]
    rest = (pair["chosen"], pair["rejected"], pair["domain"], repr(pair["strength"]))
    return row_hash(*turns, *rest)
