"""How much memory a training stage needs, from file headers and config.json alone (no torch)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.models.layout import base_folder
from chatllama_pipeline.records import Check
from chatllama_pipeline.settings import AssistantSettings

MEMORY_PLAN = "memory_plan"
GIB = 2**30
# Weights are held in float32; training adds a gradient and AdamW's two moments per weight.
FROZEN_BYTES, TRAINED_BYTES = 4, 16
FLOAT_BYTES = 4
# Floats kept per token and layer for the backward pass of a Llama-like block: ten of the hidden
# size (two norms' inputs and outputs, q, k, v, attention's output, two residuals) and four of the
# feed-forward size (gate, up, their activation and product). SDPA keeps no attention scores.
HIDDEN_COPIES, INTERMEDIATE_COPIES = 10, 4
# Logits, their log-softmax and its gradient.
LOGIT_COPIES = 3


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a stage needs at its peak, and bytes that are free; `parts` add up to the need."""

    needed_bytes: int
    available_bytes: int
    parts: dict[str, int]


@dataclass(frozen=True)
class ModelSize:
    """What a model folder's headers and config say."""

    weights: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int


def memory_plan(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int | None = None,
) -> MemoryPlan:
    """What `stage` needs with the models in `base_folders` (role -> folder).

    Roles: `actor` for actor_sft; `reward` for reward_model; `policy`, `reference`, `critic` and
    `reward` for actor_ppo. `longest_row` is the longest conversation in tokens where the caller
    has counted them, else the stage's max_sequence_length stands in. An estimate: weights,
    gradients and Adam's moments are exact, activations follow a Llama-like block.
    """
    sizes = {role: model_size(Path(folder)) for role, folder in base_folders.items()}
    limit = int(settings.at(f"{_length_section(stage)}.max_sequence_length"))
    tokens = _rows_per_forward(stage, settings) * min(longest_row or limit, limit)
    parts: dict[str, int] = {}
    for role, size in sizes.items():
        parts[f"{role} weights"] = size.weights * FROZEN_BYTES
        if role in _TRAINED[stage] and not (role == "reward" and not settings.reward_config.train):
            parts[f"{role} gradients and Adam"] = size.weights * (TRAINED_BYTES - FROZEN_BYTES)
            parts[f"{role} activations"] = _activation_bytes(size, tokens, role in _WITH_LOGITS)
    return MemoryPlan(sum(parts.values()), psutil.virtual_memory().available, parts)


def memory_check(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int | None = None,
) -> Check:
    """The blocking check `memory_plan`: the need against what is free, in GiB, and the cure."""
    plan = memory_plan(stage, base_folders, settings, longest_row)
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:3]
    shares = ", ".join(f"{name} {size / GIB:.2f}" for name, size in largest)
    section = _SECTIONS[stage]
    text = (
        f"{stage} needs about {plan.needed_bytes / GIB:.2f} GiB ({shares}), "
        f"{plan.available_bytes / GIB:.2f} GiB are free"
    )
    passed = plan.needed_bytes <= plan.available_bytes
    if not passed:
        text += (
            f": lower {section}.micro_batch_size, then "
            f"{_length_section(stage)}.max_sequence_length, or take a smaller model"
        )
    return Check(
        MEMORY_PLAN, passed, True, plan.needed_bytes / GIB, plan.available_bytes / GIB, text
    )


def require_memory(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int | None = None,
) -> Check:
    """`memory_check`, raised as CheckError where it fails: before any weights are loaded."""
    check = memory_check(stage, base_folders, settings, longest_row)
    if not check.passed:
        raise CheckError(check.description, [check])
    return check


def model_size(folder: Path) -> ModelSize:
    """Sizes from `folder`'s safetensors headers and config.json; no weights are read.

    Of an adapter the base beneath it counts.
    """
    folder = base_folder(folder)
    weights = sum(_tensor_elements(path) for path in sorted(folder.glob("*.safetensors")))
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)  # of a model that sees, too
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    # T5 counts its decoder's layers apart from its encoder's.
    decoder_layers = _first(config, "num_decoder_layers", default=0)
    return ModelSize(
        weights=weights,
        layers=decoder_layers + _first(config, "num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        intermediate=_first(
            config, "intermediate_size", "ffn_dim", "d_ff", "n_inner", default=4 * hidden
        ),
        vocabulary=_first(config, "vocab_size"),
    )


_TRAINED = {
    "reward_model": ("reward",),
    "actor_sft": ("actor",),
    "actor_ppo": ("policy", "critic"),
}
_WITH_LOGITS = ("actor", "policy")
_SECTIONS = {
    "reward_model": "reward_config",
    "actor_sft": "actor_config",
    "actor_ppo": "trainer_config",
}


def _length_section(stage: str) -> str:
    return "reward_config" if stage == "reward_model" else "actor_config"


def _rows_per_forward(stage: str, settings: AssistantSettings) -> int:
    if stage == "actor_sft":
        return settings.actor_config.micro_batch_size or settings.actor_config.batch_size
    if stage == "reward_model":
        reward = settings.reward_config
        return 2 * (reward.micro_batch_size or reward.batch_size)  # both replies of a pair
    ppo = settings.trainer_config
    return ppo.micro_batch_size or ppo.batch_size or ppo.prompts_per_iteration


def _activation_bytes(size: ModelSize, tokens: int, with_logits: bool) -> int:
    kept = HIDDEN_COPIES * size.hidden + INTERMEDIATE_COPIES * size.intermediate
    floats = tokens * size.layers * kept
    if with_logits:
        floats += tokens * LOGIT_COPIES * size.vocabulary
    return floats * FLOAT_BYTES


def _tensor_elements(path: Path) -> int:
    """Numbers in a safetensors file: 8 bytes of header length, then the header as JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for extent in entry["shape"]:
                count *= extent
            total += count
    return total


def _first(config: Mapping[str, object], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int):
            return value
    if default is None:
        raise KeyError(f"config.json has none of {', '.join(names)}")
    return default
