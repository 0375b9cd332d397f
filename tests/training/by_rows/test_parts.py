"""Rows of like length side by side: which rows a part has, and what its padding costs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from chatllama_pipeline.training.ppo.parts import PART_COST, alike

Lengths = list[tuple[int, int]]


def drawn(seed: int) -> Lengths:
    """Up to 40 rows' lengths of prompt and reply."""
    draw = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(1, 41, (1,), generator=draw))
    most = int(torch.randint(1, 91, (1,), generator=draw))
    return [tuple(row) for row in torch.randint(1, most + 1, (rows, 2), generator=draw).tolist()]


def masks(lengths: Lengths) -> tuple[Tensor, Tensor]:
    prompts, replies = (torch.tensor(column) for column in zip(*lengths, strict=True))
    starts = prompts.max() - prompts
    return (
        torch.arange(int(prompts.max())) >= starts[:, None],
        torch.arange(int(replies.max())) < replies[:, None],
    )


def cost(lengths: Lengths, parts: Sequence[Tensor]) -> int:
    """The tokens that are read, padding among them, and what each part costs beside them."""
    chosen = [[lengths[row] for row in part.tolist()] for part in parts]
    widths = [max(p for p, _ in rows) + max(r for _, r in rows) for rows in chosen]
    read = sum(width * len(rows) for width, rows in zip(widths, chosen, strict=True))
    return read + PART_COST["cpu"] * len(parts)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("as_few", [False, True])
@pytest.mark.parametrize("most", [1, 7, 50])
def test_every_row_stands_in_one_part_of_so_many_at_most(
    seed: int, as_few: bool, most: int
) -> None:
    lengths = drawn(seed)
    parts = alike(*masks(lengths), most, as_few=as_few)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    assert max(map(len, parts)) <= most
    if as_few:
        assert len(parts) == -(-len(lengths) // most)


@pytest.mark.parametrize("seed", range(25))
def test_parts_never_cost_more_than_all_rows_at_once(seed: int) -> None:
    lengths = drawn(seed)
    parts = alike(*masks(lengths), len(lengths))
    assert cost(lengths, parts) <= cost(lengths, [torch.arange(len(lengths))])


def test_short_replies_are_read_apart_from_long_ones_where_that_saves_enough() -> None:
    mixed = [(22, 48 if row % 2 else 12) for row in range(32)]
    assert [sorted(part.tolist()) for part in alike(*masks(mixed), 32)] == [
        list(range(1, 32, 2)),
        list(range(0, 32, 2)),
    ]
    assert len(alike(*masks(mixed[:2]), 32)) == 1
    assert len(alike(*masks([(22, 48)] * 32), 32)) == 1
