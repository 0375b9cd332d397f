"""Generation configs of our own: what a model's publisher samples with is not what we train.

A published one may contradict itself, which transformers refuses to save once it is touched, or ask
for what a caller of `generate` doesn't expect. Of it, the ids that end a reply are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME


def end_ids(stops: Sequence[int], model: Any) -> list[int]:
    """`stops`, and what else ends a reply by the generation config of `model`, or in its folder.

    Llama 3 names the end of a text beside the end of a turn: a sampler that stopped at one alone
    would write on behind the other.
    """
    generation = _stored(model) if isinstance(model, Path) else _held(model)
    named = getattr(generation, "eos_token_id", None)
    others = named if isinstance(named, list | tuple) else [named]
    return list(dict.fromkeys([*stops, *(one for one in others if isinstance(one, int))]))


def as_named(ends: Sequence[int]) -> int | list[int] | None:
    """Ids as a generation config has them: a single one is no list."""
    return list(ends) if len(ends) > 1 else next(iter(ends), None)


def _stored(folder: Path) -> GenerationConfig | None:
    known = (folder / GENERATION_CONFIG_NAME).is_file()
    return GenerationConfig.from_pretrained(folder) if known else None


def _held(model: Any) -> GenerationConfig | None:
    # A model of its own code may have none.
    return getattr(model, "generation_config", None)


def generate_plainly(model: Any, tokenizer: Any, stops: Sequence[int]) -> None:
    """Give `model` a generation config that names tokens, and nothing of how to sample.

    What an old config.json says of sampling goes too: transformers neither saves nor uses it.
    """
    config = model.config
    for key in config._get_generation_parameters():
        delattr(config, key)
    rows = model.get_input_embeddings().weight.shape[0]
    starts = (getattr(c, "decoder_start_token_id", None) for c in (config, _held(model)))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=as_named([one for one in end_ids(stops, model) if 0 <= one < rows]),
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=next((start for start in starts if start is not None), None),
    )
