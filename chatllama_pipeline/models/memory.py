"""How much memory a training stage needs, from file headers and configs alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.deepspeed_config import plan_for
from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.models.layout import base_folder, has_adapter, weights_digest
from chatllama_pipeline.models.machine import free_bytes, wants_bfloat16
from chatllama_pipeline.models.sizes import ModelSize, model_size, tensors
from chatllama_pipeline.out_of_memory import halved
from chatllama_pipeline.records import Check
from chatllama_pipeline.settings import SECTION_OF, AssistantSettings, LoraSettings

MEMORY_PLAN = "memory_plan"
GIB = 2**30
# Weights are held in float32; training adds a gradient and AdamW's two moments per weight.
FROZEN_BYTES, TRAINED_BYTES = 4, 16
FLOAT_BYTES, HALF_BYTES = 4, 2
# Floats kept per token and layer for the backward pass of a Llama-like block: ten of the hidden
# size (two norms' inputs and outputs, q, k, v, attention's output, two residuals) and four of the
# feed-forward size (gate, up, their activation and product). SDPA keeps no attention scores.
HIDDEN_COPIES, INTERMEDIATE_COPIES = 10, 4
# Logits, their log-softmax and its gradient.
LOGIT_COPIES = 3
# Activations of one model that nobody minds on a CPU.
SMALL_BYTES = 256 * 2**20
# What peft targets in most families where nothing is said.
USUAL_TARGETS = ("q_proj", "v_proj", "query_key_value", "c_attn", "qkv_proj", "q", "v")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a stage needs at its peak, and bytes that are free; `parts` add up to the need.

    `checkpointing` says whether activations are computed again: as the settings ask, and where
    they leave it open, if the stage would not fit without.
    """

    needed_bytes: int
    available_bytes: int
    parts: dict[str, int]
    checkpointing: bool

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.available_bytes


def memory_plan(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int | None = None,
    device: str = "cpu",
) -> MemoryPlan:
    """What `stage` needs with the models in `base_folders` (role -> folder).

    Roles: `actor` for actor_sft; `reward` for reward_model; `policy`, `reference`, `critic` and
    `reward` for actor_ppo. `longest_row` is the longest conversation in tokens where the caller
    has counted them, else the stage's max_sequence_length stands in. An estimate: weights,
    gradients and Adam's moments are exact (frozen weights that roles share count once),
    activations follow a Llama-like block.
    """
    asked = settings.at(f"{SECTION_OF[stage]}.activation_checkpointing")
    # On a CPU the processes share what is free.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device == "cpu" else 1
    available = free_bytes(device) // here
    plan = _plan(stage, base_folders, settings, longest_row, device, available, bool(asked))
    if asked is None and not plan.fits:
        return _plan(stage, base_folders, settings, longest_row, device, available, True)
    return plan


def with_micro_batch(
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int,
    device: str,
) -> AssistantSettings:
    """`settings` of actor_ppo with a `micro_batch_size` where they leave it open.

    A CPU hardly gains from larger forwards, and with adapters on one base the activations are most
    of the memory: the minibatch is halved until those of a model are small, or no more than what
    is held anyway. Free memory has no say, so a continued training adds up its gradients alike.
    """
    ppo = settings.trainer_config
    share = max(1, ppo.minibatch_size // _processes())
    if ppo.micro_batch_size is not None or device != "cpu":
        return settings
    rows = share
    while rows > 1:
        chosen = ppo.model_copy(update={"micro_batch_size": rows})
        tried = settings.model_copy(update={"trainer_config": chosen})
        parts = _plan(
            "actor_ppo", base_folders, tried, longest_row, device, 0,
            bool(ppo.activation_checkpointing),
        ).parts  # fmt: skip
        passing = {
            role: parts.get(f"{role} activations", 0) + parts.get(f"{role} logits", 0)
            for role in _TRAINED["actor_ppo"]
        }
        held = sum(parts.values()) - sum(passing.values())
        if max(passing.values()) <= max(SMALL_BYTES, held):
            break
        rows = halved(rows, share)
    if rows == share:
        return settings
    cut = ppo.model_copy(update={"micro_batch_size": rows})
    return settings.model_copy(update={"trainer_config": cut})


def _plan(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int | None,
    device: str,
    available: int,
    checkpointing: bool,
) -> MemoryPlan:
    limit = int(settings.at(f"{_length_section(stage)}.max_sequence_length"))
    tokens = _conversations_per_forward(stage, settings) * min(longest_row or limit, limit)
    half = wants_bfloat16(settings.at(f"{SECTION_OF[stage]}.precision"), device)
    parts: dict[str, int] = {}
    shared: set[str] = set()
    for role, name in base_folders.items():
        folder, size = Path(name), model_size(Path(name))
        trained = _is_trained(role, stage, settings)
        adapted = trained and _has_adapter(role, stage, settings)
        if trained and not adapted:
            share = _held_of_a_weight(stage, settings, device)
            parts[f"{role} weights"] = round(size.weights * share.weight)
            parts[f"{role} gradients and Adam"] = round(size.weights * share.gradient_and_adam)
        elif (base := weights_digest(base_folder(folder))) not in shared:
            shared.add(base)
            parts[f"{role} weights"] = size.weights * FROZEN_BYTES
        if adapted or has_adapter(folder):
            lora = _lora(role, settings)
            held = TRAINED_BYTES if adapted else FROZEN_BYTES
            parts[f"{role} adapter"] = adapter_weights(folder, lora) * held
        if trained:
            width = HALF_BYTES if half else FLOAT_BYTES
            parts[f"{role} activations"] = _activation_bytes(size, tokens, checkpointing, width)
            if role in _WITH_LOGITS:
                logits = tokens * LOGIT_COPIES * size.vocabulary * FLOAT_BYTES
                parts[f"{role} logits"] = logits
    return MemoryPlan(sum(parts.values()), available, parts, checkpointing)


def memory_check(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int | None = None,
    device: str = "cpu",
) -> Check:
    """The blocking check `memory_plan`: the need against what is free, in GiB, and the cure."""
    return as_check(stage, memory_plan(stage, base_folders, settings, longest_row, device))


def as_check(stage: str, plan: MemoryPlan) -> Check:
    """`plan` as the blocking check `memory_plan`."""
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:3]
    shares = ", ".join(f"{name} {size / GIB:.2f}" for name, size in largest)
    section = SECTION_OF[stage]
    text = (
        f"{stage} needs about {plan.needed_bytes / GIB:.2f} GiB ({shares}), "
        f"{plan.available_bytes / GIB:.2f} GiB are free"
    )
    if plan.checkpointing:
        text += ", with activation checkpointing"
    if not plan.fits:
        again = "" if plan.checkpointing else f", set {section}.activation_checkpointing: true"
        text += (
            f": lower {section}.micro_batch_size{again}, then "
            f"{_length_section(stage)}.max_sequence_length, train a LoRA adapter "
            "(peft_enable: true), or take a smaller model"
        )
    return Check(
        MEMORY_PLAN, plan.fits, True, plan.needed_bytes / GIB, plan.available_bytes / GIB, text
    )


def require_memory(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    longest_row: int | None = None,
    device: str = "cpu",
) -> tuple[Check, bool]:
    """`memory_check`, and whether activations are to be computed again.

    Raises CheckError where the check fails: before any weights are loaded.
    """
    plan = memory_plan(stage, base_folders, settings, longest_row, device)
    check = as_check(stage, plan)
    if not check.passed:
        raise CheckError(check.description, [check])
    return check, plan.checkpointing


_TRAINED = {
    "reward_model": ("reward",),
    "actor_sft": ("actor",),
    "actor_ppo": ("policy", "critic"),
}
_WITH_LOGITS = ("actor", "policy")


class Held(NamedTuple):
    """Bytes that one process holds of a trained weight, and of its gradient and moments."""

    weight: float
    gradient_and_adam: float


def _held_of_a_weight(stage: str, settings: AssistantSettings, device: str) -> Held:
    """ZeRO 1 shards Adam's two moments, 2 the gradient too, 3 the weight too.

    PPO has whole weights all the same, while it samples.
    """
    ranks = _processes()
    plan = plan_for(stage, settings, device, ranks)
    level = plan.stage if plan else 0
    weight = FROZEN_BYTES / (ranks if level == 3 and stage != "actor_ppo" else 1)
    gradient = FLOAT_BYTES / (ranks if level >= 2 else 1)
    moments = 2 * FLOAT_BYTES / (ranks if level >= 1 else 1)
    if plan is not None and plan.offloads and device != "cpu":
        moments = 0
    return Held(weight, gradient + moments)


def _processes() -> int:
    """How many train together: torchrun's number."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _length_section(stage: str) -> str:
    return "reward_config" if stage == "reward_model" else "actor_config"


def _conversations_per_forward(stage: str, settings: AssistantSettings) -> int:
    both_replies = 2 if stage == "reward_model" else 1
    return both_replies * settings.training(stage).rows_per_forward(_processes())


def _is_trained(role: str, stage: str, settings: AssistantSettings) -> bool:
    if stage == "reward_model" and not settings.reward_config.train:
        return False
    return role in _TRAINED[stage]


def _has_adapter(role: str, stage: str, settings: AssistantSettings) -> bool:
    if stage == "actor_ppo":
        return settings.policy_has_adapter if role == "policy" else settings.critic_has_adapter
    section = settings.reward_config if stage == "reward_model" else settings.actor_config
    return section.peft_enable


def _lora(role: str, settings: AssistantSettings) -> LoraSettings:
    if role == "reward":
        return settings.reward_config.lora
    return settings.critic_config.lora if role == "critic" else settings.actor_config.lora


def adapter_weights(folder: Path, lora: LoraSettings) -> int:
    """About how many weights an adapter on the model in `folder` has: r rows and r columns each."""
    targets = USUAL_TARGETS if lora.target_modules is None else lora.target_modules
    total = 0
    for name, shape in tensors(base_folder(folder)):
        module = name.removesuffix(".weight").rsplit(".", 1)[-1]
        inside = len(shape) == 2 and any(part.isdigit() for part in name.split("."))
        if inside and (isinstance(targets, str) or module in targets):
            total += lora.r * sum(shape)
    return total


def _activation_bytes(size: ModelSize, tokens: int, checkpointing: bool, width: int) -> int:
    a_layer = HIDDEN_COPIES * size.hidden + INTERMEDIATE_COPIES * size.intermediate
    if checkpointing:
        # Each layer's input, and one layer that is being computed again.
        return tokens * (size.layers * size.hidden + a_layer) * width
    return tokens * size.layers * a_layer * width
