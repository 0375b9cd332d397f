"""Replies sampled from a language model, and the log-probabilities of given replies.

Shapes: B rows, P prompt columns (left-padded), T response columns, V vocabulary. Masks are True
where a token counts and are carried along, never inferred from ids: pad may equal the end token.
Works for every decoder-only and encoder-decoder model of transformers, through `models.language`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatllama_pipeline.models.families.decoding import decoding
from chatllama_pipeline.models.families.language import response_logits
from chatllama_pipeline.models.memory.passes import read_bytes, rows_at_once, shape_of
from chatllama_pipeline.progress import Phase, phase
from chatllama_pipeline.training.ppo.equations import token_logp

# Rows that have stopped leave the batch once this share of its rows has: cutting the cache costs
# a copy of it, which a single row doesn't repay.
STOPPED_SHARE = 0.25


class Rollout(NamedTuple):
    """Sampled replies: `response[B,T]`, `action_mask[B,T]`, `finished[B]`, `logp[B,T]`.

    The mask is True up to and including the first stop token, which `finished` rows have; those
    that ended amid a thought may be told unfinished all the same. `logp` is how likely each token
    was where it was drawn: what scores replies must agree.
    """

    response: Tensor
    action_mask: Tensor
    finished: Tensor
    logp: Tensor

    def reply_ids(self) -> list[list[int]]:
        """The ids of each reply, its stop token included."""
        lengths = self.action_mask.sum(1).tolist()
        return [row[:length] for row, length in zip(self.response.tolist(), lengths, strict=True)]


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """B lists of ids -> `input_ids[B,P]`, `attention_mask[B,P]` (boolean), padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return ids, torch.arange(width) >= width - lengths[:, None]


def draw(logits: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """One index `[B]` from the softmax of each row of `logits[B,V]`, by inverting its CDF.

    And the logarithm of its probability.

    `levels[B]` are uniform in [0, 1): one number per row. `torch.multinomial` draws V, and took a
    quarter of the decoding.
    """
    chances = torch.softmax(logits, dim=-1)
    cdf = chances.cumsum(-1, dtype=torch.float64)
    # `right`: the first index whose CDF exceeds the level, never one of probability 0.
    found = torch.searchsorted(cdf, levels[:, None] * cdf[:, -1:], right=True)
    found = found.clamp(max=cdf.shape[1] - 1)
    return found[:, 0], chances.gather(1, found)[:, 0].log()


def uniform_levels(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Numbers uniform in [0, 1), `[rows, columns]` (float64), on the generator's device."""
    return torch.rand(
        rows, columns, dtype=torch.float64, device=generator.device, generator=generator
    )


@torch.inference_mode()
def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    levels: Tensor,
    on_token: Callable[[int], None] = lambda columns: None,
) -> Rollout:
    """Sample one reply to each row of `input_ids[B,P]` from the softmax of logits / temperature.

    Nothing else bends the distribution. T is the longest reply's length, `max_new_tokens` at
    most. `levels[B,max_new_tokens]` (see `uniform_levels`) are a row's own chances, so that its
    reply depends on no other row of the batch. `on_token` hears how many columns are written.
    """
    rows, device = input_ids.shape[0], input_ids.device
    response = torch.full((rows, max_new_tokens), pad_id, device=device)
    logp = torch.zeros(rows, max_new_tokens, device=device)
    lengths = torch.full((rows,), max_new_tokens, device=device)
    stops = torch.tensor(list(stop_ids), device=device)

    active = torch.arange(rows, device=device)  # row of the whole batch that each row here is
    stopped = torch.zeros(rows, dtype=torch.bool, device=device)
    growing = decoding(model, input_ids, attention_mask, max_new_tokens, record=True)
    for t in range(max_new_tokens):
        logits = growing.next_logits().float()
        tokens, drawn = draw(logits if temperature == 1 else logits / temperature, levels[:, t])
        # What rows draw that have stopped already is taken out in the end.
        response[active, t], logp[active, t] = tokens, drawn
        ending = torch.isin(tokens, stops) & ~stopped
        if ended := bool(ending.any()):
            lengths[active[ending]] = t + 1
            stopped = stopped | ending
            if bool(stopped.all()):
                break
        on_token(t + 1)
        growing.append(tokens)
        if ended and int(stopped.sum()) >= STOPPED_SHARE * len(active):
            kept = (~stopped).nonzero()[:, 0]
            growing.keep(kept)
            active, stopped, levels = active[kept], stopped[kept], levels[kept]
    finished = torch.ones(rows, dtype=torch.bool, device=device)
    finished[active] = stopped
    longest = int(lengths.max())
    action_mask = torch.arange(longest, device=device) < lengths[:, None]
    response = response[:, :longest].masked_fill(~action_mask, pad_id)
    return Rollout(response, action_mask, finished, torch.where(action_mask, logp[:, :longest], 0))


def sample_replies(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    rollout_batch_size: int | None,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    generator: torch.Generator,
    share: slice = slice(None),
) -> Rollout:
    """`generate` for B prompts of any lengths, in batches of like length; rows in prompt order.

    `rollout_batch_size` rows at once, all if None; fewer cost nothing but speed. `generator` lives
    on the model's device; the same seed gives the same replies. With a `share` of the prompts,
    only their replies are sampled, each as it would be among all.
    """
    levels = uniform_levels(len(prompts), max_new_tokens, generator)[share]
    prompts = prompts[share]
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    parts = []
    # At most: replies that end early, and rows that leave the batch, cost less.
    counter = phase(f"writes {len(order):,} replies", len(order) * max_new_tokens, "tokens")
    for start in range(0, len(order), rollout_batch_size or len(order)):
        rows = order[start : start + (rollout_batch_size or len(order))]
        ids, mask = pad_left([prompts[row] for row in rows], pad_id)
        parts.append(
            generate(
                model,
                ids.to(generator.device),
                mask.to(generator.device),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                stop_ids=stop_ids,
                pad_id=pad_id,
                levels=levels[rows],
                on_token=partial(_reach, counter, start * max_new_tokens, len(rows)),
            )
        )
    width = max(part.response.shape[1] for part in parts)
    inverse = torch.tensor(order, device=generator.device).argsort()
    return Rollout(
        torch.cat([widened(part.response, width, pad_id) for part in parts])[inverse],
        torch.cat([widened(part.action_mask, width, False) for part in parts])[inverse],
        torch.cat([part.finished for part in parts])[inverse],
        torch.cat([widened(part.logp, width, 0) for part in parts])[inverse],
    )


def _reach(counter: Phase, done: int, rows: int, columns: int) -> None:
    counter.reach(done + rows * columns)


def widened(columns: Tensor, width: int, fill: int | bool) -> Tensor:
    """`columns[B,T]` with as many more behind them as `width` wants."""
    return torch.nn.functional.pad(columns, (0, width - columns.shape[1]), value=fill)


def rows_at_most(model: Any, input_ids: Tensor, response: Tensor, most: int | None = None) -> int:
    """How many rows' logits `[rows,T,V]` may be held at once; `most` caps them further."""
    columns = response.shape[1]
    row = shape_of(model).reading(input_ids.shape[1] + columns, columns)
    return rows_at_once(row, most, read_bytes(input_ids.device.type))


@torch.inference_mode()
def response_logprobs(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    response: Tensor,
    action_mask: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """Log-probability of each response token `[B,T]` (float32), 0 outside `action_mask[B,T]`.

    `input_ids[B,P]`, `attention_mask[B,P]`: the prompts, left-padded.
    """
    logp = []
    most = rows_at_most(model, input_ids, response)
    columns = (input_ids, attention_mask, response, action_mask)
    for start in range(0, len(response), most):
        rows = slice(start, start + most)
        logits = response_logits(model, *(c[rows] for c in columns), temperature=temperature)
        logp.append(token_logp(logits, response[rows]))
    return torch.where(action_mask, torch.cat(logp), 0.0)
