"""The reward stage: a model that scores replies, from preference pairs and from 0..5 scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from chatllama_pipeline.data.tables import as_prompt, read_split
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.chat import conversation_ids
from chatllama_pipeline.models.heads import (
    MAX_LENGTH,
    SCORE_SCALE,
    SCORE_SHIFT,
    last_token_scores,
    load_reward,
    pad_right,
    score_rows,
)
from chatllama_pipeline.models.memory import require_memory
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, Split, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings, RewardSettings
from chatllama_pipeline.training.reward_math import (
    bradley_terry,
    centering,
    pair_accuracy,
    shift_and_scale,
    strength_margin,
)
from chatllama_pipeline.training.trainer import WEIGHT, Task, save_trained, train

STAGE = "reward_model"
# Mean and deviation of the scores come from an even sample of the training replies of about this
# size: their standard error is then 2 % of a deviation, and large sets are not read once more.
NORMALISATION_REPLIES = 2048


@dataclass(frozen=True)
class Pair:
    """Token ids of two replies to one prompt, the end token included."""

    chosen: list[int]
    rejected: list[int]
    margin: float


@dataclass(frozen=True)
class Scored:
    """Token ids of a reply with its z-normalised score."""

    ids: list[int]
    score: float


Item = Pair | Scored


@dataclass(frozen=True)
class Items:
    """One split, tokenized; `too_long` rows were left out since a reply is never cut."""

    pairs: list[Pair]
    scored: list[Scored]
    too_long: int


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the scoring model; writes its folder (normalisation in the config) and `curves.json`.

    Raises DataError where there is nothing to learn from, CheckError where memory would not do.
    A non-finite loss gives a failed check and no payload.
    """
    quiet_transformers()
    settings = AssistantSettings.model_validate(spec.settings)
    reward, seed = settings.reward_config, stage_seed(settings.seed, STAGE)
    base = Path(spec.inputs["reward_base"])
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    pad_id = tokenizer.pad_token_id
    items = _read(spec, tokenizer, reward, "train")
    held_out = _read(spec, tokenizer, reward, "validation")
    chosen, warnings = _learned_from(items, reward, spec)
    longest = max(len(row) for row in _rows(chosen))
    memory = require_memory(STAGE, {"reward": base}, settings, longest)
    progress.say(
        f"{len(items.pairs)} pairs, {len(items.scored)} scored replies, "
        f"longest {longest} tokens; {memory.description}"
    )

    torch.manual_seed(seed)  # of the fresh head
    model = load_reward(base, torch.float32)
    model.config.pad_token_id = pad_id
    task = Task(
        rows=chosen,
        collate=partial(collate_items, pad_id=pad_id),
        loss_sum=partial(reward_loss_sum, centering_weight=reward.centering),
        validate=partial(_validate, held_out, pad_id),
    )
    training = train(
        model,
        task,
        reward,
        seed=seed,
        device=spec.device,
        run_folder=Path(spec.run_folder),
        progress=progress,
    )
    if training.finite_loss.passed:
        _normalise(model, _rows([*items.pairs, *items.scored]), pad_id)
        setattr(model.config, MAX_LENGTH, reward.max_sequence_length)
        save_trained(Path(spec.output), model, tokenizer, training.curves)
    too_long = items.too_long + held_out.too_long
    return Outcome(
        rows=len(chosen),
        metrics={
            "pairs": len(items.pairs),
            "scored_replies": len(items.scored),
            "dropped_too_long": too_long,
            "steps": training.steps,
            "train_seconds": training.seconds,
            **training.last_figures,
        },
        checks=[memory, training.finite_loss],
        curves=training.curves,
        warnings=[*warnings, *_left_out(too_long, reward), *training.warnings],
    )


def _left_out(too_long: int, reward: RewardSettings) -> list[str]:
    if too_long == 0:
        return []
    return [
        f"{too_long} rows are longer than reward_config.max_sequence_length "
        f"({reward.max_sequence_length}) and were left out"
    ]


def reward_loss_sum(model: Any, batch: dict[str, Any], centering_weight: float) -> torch.Tensor:
    """Sum over a batch's pairs (Bradley-Terry, centering) and scored replies (squared error).

    `input_ids[2P + S, L]` and `attention_mask` hold P chosen, P rejected, S scored replies, all in
    one forward; `margin[P]`, `score[S]`.
    """
    scores = last_token_scores(model, batch["input_ids"], batch["attention_mask"])
    pairs = len(batch["margin"])
    chosen, rejected, scored = scores[:pairs], scores[pairs : 2 * pairs], scores[2 * pairs :]
    ranking = bradley_terry(chosen, rejected, batch["margin"])
    ranking = ranking + centering_weight * centering(chosen, rejected)
    regression: torch.Tensor = (scored - batch["score"]) ** 2
    return ranking.sum() + regression.sum()


def collate_items(items: list[Item], pad_id: int) -> dict[str, Any]:
    """Pairs and scored replies as one right-padded batch; the weight is the number of items."""
    pairs = [item for item in items if isinstance(item, Pair)]
    scored = [item for item in items if isinstance(item, Scored)]
    ids, mask = pad_right(_rows([*pairs, *scored]), pad_id)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "margin": torch.tensor([pair.margin for pair in pairs]),
        "score": torch.tensor([row.score for row in scored]),
        WEIGHT: len(items),
    }


def _rows(items: list[Any]) -> list[list[int]]:
    """Token ids: all chosen replies, then all rejected ones, then the scored ones."""
    pairs = [item for item in items if isinstance(item, Pair)]
    return [
        *(pair.chosen for pair in pairs),
        *(pair.rejected for pair in pairs),
        *(item.ids for item in items if isinstance(item, Scored)),
    ]


def _learned_from(
    items: Items, reward: RewardSettings, spec: StageSpec
) -> tuple[list[Item], list[str]]:
    """The items that the objective asks for, and what it asked for in vain."""
    asked: dict[str, tuple[Sequence[Item], str, str]] = {
        "pairwise": (items.pairs, spec.inputs["preference_data"], "preference pairs"),
        "scores": (items.scored, spec.inputs["reward_training_data"], "scored replies"),
    }
    if reward.objective != "both":
        asked = {reward.objective: asked[reward.objective]}
    missing = [f"{what} ({folder})" for found, folder, what in asked.values() if not found]
    chosen: list[Item] = [item for found, _, _ in asked.values() for item in found]
    if not chosen:
        raise DataError(
            f"reward_config.objective is {reward.objective} and there are no training rows: no "
            f"{' and no '.join(missing)} within reward_config.max_sequence_length "
            f"({reward.max_sequence_length}); add data.sources, score replies, or raise the length"
        )
    return chosen, [
        f"reward_config.objective is both, but there are no {what}: learned without them"
        for what in missing
    ]


def _read(spec: StageSpec, tokenizer: Any, reward: RewardSettings, split: Split) -> Items:
    """One split's pairs and scored replies as token ids."""
    too_long = 0
    limit = reward.max_sequence_length
    pairs: list[Pair] = []
    for row in read_split(spec.inputs["preference_data"], split):
        pair = _pair(tokenizer, row, limit)
        if max(len(pair.chosen), len(pair.rejected)) > limit:
            too_long += 1
        else:
            pairs.append(pair)
    rows = read_split(spec.inputs["reward_training_data"], split)
    scored: list[tuple[list[int], float]] = []
    for row in rows:
        if row["score"] is not None:
            ids, _ = conversation_ids(tokenizer, as_prompt(row["prompt"]), row["completion"], limit)
            if len(ids) > limit:
                too_long += 1
            else:
                scored.append((ids, row["score"]))
    shift, scale = shift_and_scale(torch.tensor([score for _, score in scored]))
    return Items(pairs, [Scored(ids, (score - shift) / scale) for ids, score in scored], too_long)


def _pair(tokenizer: Any, row: dict[str, Any], limit: int) -> Pair:
    prompt = as_prompt(row["prompt"])
    chosen, chosen_start = conversation_ids(tokenizer, prompt, row["chosen"], limit)
    rejected, rejected_start = conversation_ids(tokenizer, prompt, row["rejected"], limit)
    # The longer reply may have cost the prompt more turns: both are read after the same prompt.
    if chosen_start < rejected_start:
        rejected = chosen[:chosen_start] + rejected[rejected_start:]
    elif rejected_start < chosen_start:
        chosen = rejected[:rejected_start] + chosen[chosen_start:]
    return Pair(chosen, rejected, strength_margin(row["strength"]))


def _validate(held_out: Items, pad_id: int, model: Any) -> dict[str, float]:
    """Share of held-out pairs ranked as people did; nothing where there are none."""
    pairs = len(held_out.pairs)
    if pairs == 0:
        return {}
    scores = score_rows(model, _rows(list(held_out.pairs)), pad_id)
    return {"validation_accuracy": pair_accuracy(scores[:pairs], scores[pairs:])}


def _normalise(model: Any, rows: list[list[int]], pad_id: int) -> None:
    """Put shift and scale of the raw scores on training replies into the model's config."""
    stride = -(-len(rows) // NORMALISATION_REPLIES)
    shift, scale = shift_and_scale(score_rows(model, rows[::stride], pad_id))
    setattr(model.config, SCORE_SHIFT, shift)
    setattr(model.config, SCORE_SCALE, scale)
