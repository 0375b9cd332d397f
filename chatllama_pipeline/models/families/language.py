"""What a language model says of a response: the one place where its kind matters.

Shapes: B rows, P prompt columns (left-padded), T response columns, V vocabulary. Masks are True
where a token counts and are carried along, never inferred from ids: pad may equal the end token.
A decoder-only model reads prompt and response as one row; an encoder-decoder model reads the prompt
with its encoder and the response with its decoder, behind its start token. Either way column t of
what comes back was computed from the prompt and the response's first t tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatllama_pipeline.models.families.kinds import (
    Kind,
    kind_of,
    plain,
    takes,
    takes_positions,
)
from chatllama_pipeline.models.families.manner import manner_of


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


def tokens_first(mask: Tensor) -> Tensor:
    """The order `[B,L]` in which a row's tokens come before its padding, each as they stood."""
    return (mask == 0).int().argsort(dim=1, stable=True)


def padded_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[B,P]` with their padding moved behind their tokens: encoders count from column 0."""
    order = tokens_first(mask)
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


def row_inputs(model: Any, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Arguments of a forward in which a decoder-only model reads whole rows `[B,L]` anew.

    Positions count the mask's tokens, wherever padding stands. Models without a cache or masks
    (their states read every token) are not told of them.
    """
    optional = {"attention_mask": mask, "use_cache": False}
    inputs = {name: value for name, value in optional.items() if takes(model, name)}
    if takes_positions(model):
        inputs["position_ids"] = positions(mask)
    return {"input_ids": ids, **inputs}


def last_logits(model: Any, inputs: dict[str, Any], columns: int) -> Tensor:
    """Logits `[B,columns,V]` of a decoder-only model's last columns; others aren't computed."""
    # Older families compute all and take no such argument.
    kept = {"logits_to_keep": columns} if takes(model, "logits_to_keep") else {}
    logits: Tensor = model(**inputs, **kept).logits
    return logits[:, -columns:]


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
    reading = _reading(model, prompt_ids, prompt_mask, response, action_mask)
    return _divided(reading.logits(model), temperature)


def response_states(
    model: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response: Tensor,
    action_mask: Tensor,
    *,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """What `response_logits` gives, and the hidden states `[B,T,H]` that it is made of.

    From one forward: the states are what goes into the layer that makes logits, whose gradients
    reach every weight before it. Raises ValueError where a model makes logits otherwise.
    """
    reading = _reading(model, prompt_ids, prompt_mask, response, action_mask)
    with _into_logits(model) as heard:
        logits = reading.logits(model)
    if len(heard) != 1 or heard[0].dim() != 3:
        raise ValueError(f"{type(model).__name__} has no layer that makes logits of hidden states")
    return _divided(logits, temperature), reading.columns(heard[0])


class _Reading(NamedTuple):
    """A forward's arguments, and which of its columns are the response's.

    `kept` columns at its end get logits, all where None.
    """

    inputs: dict[str, Any]
    kept: int | None
    columns: Callable[[Tensor], Tensor]

    def logits(self, model: Any) -> Tensor:
        """Logits `[B,T,V]` of the response's columns."""
        if self.kept is None:
            return self.columns(model(**self.inputs).logits)
        return self.columns(last_logits(model, self.inputs, self.kept))


def _reading(
    model: Any, prompt_ids: Tensor, prompt_mask: Tensor, response: Tensor, action_mask: Tensor
) -> _Reading:
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        inputs = encoder_decoder_inputs(model, prompt_ids, prompt_mask, response[:, :-1])
        return _Reading(inputs, None, lambda found: found)
    ids, mask = joined(prompt_ids, prompt_mask, response, action_mask)
    columns = response.shape[1]
    if manner_of(model.config).left_padded:
        return _Reading(row_inputs(model, ids, mask), columns, lambda found: found[:, -columns:])
    # Padding stands at both ends: it is moved behind the tokens.
    order = tokens_first(mask)
    moved = order.argsort(1)[:, -columns:]
    kept = ids.shape[1] - int(moved.min())
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    places = moved - moved.min()
    inputs = row_inputs(model, ids.gather(1, order), mask.gather(1, order))
    return _Reading(inputs, kept, lambda found: found[:, -kept:][rows, places])


def _divided(logits: Tensor, temperature: float) -> Tensor:
    found = logits.float()
    # Divided, they would be held twice.
    return found if temperature == 1 else found / temperature


@contextlib.contextmanager
def _into_logits(model: Any) -> Iterator[list[Tensor]]:
    """What goes into the model's last layer while it reads within this context."""
    heard: list[Tensor] = []
    head = plain(model).get_output_embeddings()
    if head is None:
        yield heard
        return
    hook = head.register_forward_pre_hook(
        lambda module, given: heard.append(given[0]), prepend=True
    )
    try:
        yield heard
    finally:
        hook.remove()
