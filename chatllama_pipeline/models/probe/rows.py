"""The rows that a probe reads, and how far apart two readings of them are.

Shapes: B rows, T response columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# A prompt shorter than a convolution's window, one that needs padding, and the longest. A padded
# row of an odd length: some families pool tokens in pairs.
PROMPT_LENGTHS, REPLY_LENGTHS = (4, 2, 7), (4, 3, 4)
# Rows are made of the first of a vocabulary where so many of those are ordinary.
WORDS, ENOUGH = 1024, 64
# Faults are told from rounding by their size: a wrong cache or mask changes what is said about as
# much as other words do. Between float32 readings of the same row lie about 1e-6 of a logit.
SHARE_OF_SPREAD, LEAST, MOST = 0.01, 1e-4, 0.05
# Steps and whole rows are computed by other operations, which may round more differently than rows
# among others do; what differs by more than this is another computation (a limit left out).
OF_ROUNDING, ROUNDED = 100, 1e-3


@dataclass(frozen=True)
class Rows:
    """B rows of ordinary tokens, each a prompt and a reply."""

    prompts: list[list[int]]
    replies: list[list[int]]

    def padded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`prompt_ids`, `prompt_mask` (left-padded), `response[B,T]`, `action_mask[B,T]`."""
        width, columns = max(map(len, self.prompts)), max(map(len, self.replies))
        filler = self.prompts[0][0]
        ids = [[filler] * (width - len(row)) + row for row in self.prompts]
        replies = [row + [filler] * (columns - len(row)) for row in self.replies]
        lengths = torch.tensor([[len(row)] for row in self.prompts])
        actions = torch.arange(columns) < torch.tensor([[len(row)] for row in self.replies])
        mask = torch.arange(width) >= width - lengths
        return torch.tensor(ids), mask, torch.tensor(replies), actions


def probe_rows(tokenizer: Any, vocabulary: int) -> Rows:
    """Rows of tokens that are no special ones, the first `WORDS` at best: always the same."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    known = range(min(len(tokenizer), vocabulary))
    ordinary = [number for number in known if number not in special] or list(known)
    if len(first := [number for number in ordinary if number < WORDS]) >= ENOUGH:
        ordinary = first
    draw = torch.Generator().manual_seed(0)

    def some(length: int) -> list[int]:
        return [ordinary[i] for i in torch.randint(len(ordinary), (length,), generator=draw)]

    return Rows([some(length) for length in PROMPT_LENGTHS], [some(n) for n in REPLY_LENGTHS])


def nats(logits: Tensor) -> Tensor:
    """Log-probabilities, `[...,V]` float32."""
    return logits.float().log_softmax(-1)


def numbers(values: Tensor) -> Tensor:
    """Raw scores as they are, float32."""
    return values.float()


@dataclass(frozen=True)
class Truth:
    """What a plain forward says of each row alone, a tensor per row, first axis the columns.

    `unit` brings readings into the unit in which they are compared.
    """

    rows: list[Tensor]
    unit: Callable[[Tensor], Tensor]

    @property
    def finite(self) -> bool:
        """Whether everything is a number; a token that can't be said (-inf) is one."""
        return not any(bool((row.isnan() | row.isposinf()).any()) for row in self.rows)

    @property
    def tolerance(self) -> float:
        """How far apart two readings may be: less than what other words would change."""
        last = torch.stack([self.unit(row)[-1] for row in self.rows])
        finite = last.nan_to_num(neginf=0.0)
        spread = float((finite - finite.mean(0)).abs().max())
        size = max(float(row.nan_to_num(neginf=0.0).abs().max()) for row in self.rows)
        return min(MOST, max(LEAST * min(1.0, size), SHARE_OF_SPREAD * spread))

    def stepwise(self, rounding: float) -> float:
        """The tolerance for readings step by step, where padded rows are `rounding` apart."""
        return min(self.tolerance, max(ROUNDED, OF_ROUNDING * rounding))

    def apart(self, found: Sequence[Tensor]) -> float:
        """The largest difference between a reading, row by row, and the truth."""
        worst = 0.0
        for row, expected in zip(found, self.rows, strict=True):
            mine, right = self.unit(row), self.unit(expected)
            away = (mine - right).abs().masked_fill(mine == right, 0.0)
            worst = max(worst, float(away.nan_to_num(nan=torch.inf).max()))
        return worst
