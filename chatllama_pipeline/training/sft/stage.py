"""The SFT stage: the actor imitates completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from chatllama_pipeline.data.feedback.rows import SOURCE, heeded
from chatllama_pipeline.data.spill.rows import SpilledRows
from chatllama_pipeline.data.tables import SplitRows, as_prompt
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.adapters.lora import add_adapter, trained_share
from chatllama_pipeline.models.bases.preflight import require_room, rows_in_words
from chatllama_pipeline.models.chat.template import Example, conversation
from chatllama_pipeline.models.families.kinds import Kind, kind_of, takes
from chatllama_pipeline.models.families.language import encoder_decoder_inputs, last_logits
from chatllama_pipeline.models.heads import load_actor, pad_right
from chatllama_pipeline.models.memory.efficiency import make_efficient
from chatllama_pipeline.models.memory.passes import batches, shape_of
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress, counted, phase
from chatllama_pipeline.records import Outcome, Split, StageSpec
from chatllama_pipeline.settings import ActorSettings, AssistantSettings
from chatllama_pipeline.training.course import WEIGHT, Task
from chatllama_pipeline.training.distributed import sharing
from chatllama_pipeline.training.plan import TrainingPlan, begin, decide
from chatllama_pipeline.training.sft.packing import collate_packed, heeds_borders
from chatllama_pipeline.training.trainer import save_trained, train


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the actor on completions; writes the model's folder and `curves.json`.

    Raises SettingsError where tokenizer and model contradict each other, DataError where no row
    fits, CheckError where memory would not do. Too many non-finite losses give a failed
    check and no payload.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    plan, rows = prepare(spec, settings, progress)
    model, pad_id = _load(plan, progress), plan.tokenizer.pad_token_id
    collate = partial(collate_completions, pad_id=pad_id)
    packed, unpacked = _packing(model, settings.actor_config, rows.examples, pad_id)
    task = Task(
        rows=rows.examples,
        collate=packed or collate,
        loss_sum=completion_loss_sum,
        validate=partial(validate, rows.held_out, pad_id),
        judged_by=("validation_loss", False),
        length=lambda example: len(example.ids),
    )
    training = train(model, task, plan, progress)
    with training.whole():
        if training.finite_loss.passed and training.is_main:
            save_trained(Path(spec.output), model, plan.tokenizer, training.curves)
    left_out = _left_out(rows.dropped, rows.dropped_held_out, plan.before.context)
    return Outcome(
        rows=len(rows.examples),
        metrics={
            "preflight": f"{plan.before}; {rows.in_words}",
            "dropped_too_long": rows.dropped,
            "steps": training.steps,
            "train_seconds": training.seconds,
            **plan.memory.metrics(),
            **training.last_figures,
        },
        checks=[plan.fits, training.finite_loss],
        curves=training.curves,
        warnings=[*plan.before.warnings, *unpacked, *training.warnings, *left_out],
    )


@dataclass(frozen=True)
class Conversations:
    """The rows of both splits as tokens, and how many are too long."""

    examples: Sequence[Example]
    held_out: Sequence[Example]
    dropped: int
    dropped_held_out: int

    @property
    def in_words(self) -> str:
        return rows_in_words(self.examples, self.dropped)


def prepare(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> tuple[TrainingPlan, Conversations]:
    """The rows that fit, and the plan for them."""
    base = Path(spec.inputs["actor_base"])
    known = begin(spec, settings, base)
    require_room(known.config, known.tokenizer, settings.actor_config)
    folders = Path(spec.inputs["actor_training_data"]), Path(spec.run_folder)
    read = partial(_examples, *folders, known.tokenizer, max_length=known.before.context)
    examples, dropped, rated = read("train", weight=settings.feedback.weight)
    held_out, dropped_held_out, _ = read("validation")
    rows = Conversations(examples, held_out, dropped, dropped_held_out)
    progress.say(f"{known.before}; {rows.in_words}")
    longest = max(len(example.ids) for example in chain(examples, held_out))
    plan = decide(known, {"actor": base}, longest, len(examples), rated)
    told = f"{len(examples)} conversations, longest {longest} tokens"
    progress.say(f"{told}; {plan.fits.description}")
    return plan, rows


def _load(plan: TrainingPlan, progress: Progress) -> Any:
    """The actor, with the weights that learn set."""
    actor, base = plan.settings.actor_config, plan.folders["actor"]
    model = load_actor(base, torch.float32, sharing(plan.means))
    if actor.peft_enable:
        add_adapter(model, actor.lora, "actor_config", base, plan.seed_of("adapter"))
        progress.say(trained_share(model))
    elif actor.froze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    make_efficient(model, actor, plan.section_name, plan.memory.checkpointing)
    return model


def _left_out(dropped: int, dropped_held_out: int, context: int) -> list[str]:
    if dropped + dropped_held_out == 0:
        return []
    return [
        f"{dropped} training and {dropped_held_out} validation rows are longer than "
        "actor_config.max_sequence_length, or than the model allows "
        f"({context}), and were left out"
    ]


def _packing(
    model: Any, actor: ActorSettings, examples: Sequence[Example], pad_id: int
) -> tuple[Callable[[list[Example]], dict[str, Any]] | None, list[str]]:
    """How rows are packed, if they are; else, where it was asked for, why not."""
    if not actor.packing:
        return None, []
    if not heeds_borders(model, examples, pad_id):
        return None, [
            f"actor_config.packing: {type(model).__name__} would mix packed conversations (it "
            "doesn't tell them apart by position ids): every conversation has a row of its own"
        ]
    limit = actor.max_sequence_length
    return partial(collate_packed, pad_id=pad_id, max_length=limit, weight=WEIGHT), []


def completion_loss_sum(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Sum of -log p over completion tokens (nats), float32; of a batch as `predicted` reads it."""
    found = predicted(model, batch)
    return F.cross_entropy(found.logits, found.targets, reduction="sum")


class Predicted(NamedTuple):
    """The N completion tokens of a batch, row by row.

    `logits[N, V]` (float32) that predict `targets[N]`, and the batch's row that each stands in.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor


def predicted(model: Any, batch: dict[str, Any]) -> Predicted:
    """What `model` says of a batch's completions.

    `input_ids[B, L]`, `attention_mask[B, L]`, `completion_mask[B, L]` (True where the token is to
    be predicted). Only the columns that predict some row's completion are turned into logits. An
    encoder-decoder model reads prompt and completion apart, both cut out of the same batch.
    """
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        return _encoder_decoder_predicted(model, batch)
    targets_mask = batch["completion_mask"]
    first = int(targets_mask.any(dim=0).int().argmax())
    length = targets_mask.shape[1]
    # Packed rows have positions that start anew, and then no mask: see `packing`.
    read: dict[str, Any] = {
        name: batch[name] for name in ("attention_mask", "position_ids") if name in batch
    }
    if takes(model, "use_cache"):
        read["use_cache"] = False
    inputs = {"input_ids": batch["input_ids"], **read}
    logits = last_logits(model, inputs, length - first + 1)[:, :-1]
    wanted = targets_mask[:, first:]
    targets = batch["input_ids"][:, first:]
    return Predicted(logits[wanted].float(), targets[wanted], wanted.nonzero()[:, 0])


def _encoder_decoder_predicted(model: Any, batch: dict[str, Any]) -> Predicted:
    completion = batch["completion_mask"]
    prompt = (batch["attention_mask"] == 1) & ~completion
    ids, columns = batch["input_ids"], torch.arange(completion.shape[1], device=completion.device)
    # A completion is moved to column 0, and the columns that nobody's reaches are left out.
    first = completion.int().argmax(dim=1, keepdim=True)
    source = (columns + first).clamp(max=len(columns) - 1)
    lengths, width = completion.sum(1), int(completion.sum(1).max())
    targets = ids.gather(1, source)[:, :width]
    wanted = columns[:width] < lengths[:, None]
    longest = int(prompt.sum(1).max())
    inputs = encoder_decoder_inputs(
        model, ids[:, :longest], prompt[:, :longest].long(), targets[:, :-1]
    )
    logits = model(**inputs).logits
    return Predicted(logits[wanted].float(), targets[wanted], wanted.nonzero()[:, 0])


def collate_completions(examples: list[Example], pad_id: int) -> dict[str, Any]:
    """B examples as right-padded `[B, L]`; the weight is the number of completion tokens."""
    ids, mask = pad_right([example.ids for example in examples], pad_id)
    columns = torch.arange(ids.shape[1])
    prompt = torch.tensor([example.prompt_length for example in examples])
    completion = (columns >= prompt[:, None]) & (mask == 1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "completion_mask": completion,
        WEIGHT: int(completion.sum()),
    }


def validate(held_out: Sequence[Example], pad_id: int, model: Any) -> dict[str, float]:
    total, tokens = 0.0, 0
    lengths = [len(example.ids) for example in held_out]
    counter = phase(f"validates on {len(held_out):,} rows", sum(lengths), "tokens")
    for rows in batches(lengths, shape_of(model), logits=True):
        batch = collate_completions(list(held_out[rows]), pad_id)
        tokens += batch.pop(WEIGHT)
        on_device = {name: value.to(model.device) for name, value in batch.items()}
        total += float(completion_loss_sum(model, on_device))
        counter.advance(sum(lengths[rows]))
    return {"validation_loss": total / tokens} if tokens else {}


def _examples(
    folder: Path, waiting: Path, tokenizer: Any, split: Split, max_length: int, weight: int = 1
) -> tuple[Sequence[Example], int, int]:
    """The split's rows that fit, those that came of ratings `weight` times; how many rows don't
    fit, since a completion is never cut; and how many of the former came of ratings. What memory
    doesn't hold goes to files in `waiting`."""
    kept: SpilledRows[Example] = SpilledRows(waiting)
    dropped = rated = 0
    rows = SplitRows(folder, split)
    often = heeded(rows, weight)
    for row, count in counted(f"tokenizes {split} rows", often, len(rows), "rows"):
        prompt = as_prompt(row["prompt"])
        example = conversation(tokenizer, prompt, row["completion"], max_length)
        if len(example.ids) > max_length:
            dropped += 1
            continue
        for _ in range(count):
            kept.append(example)
        rated += count if row["source"] == SOURCE else 0
    # A small dataset may have nothing to validate on; nothing to learn from is an error.
    if not kept and split == "train":
        raise DataError(
            f"{folder}: none of the {len(rows)} {split} rows fits in {max_length} tokens, which "
            "actor_config.max_sequence_length and the model allow: raise it, take a model that "
            "reads more, or add rows"
        )
    return kept, dropped, rated
