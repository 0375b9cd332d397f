"""From the SFT actor to a better one as SFT is trained: what DPO, KTO and best of n share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from chatllama_pipeline.models.adapters.lora import (
    add_adapter,
    merge_adapter,
    set_trainable,
    trained_share,
    without_dropout,
)
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.generation import generate_plainly
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.memory.efficiency import make_efficient
from chatllama_pipeline.models.memory.passes import batches, shape_of
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.models.sharding.loading import unless_adapted
from chatllama_pipeline.models.sharding.parts import in_turn
from chatllama_pipeline.progress import Progress, phase
from chatllama_pipeline.records import Check, Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.model_files import has_adapter
from chatllama_pipeline.training import COLLAPSE, REWARD_CHEATS, REWARD_HACKING
from chatllama_pipeline.training.course import Task
from chatllama_pipeline.training.distributed import place, sharing
from chatllama_pipeline.training.plan import TrainingPlan, begin, decide
from chatllama_pipeline.training.sft.stage import predicted
from chatllama_pipeline.training.trainer import save_trained, train

R = TypeVar("R")


@dataclass(frozen=True)
class Rows(Generic[R]):
    """The rows of both splits that fit, what they are called, and what is told of the others."""

    name: str
    train: Sequence[R]
    held_out: Sequence[R]
    metrics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Method(Generic[R]):
    """What a method that learns from rows is.

    `read` gives the rows that fit in so many tokens (tokenizer, tokens); `length` a row's tokens;
    `with_reference` the rows with what a model says of them, that of the SFT actor before it
    learns (model, rows, id of padding); `task` what is trained (training rows, held-out rows, id
    of padding).
    """

    name: str
    read: Callable[[Any, int], Rows[R]]
    length: Callable[[R], int]
    with_reference: Callable[[Any, Sequence[R], int], Sequence[R]]
    task: Callable[[Sequence[R], Sequence[R], int], Task]


def improve(spec: StageSpec, progress: Progress, method: Method[R]) -> Outcome:
    """Train the actor by `method`; writes its folder and `curves.json`.

    Raises DataError where no row fits, CheckError where memory would not do. Too many non-finite
    losses give a failed check and no payload.
    """
    quiet_transformers()
    plan, rows = prepare(spec, AssistantSettings.of_stage(spec), method, progress)
    tokenizer, pad_id = plan.tokenizer, plan.tokenizer.pad_token_id
    policy = load_policy(plan, progress)
    place(policy, spec.device)
    narrow = torch.autocast(spec.device, torch.bfloat16, enabled=plan.means.bfloat16)
    with narrow, in_turn(policy):
        learned = method.with_reference(policy, rows.train, pad_id)
        held_out = method.with_reference(policy, rows.held_out, pad_id)
    make_efficient(policy, plan.section, plan.section_name, plan.memory.checkpointing)
    training = train(policy, method.task(learned, held_out, pad_id), plan, progress)
    with training.whole():
        if training.finite_loss.passed and training.is_main:
            generate_plainly(policy, tokenizer, stop_ids(tokenizer))
            save_trained(Path(spec.output), policy, tokenizer, training.curves)
    return Outcome(
        rows=len(learned),
        metrics={
            "preflight": _told(plan, rows),
            **rows.metrics,
            "steps": training.steps,
            "train_seconds": training.seconds,
            **plan.memory.metrics(),
            **training.last_figures,
        },
        checks=[
            plan.fits,
            training.finite_loss,
            no_replies(method.name),
            *no_climb(method.name),
        ],
        curves=training.curves,
        warnings=[*plan.before.warnings, *rows.warnings, *training.warnings],
    )


def prepare(
    spec: StageSpec, settings: AssistantSettings, method: Method[R], progress: Progress
) -> tuple[TrainingPlan, Rows[R]]:
    """The rows that fit, and the plan for them."""
    sft = Path(spec.inputs["actor_sft"])
    known = begin(spec, settings, sft)
    rows = method.read(known.tokenizer, known.before.context)
    longest = max(method.length(row) for row in chain(rows.train, rows.held_out))
    plan = decide(known, {"policy": sft}, longest, len(rows.train))
    progress.say(f"{_told(plan, rows)}; {plan.fits.description}")
    return plan, rows


def _told(plan: TrainingPlan, rows: Rows[R]) -> str:
    return f"{plan.before}; {len(rows.train)} {rows.name}, longest {plan.longest} tokens"


def no_replies(method: str) -> Check:
    """The check `collapse` of a method that writes no replies while it learns."""
    told = f"improve_by: {method} writes no replies to look at"
    return Check(COLLAPSE, True, False, 0.0, 0.0, told)


def no_climb(method: str) -> list[Check]:
    """The checks of a reward that is climbed, of a method that climbs none step by step."""
    told = f"improve_by: {method} climbs no reward"
    return [Check(name, True, False, 0.0, 0.0, told) for name in (REWARD_CHEATS, REWARD_HACKING)]


def load_policy(plan: TrainingPlan, progress: Progress) -> Any:
    """The SFT actor, with the weights that learn set, and no dropout.

    What it says before it learns is the reference, so it starts from the SFT adapter where there
    is one. Noise would pass for a move away from the reference.
    """
    sft, settings = plan.folders["policy"], plan.settings
    shared = sharing(plan.means)
    if not settings.policy_has_adapter:
        return merge_adapter(load_actor(sft, torch.float32, unless_adapted(sft, shared)))
    policy = load_actor(sft, torch.float32, shared)
    if not has_adapter(sft):
        lora, start = settings.actor_config.lora, plan.seed_of("policy adapter")
        add_adapter(policy, lora, "actor_config", sft, start)
    set_trainable(policy)
    progress.say(trained_share(policy))
    return without_dropout(policy)


def left_out(name: str, train: int, held_out: int, context: int) -> list[str]:
    """The warning that so many rows of that name are too long; nothing where there are none."""
    if train + held_out == 0:
        return []
    return [
        f"{train} training and {held_out} validation {name} are longer than "
        f"actor_config.max_sequence_length, or than the model allows ({context}), and were left out"
    ]


def reply_nats(model: Any, batch: dict[str, Any]) -> Tensor:
    """The log-probability (nats) of each whole reply of a batch as `predicted` reads it, `[B]`."""
    found = predicted(model, batch)
    nats = -F.cross_entropy(found.logits, found.targets, reduction="none")
    rows = torch.zeros(len(batch["input_ids"]), device=nats.device)
    return rows.index_add(0, found.rows, nats)


def read_alike(model: Any, lengths: Sequence[int], what: str) -> Iterator[list[int]]:
    """The numbers of rows of so many tokens, those of like length together, as many as are read at
    once; so little is computed on padding. `what` this is for is told."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    ordered = [lengths[row] for row in order]
    counter = phase(what, sum(lengths), "tokens")
    for rows in batches(ordered, shape_of(model), logits=True):
        yield order[rows]
        counter.advance(sum(ordered[rows]))
