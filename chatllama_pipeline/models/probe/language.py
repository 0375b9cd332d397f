"""Whether a language model decodes as it scores, and rows among others score as they do alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.models.families.decoding import decoding
from chatllama_pipeline.models.families.kinds import Kind, kind_of, takes
from chatllama_pipeline.models.families.language import response_logits, start_column
from chatllama_pipeline.models.families.manner import Manner, Steps, set_manner
from chatllama_pipeline.models.probe.failure import Failure, tried
from chatllama_pipeline.models.probe.rows import Rows, Truth, nats

# Quickest first.
STEPS: tuple[Steps, ...] = ("cached", "rows stay", "whole")


@dataclass(frozen=True)
class Spoken:
    """The manner in which a language model is right, and how far off it is then, in nats."""

    manner: Manner
    apart: float


@torch.no_grad()
def probe_language(model: Any, rows: Rows) -> Spoken:
    """Find the quickest manner in which `model`, in eval mode, gives what it says of rows alone.

    Raises Failure where none does. The manner is left in the model's config.
    """
    truth = Truth(
        [_alone(model, *row) for row in zip(rows.prompts, rows.replies, strict=True)], nats
    )
    if not truth.finite:
        raise Failure("says NaN of ordinary tokens", "its weights or its number format are broken")
    left_padded, apart = _padding(model, rows, truth)
    for steps in STEPS:
        manner = Manner(steps, left_padded)
        set_manner(model.config, manner)
        off = tried(lambda: truth.apart(_decoded(model, rows)))
        if off.within(truth.stepwise(apart)):
            return Spoken(manner, max(apart, off.apart))
    raise Failure(
        f"says other things of a token when it knows what follows ({off.told('nats')})",
        "it can't write token by token",
    )


def _padding(model: Any, rows: Rows, truth: Truth) -> tuple[bool, float]:
    """Whether padding may stand before rows, and how far off the score pass is."""
    both = (True, False) if kind_of(model.config) is Kind.CAUSAL else (True,)
    for left_padded in both:
        set_manner(model.config, Manner("whole", left_padded))
        off = tried(lambda: truth.apart(_scored(model, rows)))
        if off.within(truth.tolerance):
            return left_padded, off.apart
    raise Failure(
        f"says other things of a row among padded ones than of the row alone ({off.told('nats')})",
        "no batch of it could be trained",
    )


def _alone(model: Any, prompt: list[int], reply: list[int]) -> Tensor:
    """Logits `[T,V]` that predict a reply, by a plain forward that knows of no other row."""
    ids = torch.tensor([prompt], device=model.device)
    answer = torch.tensor([reply[:-1]], dtype=torch.long, device=model.device)
    uncached = {"use_cache": False} if takes(model, "use_cache") else {}
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        begun = torch.cat([start_column(model, 1, ids.device), answer], dim=1)
        logits: Tensor = model(input_ids=ids, decoder_input_ids=begun, **uncached).logits
        return logits[0]
    logits = model(input_ids=torch.cat([ids, answer], dim=1), **uncached).logits
    return logits[0, -len(reply) :]


def _columns(model: Any, rows: Rows) -> list[Tensor]:
    return [column.to(model.device) for column in rows.padded()]


def _scored(model: Any, rows: Rows) -> list[Tensor]:
    found = response_logits(model, *_columns(model, rows), temperature=1.0)
    return [row[: len(reply)] for row, reply in zip(found, rows.replies, strict=True)]


def _decoded(model: Any, rows: Rows) -> list[Tensor]:
    """What the replies' tokens are drawn from, step by step; rows leave as they end."""
    ids, mask, response, actions = _columns(model, rows)
    found: list[list[Tensor]] = [[] for _ in rows.replies]
    active = torch.arange(len(ids), device=ids.device)
    growing = decoding(model, ids, mask, response.shape[1])
    for column in range(response.shape[1]):
        if not bool(actions[active, column].all()):
            kept = actions[active, column].nonzero()[:, 0]
            growing.keep(kept)
            active = active[kept]
        for row, logits in zip(active.tolist(), growing.next_logits(), strict=True):
            found[row].append(logits)
        growing.append(response[active, column])
    return [torch.stack(row) for row in found]
