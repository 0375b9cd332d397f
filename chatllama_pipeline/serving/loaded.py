"""A release in memory: its model, its tokenizer, and what holds where nobody asks for else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.generation import end_ids
from chatllama_pipeline.models.heads import LONGEST_ROW, load_actor
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.models.positions import longest_row
from chatllama_pipeline.models.quiet import quiet_transformers


@dataclass(frozen=True)
class Loaded:
    """`context`: most tokens of a row; `stops` end a reply of at most `max_tokens`."""

    tokenizer: Any
    model: Any
    stops: list[int]
    context: int
    max_tokens: int


def load_release(folder: Path) -> Loaded:
    """The release in `folder`, on the GPU where there is one; StoreError where it holds none."""
    if not (folder / "config.json").is_file():
        raise StoreError(f"{folder}: holds no model (config.json is missing); release one first")
    quiet_transformers()
    tokenizer = load_tokenizer(folder)
    model = load_actor(folder, torch.float32)
    if torch.cuda.is_available():
        model = model.cuda()
    return Loaded(
        tokenizer,
        model,
        end_ids(stop_ids(tokenizer), model),
        longest_row(model.config, tokenizer) or LONGEST_ROW,
        model.generation_config.max_new_tokens,
    )
