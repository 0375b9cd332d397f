"""How large a model is, by its config's class and its weights' shapes; no weights are read."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.store.model_files import base_folder

# Most families spell their sizes alike, and a config's class translates others; these it doesn't.
HIDDEN = ("hidden_size", "d_model")
LAYERS = ("num_hidden_layers", "num_layers", "n_layer")
FEED_FORWARD = (
    "intermediate_size",
    "ffn_dim",
    "d_ff",
    "ffn_hidden_size",
    "n_inner",
    "dff",
    "feed_forward_size",
    "dim_ff",
    "d_inner",
)
# Experts are this wide each; as many of them as a token is sent to keep what they compute.
EXPERT, EXPERTS = "moe_intermediate_size", "num_experts_per_tok"
# Layers are numbered: what stands before the first number, and it, is one layer's.
NUMBERED = re.compile(r"^(.*?\.\d+)\.")

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class ModelSize:
    """What a model folder's headers and config say."""

    weights: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int


def model_size(folder: Path) -> ModelSize:
    """The sizes of the model in `folder`; of an adapter the base beneath it counts."""
    folder = base_folder(folder)
    return size_of(_config(folder), dict(tensors(folder)))


def size_of(config: Any, shapes: Shapes) -> ModelSize:
    """The sizes that a transformers config names, else those that `shapes` of weights suggest.

    Of an encoder-decoder the layers of both halves count, and the wider half's widths.
    """
    halves = halves_of(config)
    rows, width = _embedding(shapes)
    hidden = max(_first(half, HIDDEN) or 0 for half in halves.values()) or width
    # T5 counts its decoder's layers apart in one config.
    counts = [_first(half, (f"num_{side}_layers", *LAYERS)) for side, half in halves.items()]
    layers = sum(count or 0 for count in counts) or _numbered(shapes)
    vocabulary = max(_first(half, ("vocab_size",)) or 0 for half in halves.values()) or rows
    intermediate = max(map(_feed_forward, halves.values())) or _widest(shapes, vocabulary)
    return ModelSize(
        weights=sum(math.prod(shape) for shape in shapes.values()),
        layers=layers,
        hidden=hidden,
        intermediate=intermediate or 4 * hidden,
        vocabulary=vocabulary,
    )


def cached_floats(config: Any, layers: int) -> int:
    """Keys and values that `layers` layers of a transformers config keep of each token read."""
    half = halves_of(config)["decoder"]
    heads = _first(half, ("num_attention_heads", "num_heads")) or 1
    head = _first(half, ("head_dim", "d_kv")) or (_first(half, HIDDEN) or 0) // heads
    return layers * 2 * head * (_first(half, ("num_key_value_heads",)) or heads)


def config_of(folder: Path) -> Any:
    """The config of the model in `folder`; of an adapter the base beneath it counts."""
    return _config(base_folder(folder))


def tensors(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes in a folder's safetensors."""
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in header(path)[0].items():
            yield name, entry["shape"]


def header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """What a safetensors file holds, by name, and the byte that its tensors' offsets count from.

    8 bytes of header length, the header as JSON, the tensors.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found = json.loads(file.read(length))
    found.pop("__metadata__", None)
    return found, 8 + length


def _config(folder: Path) -> Any:
    """The config by its family's class; of an unknown family, its plain values."""
    # Only the children that train ask for sizes, and transformers is theirs.
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    from chatllama_pipeline.models.loading import load_config

    raw = json.loads((folder / "config.json").read_text())
    if raw.get("model_type") in CONFIG_MAPPING or "auto_map" in raw:
        return load_config(folder)
    return PreTrainedConfig(**raw)


def halves_of(config: Any) -> dict[str, Any]:
    """The configs of what reads (`encoder`) and what writes (`decoder`), which may be one alone."""
    if not config.is_encoder_decoder:
        return {"decoder": _text(config, decoder=True)}
    return {
        side: getattr(config, side, None) or _text(config, **{side: True})
        for side in ("encoder", "decoder")
    }


def _text(config: Any, **side: bool) -> Any:
    try:
        return config.get_text_config(**side)
    except ValueError:  # several, and none of them before the others
        return config


def _first(config: Any, names: Sequence[str]) -> int | None:
    """The first of the sizes that the config has; the largest, where its layers differ."""
    for name in names:
        value = _named(config, name)
        if isinstance(value, list | tuple):
            value = max((one for one in value if isinstance(one, int)), default=None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _named(config: Any, name: str) -> Any:
    """A value of a config; where its layers differ in it (Gemma 4), that of each."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers says so of values that the config has several of
        return [getattr(layer, name, None) for layer in config.per_layer_config]


def _feed_forward(config: Any) -> int:
    inner = getattr(config, "ffn_config", None) or config  # DBRX keeps its own apart
    dense, expert = _first(inner, FEED_FORWARD) or 0, _first(config, (EXPERT,))
    if expert is None:
        return dense
    return max(dense, expert * (_first(config, (EXPERTS,)) or 1))


def _embedding(shapes: Shapes) -> tuple[int, int]:
    """Rows and columns of the matrix with most rows: the embedding's, in a language model."""
    matrices = [(shape[0], shape[1]) for shape in shapes.values() if len(shape) == 2]
    return max(matrices, default=(0, 0))


def _numbered(shapes: Shapes) -> int:
    found = (NUMBERED.match(name) for name in shapes)
    return len({match[1] for match in found if match})


def _widest(shapes: Shapes, vocabulary: int) -> int:
    """The widest side of a layer's matrices."""
    inside = [shape for name, shape in shapes.items() if NUMBERED.match(name) and len(shape) > 1]
    return max((side for shape in inside for side in shape[-2:] if side != vocabulary), default=0)
