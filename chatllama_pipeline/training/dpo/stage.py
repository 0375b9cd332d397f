"""The DPO stage: the SFT actor learns from preference pairs alone (Rafailov et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings, DpoSettings
from chatllama_pipeline.training.course import Task
from chatllama_pipeline.training.dpo.equations import (
    PairNats,
    imitation_losses,
    losses,
    margins,
)
from chatllama_pipeline.training.dpo.pairs import (
    CHOSEN,
    REJECTED,
    TOKENS,
    DpoPair,
    all_nats,
    collate_pairs,
    pair_nats,
    read_pairs,
    with_reference,
)
from chatllama_pipeline.training.offline import Method, Rows, improve, left_out
from chatllama_pipeline.training.reward.equations import win_share


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the actor on the pairs of preference_data: see `offline.improve`."""
    dpo, waiting = AssistantSettings.of_stage(spec).dpo_config, Path(spec.run_folder)
    method = Method(
        name="dpo",
        read=partial(_pairs, Path(spec.inputs["preference_data"]), waiting),
        length=lambda pair: pair.longest,
        with_reference=partial(with_reference, waiting),
        task=partial(_task, dpo),
    )
    return improve(spec, progress, method)


def _pairs(folder: Path, waiting: Path, tokenizer: Any, context: int) -> Rows[DpoPair]:
    train, too_long = read_pairs(folder, waiting, tokenizer, "train", context)
    held_out, too_long_held_out = read_pairs(folder, waiting, tokenizer, "validation", context)
    if not train:
        none = f"none of the {too_long} training pairs fits" if too_long else "there is no pair"
        raise DataError(
            f"improve_by: dpo learns from pairs alone, and {none} ({folder}, at most {context} "
            "tokens by actor_config.max_sequence_length and the model): name a source under "
            "data.sources, add pairs of your own, raise the length, or improve by ppo"
        )
    told = left_out("pairs", too_long, too_long_held_out, context)
    return Rows("pairs", train, held_out, {"dropped_too_long": too_long}, told)


def _task(
    dpo: DpoSettings, rows: Sequence[DpoPair], held_out: Sequence[DpoPair], pad_id: int
) -> Task:
    return Task(
        rows=rows,
        collate=partial(collate_pairs, pad_id=pad_id),
        loss_sum=partial(dpo_loss_sum, dpo=dpo),
        validate=partial(_validate, held_out, pad_id, dpo),
        judged_by=("validation_loss", False),
        length=lambda pair: pair.longest,
    )


def dpo_loss_sum(model: Any, batch: dict[str, Any], dpo: DpoSettings) -> torch.Tensor:
    """Sum of the losses of a batch of `collate_pairs`."""
    said = pair_nats(model, batch)
    margin = margins(said, PairNats(batch[CHOSEN], batch[REJECTED]), beta=dpo.beta)
    return _losses(margin, said, batch[TOKENS], dpo).sum()


def _losses(
    margin: torch.Tensor, said: PairNats, tokens: torch.Tensor, dpo: DpoSettings
) -> torch.Tensor:
    """DPO's loss of each pair, and what imitating the chosen reply adds, `[P]`."""
    found = losses(margin, label_smoothing=dpo.label_smoothing)
    return found + dpo.rpo_alpha * imitation_losses(said.chosen, tokens)


def _validate(
    held_out: Sequence[DpoPair], pad_id: int, dpo: DpoSettings, model: Any
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
    tokens = torch.tensor([pair.chosen_tokens for pair in held_out])
    found = _losses(margin, said, tokens, dpo)
    return {
        "validation_loss": float(found.mean()),
        "validation_accuracy": win_share(margin, torch.zeros_like(margin)),
        "validation_margin": float(margin.mean()),
    }
