"""The reward stage: a model that scores replies, from preference pairs and from 0..5 scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.data.feedback.rows import SOURCE
from chatllama_pipeline.data.spill.rows import SpilledRows
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.adapters.lora import add_adapter, trained_share
from chatllama_pipeline.models.bases.preflight import rows_in_words
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import (
    MAX_LENGTH,
    READS_WHOLE,
    SCORE_SCALE,
    SCORE_SHIFT,
    load_reward,
    reads_whole,
    score_inputs,
    score_rows,
    scores,
    scoring_example,
)
from chatllama_pipeline.models.memory.efficiency import make_efficient
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Curve, Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings, RewardSettings
from chatllama_pipeline.training import FINITE_LOSS
from chatllama_pipeline.training.course import WEIGHT, Task
from chatllama_pipeline.training.distributed import sharing
from chatllama_pipeline.training.plan import TrainingPlan, begin, decide
from chatllama_pipeline.training.reward.equations import (
    bradley_terry,
    centering,
    score_errors,
    shift_and_scale,
    win_share,
)
from chatllama_pipeline.training.reward.items import (
    Item,
    Items,
    Pair,
    Scored,
    each_row,
    read_items,
    rows_of,
)
from chatllama_pipeline.training.reward.report import RewardReport, reward_report
from chatllama_pipeline.training.trainer import Training, save_trained, train

MARGIN, SCORE, MIDPOINT = "margin", "score", "midpoint"
# Mean and deviation of the scores come from an even sample of the training replies of about this
# size: their standard error is then 2 % of a deviation, and large sets are not read once more.
NORMALISATION_REPLIES = 2048


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the scoring model, or take it as it is (`reward_config.train: false`).

    Writes its folder, `curves.json` and `reward_report.json`. Raises SettingsError where tokenizer
    and model contradict each other, DataError, CheckError. A non-finite training gives no payload.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    plan, rows = prepare(spec, settings, progress)
    items, held_out, pad_id = rows.items, rows.held_out, plan.tokenizer.pad_token_id
    model = _load(plan, pad_id, progress)
    training = _trained(model, plan, rows, progress)
    report = None
    with training.whole():
        if training.finite_loss.passed:
            _normalise(model, items.rows, pad_id)
            setattr(model.config, MAX_LENGTH, plan.before.context)
            setattr(model.config, READS_WHOLE, rows.reads_whole)
            report = _publish(model, plan.tokenizer, held_out, training, Path(spec.output))
    left_out = _left_out(rows.too_long, plan.before.context)
    return Outcome(
        rows=len(rows.chosen),
        metrics={
            "preflight": f"{plan.before}; {rows.in_words}",
            "pairs": len(items.pairs),
            "scored_replies": len(items.scored),
            "dropped_too_long": rows.too_long,
            "steps": training.steps,
            "train_seconds": training.seconds,
            **plan.memory.metrics(),
            **training.last_figures,
            **(report.metrics() if report else {}),
        },
        checks=[plan.fits, training.finite_loss],
        curves=training.curves,
        warnings=[*plan.before.warnings, *rows.in_vain, *left_out, *training.warnings],
    )


@dataclass(frozen=True)
class Ratings:
    """What there is to learn from: `chosen` of `items`, as the objective has it.

    `in_vain` tells what it asked for and nobody has; for `reads_whole` see `heads`.
    """

    items: Items
    held_out: Items
    chosen: Sequence[Item]
    in_vain: list[str]
    reads_whole: bool

    @property
    def in_words(self) -> str:
        return rows_in_words(each_row(self.chosen), self.items.too_long)

    @property
    def too_long(self) -> int:
        """Rows of both splits that were left out for their length."""
        return self.items.too_long + self.held_out.too_long


def prepare(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> tuple[TrainingPlan, Ratings]:
    """The pairs and scored replies that fit, and the plan for them."""
    base, reward = Path(spec.inputs["reward_base"]), settings.reward_config
    known = begin(spec, settings, base)
    encode = partial(scoring_example, known.config, known.tokenizer)
    weight = settings.feedback.weight
    items = read_items(spec, encode, reward, known.before.context, "train", weight)
    held_out = read_items(spec, encode, reward, known.before.context, "validation")
    chosen, in_vain = _learned_from(items, reward, spec)
    longest = max(len(row.ids) for row in each_row(chosen))
    rated = sum(item.source == SOURCE for item in chosen)
    plan = decide(known, {"reward": base}, longest, len(chosen), rated)
    rows = Ratings(items, held_out, chosen, in_vain, reads_whole(known.config))
    progress.say(f"{plan.before}; {rows.in_words}")
    progress.say(
        f"{len(items.pairs)} pairs, {len(items.scored)} scored replies, "
        f"longest {longest} tokens; {plan.fits.description}"
    )
    return plan, rows


def _publish(
    model: Any, tokenizer: Any, held_out: Items, training: Training, output: Path
) -> RewardReport:
    """Write the model's folder and its report, which is returned."""
    report = reward_report(model, held_out, tokenizer.pad_token_id, "validation")
    if training.is_main:
        save_trained(output, model, tokenizer, training.curves)
        report.write(output)
    return report


def _load(plan: TrainingPlan, pad_id: int, progress: Progress) -> Any:
    """The scoring model, with the weights that learn set, if any do."""
    reward, base = plan.settings.reward_config, plan.folders["reward"]
    torch.manual_seed(plan.seed)  # of the fresh head
    model = load_reward(base, torch.float32, sharing(plan.means) if reward.train else None)
    model.config.pad_token_id = pad_id
    if not reward.train:
        return model.to(plan.means.device)
    if reward.peft_enable:
        add_adapter(model, reward.lora, "reward_config", base, plan.seed_of("adapter"))
        progress.say(trained_share(model))
    make_efficient(model, reward, plan.section_name, plan.memory.checkpointing)
    return model


def _trained(model: Any, plan: TrainingPlan, rows: Ratings, progress: Progress) -> Training:
    reward, pad_id = plan.settings.reward_config, plan.tokenizer.pad_token_id
    if not reward.train:
        return _as_it_is(model, rows.held_out, pad_id, plan.is_main)
    task = Task(
        rows=rows.chosen,
        collate=partial(collate_items, model, pad_id=pad_id),
        loss_sum=partial(reward_loss_sum, centering_weight=reward.centering),
        validate=partial(_validate, rows.held_out, pad_id),
        length=lambda item: max(len(row.ids) for row in each_row([item])),
        judged_by=("validation_accuracy", True),
    )
    return train(model, task, plan, progress)


def _as_it_is(model: Any, held_out: Items, pad_id: int, is_main: bool) -> Training:
    """The figures of a model that somebody else trained."""
    figures = _validate(held_out, pad_id, model.eval())
    curves = [Curve(name, [(0.0, value)]) for name, value in figures.items()]
    untouched = Check(FINITE_LOSS, True, True, 0.0, 0.0, "reward_config.train: false: no training")
    return Training(curves, 0.0, 0, [], untouched, is_main=is_main)


def _left_out(too_long: int, context: int) -> list[str]:
    if too_long == 0:
        return []
    return [
        f"{too_long} rows are longer than reward_config.max_sequence_length, or than the model "
        f"allows ({context}), and were left out"
    ]


def reward_loss_sum(model: Any, batch: dict[str, Any], centering_weight: float) -> torch.Tensor:
    """Sum over a batch's pairs (Bradley-Terry, centering) and scored replies (`score_errors`).

    The model's inputs hold P chosen, P rejected, S scored replies, all in one forward;
    `margin[P]`, `score[S]`, `midpoint[S]` (NaN where a score is no thumb).
    """
    told = (MARGIN, SCORE, MIDPOINT)
    inputs = {name: value for name, value in batch.items() if name not in told}
    found, pairs = scores(model, inputs), len(batch[MARGIN])
    chosen, rejected, scored = found[:pairs], found[pairs : 2 * pairs], found[2 * pairs :]
    ranking = bradley_terry(chosen, rejected, batch[MARGIN])
    ranking = ranking + centering_weight * centering(chosen, rejected)
    return ranking.sum() + score_errors(scored, batch[SCORE], batch[MIDPOINT]).sum()


def collate_items(model: Any, items: list[Item], pad_id: int) -> dict[str, Any]:
    """Pairs and scored replies as one batch for `model`; the weight is the number of items."""
    pairs = [item for item in items if isinstance(item, Pair)]
    scored = [item for item in items if isinstance(item, Scored)]
    return {
        **score_inputs(model, rows_of([*pairs, *scored]), pad_id),
        MARGIN: torch.tensor([pair.margin for pair in pairs]),
        SCORE: torch.tensor([row.score for row in scored]),
        MIDPOINT: torch.tensor(
            [math.nan if row.midpoint is None else row.midpoint for row in scored]
        ),
        WEIGHT: len(items),
    }


def _learned_from(
    items: Items, reward: RewardSettings, spec: StageSpec
) -> tuple[Sequence[Item], list[str]]:
    """The items that the objective asks for, and what it asked for in vain."""
    asked: dict[str, tuple[Sequence[Item], str, str]] = {
        "pairwise": (items.pairs, spec.inputs["preference_data"], "preference pairs"),
        "scores": (items.scored, spec.inputs["reward_training_data"], "scored replies"),
    }
    if reward.objective != "both":
        asked = {reward.objective: asked[reward.objective]}
    missing = [f"{what} ({folder})" for found, folder, what in asked.values() if not found]
    there = [found for found, _, _ in asked.values() if found]
    chosen = there[0] if len(there) == 1 else _joined(there, Path(spec.run_folder))
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


def _joined(parts: Sequence[Sequence[Item]], waiting: Path) -> Sequence[Item]:
    joined: SpilledRows[Item] = SpilledRows(waiting)
    for item in chain.from_iterable(parts):
        joined.append(item)
    return joined


def _validate(held_out: Items, pad_id: int, model: Any) -> dict[str, float]:
    """Share of held-out pairs ranked as people did; nothing where there are none."""
    pairs = len(held_out.pairs)
    if pairs == 0:
        return {}
    found = score_rows(model, Items(held_out.pairs, [], 0).rows, pad_id, "validates on")
    return {"validation_accuracy": win_share(found[:pairs], found[pairs:])}


def _normalise(model: Any, rows: Sequence[Example], pad_id: int) -> None:
    """Put shift and scale of the raw scores on training replies into the model's config."""
    stride = -(-len(rows) // NORMALISATION_REPLIES)
    found = score_rows(model, rows[::stride], pad_id, "normalises on")
    shift, scale = shift_and_scale(found)
    setattr(model.config, SCORE_SHIFT, shift)
    setattr(model.config, SCORE_SCALE, scale)
