"""How much memory a training stage needs, from file headers and configs alone.

What a stage holds all the while (weights, gradients, Adam's moments) and what passes in each of its
phases: the largest of them is the peak.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.launch.out_of_memory import halved
from chatllama_pipeline.machine import free_bytes, leaves_holes, own_bytes
from chatllama_pipeline.models.memory import MEMORY_PLAN
from chatllama_pipeline.models.memory.adapters import AdapterSize, adapter_size
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.passes import (
    DROPOUT_COPIES,
    FLOAT_BYTES,
    LOGIT_COPIES,
    MAPPED_BYTES,
    SMALL_BYTES,
    frozen_layer_floats,
    layer_floats,
)
from chatllama_pipeline.models.memory.phases import (
    LEARNING,
    ROLLOUT,
    learning_phases,
    reading_phases,
)
from chatllama_pipeline.models.memory.sizes import ModelSize, model_size
from chatllama_pipeline.records import Check
from chatllama_pipeline.settings import SECTION_OF, AssistantSettings, LoraSettings, model_section
from chatllama_pipeline.store.model_files import base_folder, has_adapter, weights_digest

GIB = 2**30
# Weights are held in float32; training adds a gradient and AdamW's two moments per weight.
FROZEN_BYTES, TRAINED_BYTES = 4, 16
HALF_BYTES = 2


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a stage needs: `held` all the while, and those that pass in each of its phases.

    `available_bytes` are free, `taken_bytes` this process had when the plan was made.
    `checkpointing` says whether activations are computed again: as the settings ask, and where
    they leave it open, if the stage would not fit without.
    """

    held: dict[str, int]
    phases: dict[str, dict[str, int]]
    available_bytes: int
    checkpointing: bool
    taken_bytes: int = 0

    @property
    def phase(self) -> str:
        """The phase of the peak."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> dict[str, int]:
        """What there is at the peak."""
        return self.held | self.phases[self.phase]

    @property
    def needed_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.available_bytes

    def metrics(self) -> dict[str, Any]:
        """What stands beside the measured `peak_gib` of the process."""
        planned = (self.taken_bytes + self.needed_bytes) / GIB
        return {"planned_gib": round(planned, 3), "planned_peak_in": self.phase}


def memory_plan(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    means: Means,
    longest_row: int | None = None,
) -> MemoryPlan:
    """What `stage` needs with the models in `base_folders` (role -> folder), by these `means`.

    Roles: `actor` for actor_sft; `reward` for reward_model; `policy`, `reference`, `critic` and
    `reward` for actor_ppo; `policy` for actor_dpo and actor_kto, with `reward` for actor_best_of_n.
    `longest_row` is the longest conversation in tokens where the caller has counted them, else the
    stage's max_sequence_length stands in. An estimate: weights, gradients and Adam's moments are
    exact (frozen weights that roles share count once), activations follow a Llama-like block.
    """
    asked = settings.at(f"{SECTION_OF[stage]}.activation_checkpointing")
    # On a CPU the processes share what is free.
    here = means.here if means.device == "cpu" else 1
    available = free_bytes(means.device) // here
    plan = _plan(stage, base_folders, settings, means, longest_row, available, bool(asked))
    if asked is None and not plan.fits:
        plan = _plan(stage, base_folders, settings, means, longest_row, available, True)
    return dataclasses.replace(plan, taken_bytes=own_bytes(means.device))


def with_micro_batch(
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    means: Means,
    longest_row: int,
) -> AssistantSettings:
    """`settings` of actor_ppo with a `micro_batch_size` where they leave it open.

    A CPU hardly gains from larger forwards, and with adapters on one base the activations are most
    of the memory: the minibatch is halved until those of a model are small, or no more than what
    is held anyway. Free memory has no say, so a continued training adds up its gradients alike.
    """
    ppo = settings.trainer_config
    share = max(1, ppo.minibatch_size // means.processes)
    if ppo.micro_batch_size is not None or means.device != "cpu":
        return settings
    rows = share
    while rows > 1:
        chosen = ppo.model_copy(update={"micro_batch_size": rows})
        tried = settings.model_copy(update={"trainer_config": chosen})
        held, learning = _held_and_learning(
            "actor_ppo", base_folders, tried, means, longest_row,
            bool(ppo.activation_checkpointing),
        )  # fmt: skip
        passing = max(sum(parts.values()) for parts in learning.values())
        if passing <= max(SMALL_BYTES, sum(held.values())):
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
    means: Means,
    longest_row: int | None,
    available: int,
    checkpointing: bool,
) -> MemoryPlan:
    limit = int(settings.at(f"{model_section(stage)}.max_sequence_length"))
    longest = min(longest_row or limit, limit)
    holes = means.device == "cpu" and leaves_holes()
    held, learning = _held_and_learning(
        stage, base_folders, settings, means, longest, checkpointing, holes
    )
    phases = learning_phases(stage, learning, means)
    phases |= reading_phases(stage, base_folders, settings, means, longest)
    return MemoryPlan(held, phases, available, checkpointing)


def _held_and_learning(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    means: Means,
    longest: int,
    checkpointing: bool,
    holes: bool = False,
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Parts that stand all the while, and of each trained role those that a step passes through.

    With `holes` tensors that are freed leave as much again, where they aren't mapped one by one.
    """
    tokens = _conversations_per_forward(stage, settings, means) * longest
    held: dict[str, int] = {}
    learning: dict[str, dict[str, int]] = {}
    shared: set[str] = set()
    for role, name in base_folders.items():
        folder, size = Path(name), model_size(Path(name))
        trained = _is_trained(role, stage, settings)
        adapted = trained and _has_adapter(role, stage, settings)
        if trained and not adapted:
            share = _held_of_a_weight(means)
            held[f"{role} weights"] = round(size.weights * share.weight)
            held[f"{role} gradients and Adam"] = round(size.weights * share.gradient_and_adam)
        elif means.zero_stage == 3 and (trained or (stage == "actor_ppo" and _in_parts(means))):
            # Each role has its own parts: no base is shared.
            held[f"{role} weights"] = size.weights * FROZEN_BYTES // means.processes
        elif (base := weights_digest(base_folder(folder))) not in shared:
            shared.add(base)
            held[f"{role} weights"] = size.weights * FROZEN_BYTES
        lora = _lora(role, settings)
        if adapted or has_adapter(folder):
            of_a_weight = TRAINED_BYTES if adapted else FROZEN_BYTES
            held[f"{role} adapter"] = adapter_size(folder, lora).weights * of_a_weight
        if trained:
            width = HALF_BYTES if means.bfloat16 else FLOAT_BYTES
            adapter = adapter_size(folder, lora) if adapted else None
            # PPO's models read in eval mode, those of other methods without noise.
            dropout = stage not in _OF_THE_ACTOR and lora.lora_dropout > 0
            kept = _activation_bytes(size, tokens, checkpointing, width, adapter, dropout)
            passing = {f"{role} activations": kept}
            if holes and tokens * size.hidden * width < MAPPED_BYTES:
                passing[f"holes between {role} activations"] = kept
            if role in _WITH_LOGITS:
                logits = tokens * LOGIT_COPIES * size.vocabulary * FLOAT_BYTES
                passing[f"{role} logits"] = logits
            learning[role] = passing
    return held, learning


def as_check(stage: str, plan: MemoryPlan) -> Check:
    """The blocking check `memory_plan`: the need against what is free, in GiB, and the cure."""
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:3]
    shares = ", ".join(f"{name} {size / GIB:.2f}" for name, size in largest)
    section = SECTION_OF[stage]
    text = (
        f"{stage} needs about {plan.needed_bytes / GIB:.2f} GiB, most in {plan.phase} ({shares}), "
        f"{plan.available_bytes / GIB:.2f} GiB are free"
    )
    if plan.checkpointing:
        text += ", with activation checkpointing"
    if not plan.fits:
        text += (
            f": {_cure(plan, section)}lower {model_section(stage)}.max_sequence_length, "
            "train a LoRA adapter (peft_enable: true), or take a smaller model"
        )
    return Check(
        MEMORY_PLAN, plan.fits, True, plan.needed_bytes / GIB, plan.available_bytes / GIB, text
    )


def _cure(plan: MemoryPlan, section: str) -> str:
    """What helps first where `plan` has its peak."""
    if plan.phase == ROLLOUT:
        return f"lower {section}.rollout_batch_size, then "
    if plan.phase not in LEARNING:
        return ""  # as few rows as may be are read at once
    again = "" if plan.checkpointing else f", set {section}.activation_checkpointing: true"
    return f"lower {section}.micro_batch_size{again}, then "


def require_memory(
    stage: str,
    base_folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    means: Means,
    longest_row: int | None = None,
) -> tuple[Check, MemoryPlan]:
    """`memory_plan` as a check, and the plan behind it.

    Raises CheckError where the check fails: before any weights are loaded.
    """
    plan = memory_plan(stage, base_folders, settings, means, longest_row)
    check = as_check(stage, plan)
    if not check.passed:
        raise CheckError(check.description, [check])
    return check, plan


_TRAINED = {
    "reward_model": ("reward",),
    "actor_sft": ("actor",),
    "actor_ppo": ("policy", "critic"),
    "actor_dpo": ("policy",),
    "actor_kto": ("policy",),
    "actor_best_of_n": ("policy",),
}
# Trainings that improve the SFT actor.
_OF_THE_ACTOR = ("actor_ppo", "actor_dpo", "actor_kto", "actor_best_of_n")
# Trainings whose rows are pairs of replies.
_IN_PAIRS = ("reward_model", "actor_dpo")
_WITH_LOGITS = ("actor", "policy")


class Held(NamedTuple):
    """Bytes that one process holds of a trained weight, and of its gradient and moments."""

    weight: float
    gradient_and_adam: float


def _in_parts(means: Means) -> bool:
    """Whether processes share out what they only read, too."""
    return means.deepspeed is not None and not means.deepspeed.weights_in_files


def _held_of_a_weight(means: Means) -> Held:
    """ZeRO 1 shards Adam's two moments, 2 the gradient too, 3 the weight too.

    Where rows are read by whole weights, `phases` tell of it.
    """
    ranks, level = means.processes, means.zero_stage
    weight = FROZEN_BYTES / (ranks if level == 3 else 1)
    gradient = FLOAT_BYTES / (ranks if level >= 2 else 1)
    moments = 2 * FLOAT_BYTES / (ranks if level >= 1 else 1)
    if means.keeps_moments_on_cpu:
        moments = 0
    return Held(weight, gradient + moments)


def _conversations_per_forward(stage: str, settings: AssistantSettings, means: Means) -> int:
    both_replies = 2 if stage in _IN_PAIRS else 1
    return both_replies * settings.training(stage).rows_per_forward(means.processes)


def _is_trained(role: str, stage: str, settings: AssistantSettings) -> bool:
    return settings.learns(stage) and role in _TRAINED[stage]


def _has_adapter(role: str, stage: str, settings: AssistantSettings) -> bool:
    if stage in _OF_THE_ACTOR:
        return settings.policy_has_adapter if role == "policy" else settings.critic_has_adapter
    section = settings.reward_config if stage == "reward_model" else settings.actor_config
    return section.peft_enable


def _lora(role: str, settings: AssistantSettings) -> LoraSettings:
    if role == "reward":
        return settings.reward_config.lora
    return settings.critic_config.lora if role == "critic" else settings.actor_config.lora


def _activation_bytes(
    size: ModelSize, tokens: int, checkpointing: bool, width: int, adapter: AdapterSize | None,
    dropout: bool,
) -> int:  # fmt: skip
    """What all layers keep of `tokens` tokens, and what passes through one in the backward pass."""
    passing = layer_floats(size.hidden, size.intermediate)
    kept = size.layers * passing
    if adapter is not None:
        beneath = size.layers * frozen_layer_floats(size.hidden, size.intermediate)
        # Each layer drops out of a copy of its own; else those with the same input share it.
        dropped = beneath + DROPOUT_COPIES * adapter.inputs
        kept = dropped if dropout else min(kept, beneath + adapter.inputs)
    if checkpointing:
        # Each layer's input, and one layer that is being computed again.
        kept = size.layers * size.hidden + kept // max(1, size.layers)
    return tokens * (kept + passing) * width
