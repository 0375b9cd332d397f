"""A release in memory: its model, its tokenizer, and what holds where nobody asks for else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig

from chatllama_pipeline.errors import EngineError, StoreError
from chatllama_pipeline.machine import free_bytes
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.generation import end_ids
from chatllama_pipeline.models.heads import LONGEST_ROW, load_actor
from chatllama_pipeline.models.loading import load_config, load_tokenizer
from chatllama_pipeline.models.positions import longest_row
from chatllama_pipeline.models.quiet import quiet_transformers

# Of what is free there: what layers compute takes room beside them, that of many rows much more.
GPU_SHARE, GPU_SHARE_OF_MANY = 0.8, 0.2
_GB = 1e9


@dataclass(frozen=True)
class Loaded:
    """`context`: most tokens of a row; `stops` end a reply of at most `max_tokens`."""

    tokenizer: Any
    model: Any
    stops: list[int]
    context: int
    max_tokens: int


def load_release(folder: Path) -> Loaded:
    """The release in `folder`, on the GPU where there is one; StoreError where it holds none.

    Raises EngineError where it is larger than what is free.
    """
    _require_model(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    needed, free = weight_bytes(folder), free_bytes(device)
    if needed > free:
        raise EngineError(
            f"{folder}: the model takes {needed / _GB:.1f} GB in float32, and {free / _GB:.1f} GB "
            "are free: `chatllama serve --engine gguf` holds it in half of that, "
            "--engine accelerate leaves on disk what finds no room, and is slow, --engine offload "
            "does so for many at once, and --engine deepspeed shares it out among GPUs"
        )
    return _loaded(folder, load_actor(folder, torch.float32).to(device))


def load_spread(
    folder: Path, memory: int | None, overflow: Path, gpu_share: float = GPU_SHARE
) -> Loaded:
    """The release in `folder`, whose layers stand on the GPU (in that share of what is free), in
    main memory, and where `memory` bytes of that are full, in files, which are `overflow`'s or the
    release's own; None: what is free."""
    _require_model(folder)
    room: dict[str | int, int] = {"cpu": free_bytes("cpu") if memory is None else memory}
    if torch.cuda.is_available():
        room[0] = int(gpu_share * free_bytes("cuda"))
    model = load_actor(
        folder,
        torch.float32,
        device_map="auto",
        max_memory=room,
        offload_folder=str(overflow),
    )
    return _loaded(folder, model)


def load_outline(folder: Path) -> Loaded:
    """The release in `folder` without its weights, for an engine that has them elsewhere."""
    _require_model(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(folder))
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return _loaded(folder, model)


def _require_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise StoreError(f"{folder}: holds no model (config.json is missing); release one first")
    quiet_transformers()


def _loaded(folder: Path, model: Any) -> Loaded:
    tokenizer = load_tokenizer(folder)
    return Loaded(
        tokenizer,
        model,
        end_ids(stop_ids(tokenizer), model),
        longest_row(model.config, tokenizer) or LONGEST_ROW,
        model.generation_config.max_new_tokens,
    )


def weight_bytes(folder: Path) -> int:
    """What the weights in `folder` take as float32."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            # Not a dict, for all that it has keys.
            names = list(file.keys())
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return 4 * total
