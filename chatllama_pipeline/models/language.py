"""What a language model says of a response: the one place where its kind matters.

Shapes: B rows, P prompt columns (left-padded), T response columns, V vocabulary. Masks are True
where a token counts and are carried along, never inferred from ids: pad may equal the end token.
A decoder-only model reads prompt and response as one row; an encoder-decoder model reads the prompt
with its encoder and the response with its decoder, behind its start token. Either way column t of
what comes back was computed from the prompt and the response's first t tokens.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from chatllama_pipeline.models.kinds import Kind, kind_of, takes_positions


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token among its row's real tokens, `[B,L]`; padding stands at 0."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def joined(
    prompt_ids: Tensor, prompt_mask: Tensor, response: Tensor, action_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Prompt and response as `ids[B,P+T-1]`, `mask[B,P+T-1]` (int64).

    The last response column predicts nothing and is left out: the last T columns here are those
    that predict `response[B,T]`.
    """
    ids = torch.cat([prompt_ids, response[:, :-1]], dim=1)
    return ids, torch.cat([prompt_mask, action_mask[:, :-1]], dim=1).long()


def padded_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[B,P]` with their padding moved behind their tokens: encoders count from column 0."""
    order = (mask == 0).int().argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def start_column(model: Any, rows: int, device: torch.device) -> Tensor:
    """The token that an encoder-decoder's decoder begins with, `[B,1]`."""
    return torch.full((rows, 1), model.config.decoder_start_token_id, device=device)


def encoder_decoder_inputs(
    model: Any, prompt_ids: Tensor, prompt_mask: Tensor, decoder_tokens: Tensor
) -> dict[str, Any]:
    """Arguments of a forward whose decoder reads its start token and `decoder_tokens[B,T]`."""
    ids, mask = padded_right(prompt_ids, prompt_mask)
    start = start_column(model, len(ids), ids.device)
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "decoder_input_ids": torch.cat([start, decoder_tokens], dim=1),
        "use_cache": False,
    }


def response_logits(
    model: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response: Tensor,
    action_mask: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """Logits / temperature `[B,T,V]` (float32) that predict `response[B,T]`.

    `prompt_ids[B,P]`, `prompt_mask[B,P]`: the prompts, left-padded. A decoder-only model's head,
    with whatever scaling or soft cap it has, is applied to the response's columns alone.
    """
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        inputs = encoder_decoder_inputs(model, prompt_ids, prompt_mask, response[:, :-1])
    else:
        ids, mask = joined(prompt_ids, prompt_mask, response, action_mask)
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "use_cache": False,
            "logits_to_keep": response.shape[1],
        }
        if takes_positions(model):
            inputs["position_ids"] = positions(mask)
    logits: Tensor = model(**inputs).logits.float()
    # Divided, they would be held twice.
    return logits if temperature == 1 else logits / temperature


class Decoding(Protocol):
    """A batch of rows that grow token by token."""

    def next_logits(self) -> Tensor:
        """Logits `[B,V]` of each row's next token."""

    def append(self, tokens: Tensor) -> None:
        """Take `tokens[B]` as the rows' next ones."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""


def decoding(model: Any, prompt_ids: Tensor, prompt_mask: Tensor, columns: int) -> Decoding:
    """Begin a decoding of at most `columns` tokens behind `prompt_ids[B,P]`, left-padded."""
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        return _EncoderDecoderDecoding(model, prompt_ids, prompt_mask)
    return _CausalDecoding(model, prompt_ids, prompt_mask, columns)


class _CausalDecoding:
    def __init__(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> None:
        rows, self.width = ids.shape
        self.model, self.tokens, self.cache = model, ids, DynamicCache(config=model.config)
        # Wide enough for all that may come: a mask that grows would be copied at every token.
        self.mask = torch.ones(rows, self.width + columns, dtype=torch.long, device=ids.device)
        self.mask[:, : self.width] = mask
        self.positions = positions(mask) if takes_positions(model) else None
        self.next_position = mask.sum(1, keepdim=True)

    def next_logits(self) -> Tensor:
        extra = {} if self.positions is None else {"position_ids": self.positions}
        logits: Tensor = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask[:, : self.width],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **extra,
        ).logits
        return logits[:, -1]

    def append(self, tokens: Tensor) -> None:
        self.tokens, self.width = tokens[:, None], self.width + 1
        if self.positions is not None:
            self.positions = self.next_position
            self.next_position = self.next_position + 1

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.tokens, self.mask = self.tokens[rows], self.mask[rows]
        self.next_position = self.next_position[rows]
        if self.positions is not None:
            self.positions = self.positions[rows]


class _EncoderDecoderDecoding:
    def __init__(self, model: Any, ids: Tensor, mask: Tensor) -> None:
        ids, self.mask = padded_right(ids, mask.long())
        self.model = model
        self.encoded = model.get_encoder()(input_ids=ids, attention_mask=self.mask)
        decoder = model.config.get_text_config(decoder=True)
        self.cache = EncoderDecoderCache(DynamicCache(config=decoder), DynamicCache(config=decoder))
        self.tokens = start_column(model, len(ids), ids.device)

    def next_logits(self) -> Tensor:
        logits: Tensor = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=self.tokens,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits[:, -1]

    def append(self, tokens: Tensor) -> None:
        self.tokens = tokens[:, None]

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]
        self.tokens, self.mask = self.tokens[rows], self.mask[rows]
