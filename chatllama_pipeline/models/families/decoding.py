"""Batches of rows that grow token by token, in the manner that is right for their model.

Shapes and padding are those of `models.language`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from chatllama_pipeline.models.families.cached import CACHE, Cached
from chatllama_pipeline.models.families.kinds import Kind, kind_of, takes
from chatllama_pipeline.models.families.language import (
    last_logits,
    padded_right,
    row_inputs,
    start_column,
)
from chatllama_pipeline.models.families.lean import Lean, fits
from chatllama_pipeline.models.families.manner import manner_of
from chatllama_pipeline.models.families.recorded import Recorded, can_record

# What families call the state that they carry from token to token, where it is no cache of keys.
STATES = ("cache_params", "state")


class Decoding(Protocol):
    """A batch of rows that grow token by token."""

    def next_logits(self) -> Tensor:
        """Logits `[B,V]` of each row's next token."""

    def append(self, tokens: Tensor) -> None:
        """Take `tokens[B]` as the rows' next ones."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""


def decoding(
    model: Any, prompt_ids: Tensor, prompt_mask: Tensor, columns: int, *, record: bool = False
) -> Decoding:
    """Begin a decoding of at most `columns` tokens behind `prompt_ids[B,P]`, left-padded.

    With `record`, a GPU records one step and repeats it where model and cache allow that; memory
    for all `columns` of all rows is taken then.
    """
    steps, begun = manner_of(model.config).steps, (model, prompt_ids, prompt_mask)
    growing: Decoding
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        growing = _EncoderDecoder(*begun, cached=steps != "whole")
    elif steps == "whole":
        return _WholeRows(*begun, columns)
    elif takes(model, CACHE):
        recorded = record and steps == "cached" and can_record(model)
        plain = Lean if fits(model) else Cached
        growing = (Recorded if recorded else plain)(*begun, columns)
    else:
        growing = _Stateful(*begun)
    return _RowsStay(growing, prompt_ids) if steps == "rows stay" else growing


class _Stateful:
    """State-space and recurrent models: all that was read is one state, and a mask is the prompt's.

    Padding before a row must leave its state as it is.
    """

    def __init__(self, model: Any, ids: Tensor, mask: Tensor) -> None:
        self.model, self.tokens = model, ids
        self.state: Any = None
        self.name = next((name for name in STATES if takes(model, name)), CACHE)
        self.mask = {"attention_mask": mask} if takes(model, "attention_mask") else {}

    def next_logits(self) -> Tensor:
        inputs = {"input_ids": self.tokens, self.name: self.state, "use_cache": True, **self.mask}
        output = self.model(**inputs)
        self.state, self.mask = getattr(output, self.name), {}
        logits: Tensor = output.logits
        return logits[:, -1]

    def append(self, tokens: Tensor) -> None:
        self.tokens = tokens[:, None]

    def keep(self, rows: Tensor) -> None:
        self.state.reorder_cache(rows)
        self.tokens = self.tokens[rows]


class _WholeRows:
    """Every token is computed from the whole row, padded on the right: right for all, and slow."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> None:
        ids, mask = padded_right(ids, mask.long())
        room = (0, columns)
        self.model = model
        self.ids = torch.nn.functional.pad(ids, room, value=int(ids[0, 0]))
        self.mask = torch.nn.functional.pad(mask, room)

    def next_logits(self) -> Tensor:
        lengths = self.mask.sum(1)
        longest, shortest = int(lengths.max()), int(lengths.min())
        inputs = row_inputs(self.model, self.ids[:, :longest], self.mask[:, :longest])
        logits = last_logits(self.model, inputs, longest - shortest + 1)
        return logits[torch.arange(len(lengths), device=lengths.device), lengths - shortest]

    def append(self, tokens: Tensor) -> None:
        column = self.mask.sum(1, keepdim=True)
        self.ids = self.ids.scatter(1, column, tokens[:, None])
        self.mask = self.mask.scatter(1, column, 1)

    def keep(self, rows: Tensor) -> None:
        self.ids, self.mask = self.ids[rows], self.mask[rows]


class _EncoderDecoder:
    """The prompt is read once; without a cache the reply is read anew for every token."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, *, cached: bool) -> None:
        ids, self.mask = padded_right(ids, mask.long())
        self.model, self.cached = model, cached
        self.encoded = model.get_encoder()(input_ids=ids, attention_mask=self.mask)
        self.cache: Any = None
        self.tokens = start_column(model, len(ids), ids.device)

    def next_logits(self) -> Tensor:
        cache = {CACHE: self.cache} if self.cached else {}
        output = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=self.tokens,
            use_cache=self.cached,
            **cache,
        )
        self.cache = output.past_key_values if self.cached else None
        logits: Tensor = output.logits
        return logits[:, -1]

    def append(self, tokens: Tensor) -> None:
        read = [] if self.cached else [self.tokens]
        self.tokens = torch.cat([*read, tokens[:, None]], dim=1)

    def keep(self, rows: Tensor) -> None:
        if self.cached:
            self.cache.reorder_cache(rows)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]
        self.tokens, self.mask = self.tokens[rows], self.mask[rows]


class _RowsStay:
    """Rows that have stopped go on being computed, and nobody sees them."""

    def __init__(self, growing: Decoding, ids: Tensor) -> None:
        self.growing, self.tokens = growing, ids[:, -1].clone()
        self.kept = torch.arange(len(ids), device=ids.device)

    def next_logits(self) -> Tensor:
        return self.growing.next_logits()[self.kept]

    def append(self, tokens: Tensor) -> None:
        self.tokens[self.kept] = tokens
        self.growing.append(self.tokens.clone())

    def keep(self, rows: Tensor) -> None:
        self.kept = self.kept[rows]
