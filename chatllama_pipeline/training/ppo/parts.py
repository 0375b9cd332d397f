"""Rows of like length side by side, so that little is computed on padding.

Shapes: B rows, P prompt columns (left-padded), T response columns. A part is read without the
columns that are padding in all of its rows: what it costs goes by its longest prompt and reply.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What one part more costs beside its tokens, in tokens: the kernels of a pass are started once
# more, which a GPU feels.
PART_COST = {"cpu": 64, "cuda": 4096}


def alike(
    prompt_mask: Tensor, action_mask: Tensor, most: int, *, as_few: bool = False
) -> list[Tensor]:
    """The row numbers of each part, in their order, `most` in one at most; the longest rows first.

    `prompt_mask[B,P]`, `action_mask[B,T]`. A part is cut where that saves more padding than a part
    costs. With `as_few`, there are no more parts than B rows need: several processes must have as
    many of them, whatever their rows.
    """
    lengths = torch.stack([prompt_mask.sum(1), action_mask.sum(1)], dim=1).cpu()
    order = lengths.sum(1).argsort(descending=True, stable=True)
    cost = PART_COST.get(prompt_mask.device.type, PART_COST["cuda"])
    sizes = [len(order)] if as_few else _cut(lengths[order], cost)
    device = prompt_mask.device
    return [
        part.sort().values.to(device)
        for rows in torch.split(order, sizes)
        for part in torch.split(rows, most)
    ]


def _cut(lengths: Tensor, cost: int) -> list[int]:
    """Sizes of the parts of rows whose prompts and replies have `lengths[B,2]`, the longest first.

    In two where that saves most, and each of them in the same way.
    """
    rows = len(lengths)
    if rows < 2:
        return [rows]
    # The width of the first n rows, and of those from row n on.
    first = lengths.cummax(0).values.sum(1)
    rest = lengths.flip(0).cummax(0).values.sum(1).flip(0)
    before = torch.arange(1, rows)
    saved = rows * first[-1] - before * first[:-1] - (rows - before) * rest[1:]
    best = int(saved.argmax())
    if int(saved[best]) <= cost:
        return [rows]
    size = best + 1
    return _cut(lengths[:size], cost) + _cut(lengths[size:], cost)
