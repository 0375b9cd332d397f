"""The reward stage: a model that scores replies, from preference pairs and from 0..5 scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from chatllama_pipeline.data.tables import as_prompt, read_split
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.adapters import add_adapter, trained_share
from chatllama_pipeline.models.chat import Example
from chatllama_pipeline.models.heads import (
    MAX_LENGTH,
    SCORE_SCALE,
    SCORE_SHIFT,
    load_reward,
    score_inputs,
    score_rows,
    scores,
    scoring_example,
)
from chatllama_pipeline.models.memory import require_memory
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, Prompt, Split, StageSpec
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
MARGIN, SCORE = "margin", "score"
# Mean and deviation of the scores come from an even sample of the training replies of about this
# size: their standard error is then 2 % of a deviation, and large sets are not read once more.
NORMALISATION_REPLIES = 2048


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, the end token included."""

    chosen: Example
    rejected: Example
    margin: float


@dataclass(frozen=True)
class Scored:
    """A reply with its z-normalised score."""

    row: Example
    score: float


Item = Pair | Scored
# (prompt, reply, longest allowed) -> the row that the model reads.
Encode = Callable[[Prompt, str, int], Example]


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
    encode = partial(scoring_example, AutoConfig.from_pretrained(str(base)), tokenizer)
    items = _read(spec, encode, reward, "train")
    held_out = _read(spec, encode, reward, "validation")
    chosen, warnings = _learned_from(items, reward, spec)
    longest = max(len(row.ids) for row in _rows(chosen))
    memory = require_memory(STAGE, {"reward": base}, settings, longest)
    progress.say(
        f"{len(items.pairs)} pairs, {len(items.scored)} scored replies, "
        f"longest {longest} tokens; {memory.description}"
    )

    torch.manual_seed(seed)  # of the fresh head
    model = load_reward(base, torch.float32)
    model.config.pad_token_id = pad_id
    if reward.peft_enable:
        add_adapter(model, reward.lora, "reward_config", base, stage_seed(seed, "adapter"))
        progress.say(trained_share(model))
    task = Task(
        rows=chosen,
        collate=partial(collate_items, model, pad_id=pad_id),
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

    The model's inputs hold P chosen, P rejected, S scored replies, all in one forward;
    `margin[P]`, `score[S]`.
    """
    inputs = {name: value for name, value in batch.items() if name not in (MARGIN, SCORE)}
    found, pairs = scores(model, inputs), len(batch[MARGIN])
    chosen, rejected, scored = found[:pairs], found[pairs : 2 * pairs], found[2 * pairs :]
    ranking = bradley_terry(chosen, rejected, batch[MARGIN])
    ranking = ranking + centering_weight * centering(chosen, rejected)
    regression: torch.Tensor = (scored - batch[SCORE]) ** 2
    return ranking.sum() + regression.sum()


def collate_items(model: Any, items: list[Item], pad_id: int) -> dict[str, Any]:
    """Pairs and scored replies as one batch for `model`; the weight is the number of items."""
    pairs = [item for item in items if isinstance(item, Pair)]
    scored = [item for item in items if isinstance(item, Scored)]
    return {
        **score_inputs(model, _rows([*pairs, *scored]), pad_id),
        MARGIN: torch.tensor([pair.margin for pair in pairs]),
        SCORE: torch.tensor([row.score for row in scored]),
        WEIGHT: len(items),
    }


def _rows(items: list[Any]) -> list[Example]:
    """All chosen replies, then all rejected ones, then the scored ones."""
    pairs = [item for item in items if isinstance(item, Pair)]
    return [
        *(pair.chosen for pair in pairs),
        *(pair.rejected for pair in pairs),
        *(item.row for item in items if isinstance(item, Scored)),
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


def _read(spec: StageSpec, encode: Encode, reward: RewardSettings, split: Split) -> Items:
    """One split's pairs and scored replies as token ids."""
    too_long = 0
    limit = reward.max_sequence_length
    pairs: list[Pair] = []
    for row in read_split(spec.inputs["preference_data"], split):
        pair = _pair(encode, row, limit)
        if max(len(pair.chosen.ids), len(pair.rejected.ids)) > limit:
            too_long += 1
        else:
            pairs.append(pair)
    rows = read_split(spec.inputs["reward_training_data"], split)
    scored: list[tuple[Example, float]] = []
    for row in rows:
        if row["score"] is not None:
            example = encode(as_prompt(row["prompt"]), row["completion"], limit)
            if len(example.ids) > limit:
                too_long += 1
            else:
                scored.append((example, row["score"]))
    shift, scale = shift_and_scale(torch.tensor([score for _, score in scored]))
    return Items(pairs, [Scored(row, (score - shift) / scale) for row, score in scored], too_long)


def _pair(encode: Encode, row: dict[str, Any], limit: int) -> Pair:
    prompt = as_prompt(row["prompt"])
    chosen = encode(prompt, row["chosen"], limit)
    rejected = encode(prompt, row["rejected"], limit)
    # The longer reply may have cost the prompt more turns: both are read after the same prompt.
    if chosen.cut_turns > rejected.cut_turns:
        rejected = _after(chosen, rejected)
    elif rejected.cut_turns > chosen.cut_turns:
        chosen = _after(rejected, chosen)
    return Pair(chosen, rejected, strength_margin(row["strength"]))


def _after(shorter: Example, other: Example) -> Example:
    """The reply of `other` behind the prompt of `shorter`."""
    prompt, reply = shorter.ids[: shorter.prompt_length], other.ids[other.prompt_length :]
    return Example(prompt + reply, shorter.prompt_length, shorter.cut_turns)


def _validate(held_out: Items, pad_id: int, model: Any) -> dict[str, float]:
    """Share of held-out pairs ranked as people did; nothing where there are none."""
    pairs = len(held_out.pairs)
    if pairs == 0:
        return {}
    found = score_rows(model, _rows(list(held_out.pairs)), pad_id)
    return {"validation_accuracy": pair_accuracy(found[:pairs], found[pairs:])}


def _normalise(model: Any, rows: list[Example], pad_id: int) -> None:
    """Put shift and scale of the raw scores on training replies into the model's config."""
    stride = -(-len(rows) // NORMALISATION_REPLIES)
    shift, scale = shift_and_scale(score_rows(model, rows[::stride], pad_id))
    setattr(model.config, SCORE_SHIFT, shift)
    setattr(model.config, SCORE_SCALE, scale)
