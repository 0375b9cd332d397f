"""Packing: short conversations behind one another in one row, none of which sees another.

Position ids start anew with every conversation; from them transformers builds attention masks with
the conversations' borders in them (`masking_utils.find_packed_sequence_indices`). A family that
takes no position ids, or doesn't heed them so, is found out by `heeds_borders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.families.kinds import Kind, kind_of, takes_positions
from chatllama_pipeline.models.sharding.parts import in_turn

# Logits of a conversation alone and behind another differ by rounding, or by far more than this.
SAME_LOGITS = 1e-3


def collate_packed(
    examples: Sequence[Example], pad_id: int, max_length: int, weight: str
) -> dict[str, Any]:
    """B examples as N <= B rows of at most `max_length` tokens, `[N, W]`.

    `position_ids` mark the borders, `completion_mask` the tokens to be predicted; the padding at a
    row's end is a segment of its own that carries no loss. No `attention_mask`.
    """
    rows = [[examples[i] for i in row] for row in packed_rows(examples, max_length)]
    width = max(sum(len(example.ids) for example in row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    completion = torch.zeros((len(rows), width), dtype=torch.bool)
    for number, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example.ids)
            ids[number, start:end] = torch.tensor(example.ids)
            positions[number, start:end] = torch.arange(len(example.ids))
            completion[number, start + max(1, example.prompt_length) : end] = True
            start = end
        positions[number, start:] = torch.arange(width - start)
    return {
        "input_ids": ids,
        "position_ids": positions,
        "completion_mask": completion,
        weight: int(completion.sum()),
    }


def packed_rows(examples: Sequence[Example], max_length: int) -> list[list[int]]:
    """Which examples stand in which row: the longest first, each into the first row it fits in."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: (-len(examples[i].ids), i)):
        length = len(examples[i].ids)
        row = next((n for n, left in enumerate(room) if left >= length), None)
        if row is None:
            rows.append([i])
            room.append(max_length - length)
        else:
            rows[row].append(i)
            room[row] -= length
    return rows


@torch.no_grad()
def heeds_borders(model: Any, examples: Sequence[Example], pad_id: int) -> bool:
    """Whether a conversation's logits behind another in one row are those it has alone."""
    if kind_of(model.config) is not Kind.CAUSAL or not takes_positions(model):
        return False
    first, second = (Example(row.ids[:16], 1) for row in (examples[0], examples[-1]))
    if first.ids == second.ids:
        second = Example([*second.ids[1:], second.ids[0]], 1)
    length = len(first.ids) + len(second.ids)
    batch = collate_packed([first, second], pad_id, length, "weight")
    was_training = model.training
    model.eval()
    reads = partial(model, use_cache=False)
    with in_turn(model):
        together = reads(
            input_ids=batch["input_ids"].to(model.device),
            position_ids=batch["position_ids"].to(model.device),
        ).logits[0]
    # The shorter one stands behind.
    behind = min((first, second), key=lambda row: len(row.ids))
    if len(first.ids) == len(second.ids):
        behind = second
    with in_turn(model):
        alone = reads(input_ids=torch.tensor([behind.ids], device=model.device)).logits[0]
    model.train(was_training)
    return bool(torch.allclose(together[-len(behind.ids) :], alone, atol=SAME_LOGITS, rtol=1e-2))
