"""Decoding with a cache: the general way of decoder-only models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.models.families.kinds import takes, takes_positions
from chatllama_pipeline.models.families.language import positions

CACHE = "past_key_values"


class Cached:
    """Keys and values (or states) of what was read are kept by the model's own kind of cache."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> None:
        rows, self.width = ids.shape
        self.model, self.tokens = model, ids
        self.cache: Any = None
        # Wide enough for all that may come: a mask that grows would be copied at every token.
        self.mask = torch.ones(rows, self.width + columns, dtype=torch.long, device=ids.device)
        self.mask[:, : self.width] = mask
        self.positions = positions(mask) if takes_positions(model) else None
        self.next_position = mask.sum(1, keepdim=True)
        self.kept = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}

    def next_logits(self) -> Tensor:
        extra = {} if self.positions is None else {"position_ids": self.positions}
        output = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask[:, : self.width],
            past_key_values=self.cache,
            use_cache=True,
            **self.kept,
            **extra,
        )
        self.cache = output.past_key_values
        logits: Tensor = output.logits
        return logits[:, -1]

    def append(self, tokens: Tensor) -> None:
        self.tokens, self.width = tokens[:, None], self.width + 1
        if self.positions is not None:
            self.positions = self.next_position
            self.next_position = self.next_position + 1

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)
        self.tokens, self.mask = self.tokens[rows], self.mask[rows]
        self.next_position = self.next_position[rows]
        if self.positions is not None:
            self.positions = self.positions[rows]
