"""The longest row that a model reads: what its config, its positions and its tokenizer allow."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel

from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.memory.sizes import halves_of

# How configs spell the positions that a model has; 0, -1 and null are no limit.
POSITIONS = (
    "max_position_embeddings",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
    "max_target_positions",
)
# Rotary positions with factors for long rows, and others for short ones.
LONG, FIRST = "longrope", "original_max_position_embeddings"
# Tokenizers that know no limit say 10^30; a row that long wouldn't stand in memory.
UNLIMITED = 10**8


def longest_row(config: Any, tokenizer: Any) -> int | None:
    """Most tokens, special ones counted, that a row may have; None where there is no limit.

    Of an encoder-decoder it holds for prompt and reply alike, each of which is read apart: its
    tokenizer's word, of one text, doesn't count.
    """
    halves = list(halves_of(config).values())
    # Halves that are models of their own have a class of their own.
    models = [config, *(half for half in halves if type(half) is not type(config))]
    limits = [getattr(half, name, None) for half in halves for name in POSITIONS]
    limits += [_positions_behind_padding(model) for model in models]
    limits += [_first_positions(half) for half in halves]
    if kind_of(config) is not Kind.ENCODER_DECODER:
        limits.append(tokenizer.model_max_length)
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < UNLIMITED]
    return min(known, default=None)


def limit_of(limit: int, config: Any) -> str:
    """Whose word a `longest_row` is, as its files spell it."""
    if limit == _first_positions(config.get_text_config()):
        return FIRST
    positions = getattr(config.get_text_config(), POSITIONS[0], None)
    return POSITIONS[0] if isinstance(positions, int) and positions >= limit else "model_max_length"


def _first_positions(config: Any) -> int | None:
    """The length beyond which positions mean something else: Phi-3's long ones have factors apart.

    Which factors hold is asked of the longest row in a batch, for all of its tokens: what stands in
    a cache by then was read by the others, and so was a shorter row alone.
    """
    found = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in (found, *found.values()) if isinstance(kind, dict)]
    named: list[int] = [kind[FIRST] for kind in kinds if kind.get("rope_type") == LONG]
    return min(named, default=None)


def _positions_behind_padding(config: Any) -> int | None:
    """How many positions are left where a row's begin behind that of the padding (RoBERTa).

    Such a table of positions has a row for padding, as the class that the config belongs to makes
    it; no weights are made. Decoders of that kind and models of their own code have tables as long
    as they say.
    """
    if kind_of(config) is Kind.CAUSAL or type(config) not in MODEL_MAPPING:
        return None
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    counts = [
        table.weight.shape[0] - table.padding_idx - 1
        for name, table in model.named_modules()
        if "position" in name.rpartition(".")[2]
        and getattr(table, "padding_idx", None) is not None
        and isinstance(getattr(table, "weight", None), nn.Parameter | torch.Tensor)
    ]
    return min(counts, default=None)
