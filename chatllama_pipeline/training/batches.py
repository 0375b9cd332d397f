"""Which rows each process trains on: the same global batches, however many processes there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from chatllama_pipeline.errors import SettingsError

BATCHES_PER_POOL = 32


@dataclass(frozen=True)
class Shares:
    """How an optimizer step's batch is cut up: over `ranks`, then into micro-batches."""

    batch_size: int
    micro_batch_size: int
    ranks: int = 1
    rank: int = 0

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and step."""
        return self.batch_size // (self.micro_batch_size * self.ranks)

    @classmethod
    def of(
        cls, batch_size: int, micro_batch_size: int | None, ranks: int, rank: int, key: str
    ) -> Shares:
        """Raise SettingsError where a batch doesn't divide; without a size, one per rank."""
        if batch_size % ranks:
            raise SettingsError(
                f"{key} {batch_size} is not a multiple of compute.processes {ranks}: choose a "
                "batch_size that is"
            )
        share = batch_size // ranks
        # A micro-batch that fits one process may be more than a rank's share.
        micro = min(micro_batch_size or share, share) if ranks > 1 else micro_batch_size or share
        if share % micro:
            raise SettingsError(
                f"{key} {batch_size} is not a multiple of micro_batch_size {micro}"
                + (f" x compute.processes {ranks}" if ranks > 1 else "")
                + ": choose a micro_batch_size that divides it"
            )
        return cls(batch_size, micro, ranks, rank)


@dataclass(frozen=True)
class MicroBatch:
    """Row numbers; where it doesn't count, a row that only keeps the ranks in step."""

    rows: list[int]
    counts: bool = True


class StepBatches:
    """This rank's micro-batches, `accumulation` to an optimizer step, from `first_step` on.

    Every epoch has an order of its own (that of accelerate's seeded sampler), and its last batch
    may be short. The global batch of a step depends on seed and step alone. With the rows'
    `lengths`, batches hold rows of like length: see `bucketed`.
    """

    def __init__(
        self,
        rows: int,
        shares: Shares,
        steps: int,
        seed: int,
        first_step: int,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.rows, self.shares, self.seed = rows, shares, seed
        self.steps, self.first_step, self.lengths = steps, first_step, lengths

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.shares.accumulation

    def __iter__(self) -> Iterator[MicroBatch]:
        shares = self.shares
        per_epoch = math.ceil(self.rows / shares.batch_size)
        epoch, order = -1, torch.empty(0)
        for step in range(self.first_step, self.steps):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = self._order(epoch)
            start = step % per_epoch * shares.batch_size
            yield from self.of_rank(order[start : start + shares.batch_size].tolist())

    def of_rank(self, batch: Sequence[int]) -> list[MicroBatch]:
        """A global batch's micro-batches of this rank."""
        shares = self.shares
        size = shares.micro_batch_size
        parts = [list(batch[i : i + size]) for i in range(0, len(batch), size)]
        mine = [MicroBatch(rows) for rows in parts[shares.rank :: shares.ranks]]
        spare = MicroBatch([batch[0]], counts=False)
        return mine + [spare] * (shares.accumulation - len(mine))

    def _order(self, epoch: int) -> torch.Tensor:
        shuffle = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.rows, generator=shuffle)
        if self.lengths is None:
            return order
        size = self.shares.batch_size
        return torch.tensor(bucketed(order.tolist(), self.lengths, size, shuffle))


def bucketed(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, shuffle: torch.Generator
) -> list[int]:
    """`order` with rows of like length beside each other, the batches themselves shuffled.

    Rows are sorted within pools of `BATCHES_PER_POOL` batches, so that batches still differ from
    epoch to epoch; a batch that isn't full stays the last.
    """
    pool = batch_size * BATCHES_PER_POOL
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        alike = sorted(order[start : start + pool], key=lambda row: -lengths[row])
        batches += [alike[i : i + batch_size] for i in range(0, len(alike), batch_size)]
    short = batches.pop() if len(batches[-1]) < batch_size else []
    shuffled = torch.randperm(len(batches), generator=shuffle).tolist()
    return [row for number in shuffled for row in batches[number]] + short


class _Collated(Dataset[dict[str, Any]]):
    def __init__(
        self, rows: Sequence[Any], collate: Callable[[list[Any]], dict[str, Any]], weight: str
    ) -> None:
        self.rows, self.collate, self.weight = rows, collate, weight

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, micro: Any) -> dict[str, Any]:
        batch = self.collate([self.rows[row] for row in micro.rows])
        return batch if micro.counts else {**batch, self.weight: 0}


def loader(
    rows: Sequence[Any],
    collate: Callable[[list[Any]], dict[str, Any]],
    batches: StepBatches,
    weight: str,
) -> DataLoader[Any]:
    """The collated micro-batches of `batches`; under `weight`, 0 in those that don't count."""
    return DataLoader(
        _Collated(rows, collate, weight),
        sampler=batches,
        batch_size=None,
        collate_fn=_as_it_is,
        # Its own: an iterator draws a seed, and torch's generator must not depend on when.
        generator=torch.Generator(),
    )


def _as_it_is(batch: Any) -> Any:
    return batch
