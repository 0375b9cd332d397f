"""The DPO stage: the SFT actor learns from preference pairs alone (Rafailov et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.machine import wants_bfloat16
from chatllama_pipeline.models.adapters.lora import (
    add_adapter,
    merge_adapter,
    set_trainable,
    trained_share,
    without_dropout,
)
from chatllama_pipeline.models.bases.preflight import preflight
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.generation import generate_plainly
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.loading import load_config, load_tokenizer
from chatllama_pipeline.models.memory.efficiency import make_efficient
from chatllama_pipeline.models.memory.plan import require_memory
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Outcome, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings, DpoSettings
from chatllama_pipeline.store.layout import has_adapter
from chatllama_pipeline.training import COLLAPSE
from chatllama_pipeline.training.course import Task
from chatllama_pipeline.training.distributed import place_trained
from chatllama_pipeline.training.dpo.equations import PairNats, losses, margins
from chatllama_pipeline.training.dpo.pairs import (
    CHOSEN,
    REJECTED,
    DpoPair,
    all_nats,
    collate_pairs,
    pair_nats,
    read_pairs,
    with_reference,
)
from chatllama_pipeline.training.reward.equations import win_share
from chatllama_pipeline.training.trainer import save_trained, train

STAGE, TRAINING = "actor_ppo", "actor_dpo"
NO_REPLIES = Check(COLLAPSE, True, False, 0.0, 0.0, "improve_by: dpo writes no replies to look at")


@dataclass(frozen=True)
class Pairs:
    """The pairs of both splits that fit, and how many of each didn't."""

    train: list[DpoPair]
    held_out: list[DpoPair]
    too_long: int
    too_long_held_out: int


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the actor on pairs; writes its folder and `curves.json`.

    Raises DataError where there is no pair that fits, CheckError where memory would not do. Too
    many non-finite losses give a failed check and no payload.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    dpo, sft = settings.dpo_config, Path(spec.inputs["actor_sft"])
    tokenizer, config = load_tokenizer(sft), load_config(sft)
    before = preflight(tokenizer, config, "actor_config", settings.actor_config.max_sequence_length)
    pairs = _pairs(Path(spec.inputs["preference_data"]), tokenizer, before.context)
    longest = max(pair.longest for pair in pairs.train + pairs.held_out)
    memory, plan = require_memory(TRAINING, {"policy": sft}, settings, longest, spec.device)
    told = f"{before}; {len(pairs.train)} pairs, longest {longest} tokens"
    progress.say(f"{told}; {memory.description}")

    policy = _load(sft, settings, progress)
    pad_id = tokenizer.pad_token_id
    place_trained(policy, spec.device, None, bfloat16=False)
    half = wants_bfloat16(dpo.precision, spec.device)
    with torch.autocast(spec.device, torch.bfloat16, enabled=half):
        rows = with_reference(policy, pairs.train, pad_id)
        held_out = with_reference(policy, pairs.held_out, pad_id)
    make_efficient(policy, dpo, "dpo_config", plan.checkpointing)
    task = Task(
        rows=rows,
        collate=partial(collate_pairs, pad_id=pad_id),
        loss_sum=partial(dpo_loss_sum, dpo=dpo),
        validate=partial(_validate, held_out, pad_id, dpo),
        judged_by=("validation_loss", False),
        length=lambda pair: pair.longest,
    )
    training = train(policy, task, spec, progress)
    with training.whole():
        if training.finite_loss.passed and training.is_main:
            generate_plainly(policy, tokenizer, stop_ids(tokenizer))
            save_trained(Path(spec.output), policy, tokenizer, training.curves)
    return Outcome(
        rows=len(rows),
        metrics={
            "preflight": told,
            "dropped_too_long": pairs.too_long,
            "steps": training.steps,
            "train_seconds": training.seconds,
            **plan.metrics(),
            **training.last_figures,
        },
        checks=[memory, training.finite_loss, NO_REPLIES],
        curves=training.curves,
        warnings=[*before.warnings, *_left_out(pairs, before.context), *training.warnings],
    )


def _pairs(folder: Path, tokenizer: Any, context: int) -> Pairs:
    train, too_long = read_pairs(folder, tokenizer, "train", context)
    held_out, too_long_held_out = read_pairs(folder, tokenizer, "validation", context)
    if not train:
        none = f"none of the {too_long} training pairs fits" if too_long else "there is no pair"
        raise DataError(
            f"improve_by: dpo learns from pairs alone, and {none} ({folder}, at most {context} "
            "tokens by actor_config.max_sequence_length and the model): name a source under "
            "data.sources, add pairs of your own, raise the length, or improve by ppo"
        )
    return Pairs(train, held_out, too_long, too_long_held_out)


def _left_out(pairs: Pairs, context: int) -> list[str]:
    if pairs.too_long + pairs.too_long_held_out == 0:
        return []
    return [
        f"{pairs.too_long} training and {pairs.too_long_held_out} validation pairs are longer than "
        f"actor_config.max_sequence_length, or than the model allows ({context}), and were left out"
    ]


def _load(sft: Path, settings: AssistantSettings, progress: Progress) -> Any:
    """The SFT actor, with the weights that learn set, and no dropout.

    What it says before it learns is the reference, so it starts from the SFT adapter where there
    is one. Noise would pass for a move away from the reference.
    """
    policy = load_actor(sft, torch.float32)
    if not settings.policy_has_adapter:
        return merge_adapter(policy)
    if not has_adapter(sft):
        start = stage_seed(stage_seed(settings.seed, STAGE), "policy adapter")
        add_adapter(policy, settings.actor_config.lora, "actor_config", sft, start)
    set_trainable(policy)
    progress.say(trained_share(policy))
    return without_dropout(policy)


def dpo_loss_sum(model: Any, batch: dict[str, Any], dpo: DpoSettings) -> torch.Tensor:
    """Sum of the losses of a batch of `collate_pairs`."""
    reference = PairNats(batch[CHOSEN], batch[REJECTED])
    margin = margins(pair_nats(model, batch), reference, beta=dpo.beta)
    return losses(margin, label_smoothing=dpo.label_smoothing).sum()


def _validate(
    held_out: list[DpoPair], pad_id: int, dpo: DpoSettings, model: Any
) -> dict[str, float]:
    """Loss, share of held-out pairs whose chosen reply gained more, and the mean margin."""
    if not held_out:
        return {}
    reference = PairNats(
        torch.tensor([pair.reference_chosen for pair in held_out]),
        torch.tensor([pair.reference_rejected for pair in held_out]),
    )
    said = all_nats(model, held_out, pad_id, "validates on")
    margin = margins(said, reference, beta=dpo.beta)
    found = losses(margin, label_smoothing=dpo.label_smoothing)
    return {
        "validation_loss": float(found.mean()),
        "validation_accuracy": win_share(margin, torch.zeros_like(margin)),
        "validation_margin": float(margin.mean()),
    }
