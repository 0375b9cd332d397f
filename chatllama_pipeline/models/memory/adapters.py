"""How large an adapter is, and how much goes into the layers it adapts; no weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.models.memory.sizes import tensors
from chatllama_pipeline.settings import LoraSettings
from chatllama_pipeline.store.model_files import base_folder

# What peft targets in most families where nothing is said.
USUAL_TARGETS = ("q_proj", "v_proj", "query_key_value", "c_attn", "qkv_proj", "q", "v")
ALL_LINEAR = "all-linear"


class AdapterSize(NamedTuple):
    """Weights, and the floats per token that go into all adapted layers together."""

    weights: int
    inputs: int


def adapter_size(folder: Path, lora: LoraSettings) -> AdapterSize:
    """About the size of an adapter on the model in `folder`: r rows and r columns a layer."""
    shapes = list(_adapted(folder, lora))
    weights = sum(lora.r * (rows + columns) for rows, columns in shapes)
    return AdapterSize(weights, sum(columns for _, columns in shapes))


def _adapted(folder: Path, lora: LoraSettings) -> Iterator[tuple[int, int]]:
    """Rows and columns of the matrices inside of numbered layers that the settings target."""
    targets = USUAL_TARGETS if lora.target_modules is None else lora.target_modules
    for name, shape in tensors(base_folder(folder)):
        module = name.removesuffix(".weight")
        if len(shape) == 2 and any(part.isdigit() for part in module.split(".")):
            if isinstance(targets, str):
                hit = targets == ALL_LINEAR or re.fullmatch(targets, module) is not None
            else:
                hit = any(f".{module}".endswith(f".{target}") for target in targets)
            if hit:
                yield shape[0], shape[1]
