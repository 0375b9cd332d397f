"""Whether a scoring model scores padded rows as its own class in transformers scores them alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.families.kinds import Kind, kind_of, takes
from chatllama_pipeline.models.families.language import start_column
from chatllama_pipeline.models.families.manner import Manner, manner_of, set_manner
from chatllama_pipeline.models.heads import (
    SCORING_SUFFIX,
    pad_right,
    response_values,
    score_inputs,
    scores,
    token_values,
)
from chatllama_pipeline.models.probe.failure import Failure, tried
from chatllama_pipeline.models.probe.rows import Rows, Truth, numbers


@dataclass(frozen=True)
class Scored:
    """The manner in which a scoring model is right, and how far off its scores are then."""

    manner: Manner
    apart: float


@torch.no_grad()
def probe_scoring(model: Any, rows: Rows) -> Scored:
    """Hold scores and values of padded rows against those of the rows alone.

    Raises Failure where they differ. The manner (on which side rows may be padded) is left in the
    model's config.
    """
    examples = [
        Example([*prompt, *reply], len(prompt))
        for prompt, reply in zip(rows.prompts, rows.replies, strict=True)
    ]
    alone = [_own(model, example) for example in examples]
    own = Truth([score for score, _ in alone], numbers)
    if not own.finite:
        raise Failure("scores ordinary tokens NaN", "its weights or its number format are broken")
    is_encoder = kind_of(model.config) is Kind.ENCODER
    if is_encoder and torch.equal(own.rows[0], _own(model, _changed(examples))[0]):
        raise Failure(
            "scores rows alike that only begin alike, to the last digit",
            "it doesn't read them, as families do whose attention needs a kernel (MRA)",
        )
    off = tried(lambda: own.apart([*_scores(model, examples)]))
    if not off.within(own.tolerance):
        raise Failure(
            f"scores a row among padded ones otherwise than its own class scores the row alone "
            f"({off.told('')})",
            "no batch of it could be scored",
        )
    if is_encoder:
        return Scored(manner_of(model.config), off.apart)
    truth = Truth([values for _, values in alone], numbers)
    left_padded, apart = _values_padding(model, rows, examples, truth)
    return Scored(Manner(manner_of(model.config).steps, left_padded), max(off.apart, apart))


def _changed(examples: list[Example]) -> Example:
    """The first row with other words behind its first."""
    first, *_, last = examples
    return first._replace(ids=[first.ids[0], *last.ids[1 : len(first.ids)]])


def _values_padding(
    model: Any, rows: Rows, examples: list[Example], truth: Truth
) -> tuple[bool, float]:
    """Whether padding may stand before a critic's rows, and how far off its values are."""
    steps, causal = manner_of(model.config).steps, kind_of(model.config) is Kind.CAUSAL
    for left_padded in (True, False) if causal else (True,):
        set_manner(model.config, Manner(steps, left_padded))
        off = tried(lambda: truth.apart(_values(model, rows)))
        if causal and off.within(truth.tolerance):
            off = tried(lambda: truth.apart(_values_behind(model, examples)))
        if off.within(truth.tolerance):
            return left_padded, off.apart
    raise Failure(
        f"gives the tokens of a row other values among padded rows than alone ({off.told('')})",
        "PPO's critic couldn't be made of it",
    )


def _own(model: Any, example: Example) -> tuple[Tensor, Tensor]:
    """What a plain forward says of a row alone: its score `[1]`, and the head's values `[T+1]`.

    The score is that of the model's own class, or the head's at the last token. The values are
    those from the prompt's last token on; an encoder has none.
    """
    if type(model).__name__.endswith(SCORING_SUFFIX):
        values = _own_values(model, example)
        return values[-1:], values
    inputs = {n: v.to(model.device) for n, v in score_inputs(model, [example], 0).items()}
    inputs.pop("attention_mask")
    uncached = {"use_cache": False} if takes(model, "use_cache") else {}
    if kind_of(model.config) is Kind.ENCODER:
        return model(**inputs, **uncached).logits[0, :1], torch.empty(0)
    heard: list[Tensor] = []
    hook = model.score.register_forward_hook(lambda head, given, found: heard.append(found))
    try:
        score: Tensor = model(**inputs, **uncached).logits[0, :1]
    finally:
        hook.remove()
    # A class may read its head at a row's last token alone.
    read = [found for found in heard if found.shape[:2] == (1, len(example.ids))]
    start = example.prompt_length - 1
    return score, read[0][0, start:, 0] if read else _own_values(model, example)


def _own_values(model: Any, example: Example) -> Tensor:
    """The head at the tokens `[T+1]` of a row alone, from the prompt's last one on."""
    ids, start = torch.tensor([example.ids], device=model.device), example.prompt_length
    backbone = model.base_model
    uncached = {"use_cache": False} if takes(backbone, "use_cache") else {}
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        begun = torch.cat([start_column(model, 1, ids.device), ids[:, start:]], dim=1)
        hidden = backbone(input_ids=ids[:, :start], decoder_input_ids=begun, **uncached)[0]
    else:
        hidden = backbone(input_ids=ids, **uncached)[0][:, start - 1 :]
    values: Tensor = model.score(hidden)[0, :, 0]
    return values


def _scores(model: Any, examples: list[Example]) -> Tensor:
    inputs = score_inputs(model, examples, examples[0].ids[0])
    on_device = {name: value.to(model.device) for name, value in inputs.items()}
    return scores(model, on_device)[:, None]


def _values(model: Any, rows: Rows) -> list[Tensor]:
    """Values `[T+1]` of each row, the last one behind its reply, left-padded as PPO reads them."""
    ids, mask, response, actions = (column.to(model.device) for column in rows.padded())
    # The last column of a response predicts nothing, and is not read.
    wider = [torch.nn.functional.pad(column, (0, 1)) for column in (response, actions)]
    found = response_values(model, ids, mask, *wider)
    return [row[: len(reply) + 1] for row, reply in zip(found, rows.replies, strict=True)]


def _values_behind(model: Any, examples: list[Example]) -> list[Tensor]:
    """The same values, of rows padded on the right."""
    ids, mask = pad_right([example.ids for example in examples], examples[0].ids[0])
    found = token_values(model, ids.to(model.device), mask.to(model.device))
    return [row[e.prompt_length - 1 : len(e.ids)] for row, e in zip(found, examples, strict=True)]
