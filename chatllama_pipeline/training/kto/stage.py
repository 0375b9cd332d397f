"""The KTO stage: the SFT actor learns from thumbs alone (Ethayarajh et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.data.prepare.thumbs import require_both_kinds
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings, KtoSettings
from chatllama_pipeline.training.course import OF_STEP, Task
from chatllama_pipeline.training.kto.equations import losses
from chatllama_pipeline.training.kto.thumbs import (
    REFERENCE,
    REFERENCE_ELSEWHERE,
    UP,
    Thumb,
    all_nats,
    collate_thumbs,
    elsewhere_nats,
    read_thumbs,
    with_reference,
)
from chatllama_pipeline.training.offline import Method, Rows, improve, left_out, reply_nats

# (log-ratios, which are of a thumb up, KL) -> their losses: see `equations.losses`.
Weighed = Callable[[Tensor, Tensor, Tensor], Tensor]


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the actor on the thumbs of preference_data, or on its pairs: see `offline.improve`."""
    settings = AssistantSettings.of_stage(spec)
    seed = stage_seed(settings.seed, spec.stage, "replies elsewhere")
    waiting = Path(spec.run_folder)
    method = Method(
        name="kto",
        read=partial(_thumbs, Path(spec.inputs["preference_data"]), waiting, seed),
        length=lambda thumb: thumb.longest,
        with_reference=partial(with_reference, waiting),
        task=partial(_task, settings.kto_config),
    )
    return improve(spec, progress, method)


def _thumbs(folder: Path, waiting: Path, seed: int, tokenizer: Any, context: int) -> Rows[Thumb]:
    train = read_thumbs(folder, waiting, tokenizer, "train", context, seed)
    held_out = read_thumbs(folder, waiting, tokenizer, "validation", context, seed)
    if train.too_long and not train.thumbs:
        raise DataError(
            f"improve_by: kto learns from thumbs alone, and none of the {train.too_long} training "
            f"replies fits in {context} tokens, by actor_config.max_sequence_length and the model "
            f"({folder}): raise the length, or improve by ppo"
        )
    up, down = _kinds(train.thumbs)
    require_both_kinds(up, down)
    metrics = {
        "dropped_too_long": train.too_long,
        "contradicting_thumbs": train.contradicting,
        "thumbs_up": up,
        "thumbs_down": down,
    }
    told = left_out("replies", train.too_long, held_out.too_long, context)
    return Rows("replies with a thumb", train.thumbs, held_out.thumbs, metrics, told)


def _kinds(thumbs: Sequence[Thumb]) -> tuple[int, int]:
    up = sum(thumb.up for thumb in thumbs)
    return up, len(thumbs) - up


def _task(kto: KtoSettings, rows: Sequence[Thumb], held_out: Sequence[Thumb], pad_id: int) -> Task:
    desirable, undesirable = kto.weights(*_kinds(rows))
    weighed = partial(losses, beta=kto.beta, desirable=desirable, undesirable=undesirable)
    return Task(
        rows=rows,
        collate=partial(collate_thumbs, pad_id=pad_id),
        loss_sum=partial(kto_loss_sum, weighed=weighed),
        validate=partial(_validate, held_out, pad_id, weighed, kto.beta),
        judged_by=("validation_loss", False),
        length=lambda thumb: thumb.longest,
        of_step=gained_elsewhere,
    )


def gained_elsewhere(model: Any, batch: dict[str, Any]) -> Tensor:
    """Sum over a batch of how much more probable replies to other prompts are than they were."""
    gained: Tensor = elsewhere_nats(model, batch) - batch[REFERENCE_ELSEWHERE]
    return gained.sum()


def kto_loss_sum(model: Any, batch: dict[str, Any], weighed: Weighed) -> Tensor:
    """Sum of the losses of a batch of `collate_thumbs`; the KL is that of the whole step."""
    log_ratio = reply_nats(model, batch) - batch[REFERENCE]
    return weighed(log_ratio, batch[UP], batch[OF_STEP]).sum()


def _validate(
    held_out: Sequence[Thumb], pad_id: int, weighed: Weighed, beta: float, model: Any
) -> dict[str, float]:
    """Loss and KL over the held-out replies; and, where both kinds are among them, how much more
    of the implicit reward those have that were found good."""
    if not held_out:
        return {}
    own, elsewhere = all_nats(model, held_out, pad_id, "validates on")
    up = torch.tensor([thumb.up for thumb in held_out])
    log_ratio = own - torch.tensor([thumb.reference for thumb in held_out])
    kl = (elsewhere - torch.tensor([thumb.reference_elsewhere for thumb in held_out])).mean()
    figures = {
        "validation_loss": float(weighed(log_ratio, up, kl).mean()),
        "validation_kl": float(kl),
    }
    if up.any() and not up.all():
        reward = beta * log_ratio
        figures["validation_margin"] = float(reward[up].mean() - reward[~up].mean())
    return figures
