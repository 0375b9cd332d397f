"""transformers' Trainer with our loss, our batches, our validation and our resume state."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from chatllama_pipeline.models.adapters.lora import save_model
from chatllama_pipeline.models.sharding.parts import as_type, is_in_parts
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import CURVES_FILE, Check, Curve
from chatllama_pipeline.settings import SupervisedSection
from chatllama_pipeline.training.batches import StepBatches, loader
from chatllama_pipeline.training.course import (
    OF_STEP,
    WEIGHT,
    Course,
    LossSum,
    StageCallback,
    Task,
    as_curves,
)
from chatllama_pipeline.training.distributed import (
    deepspeed_settings,
    load_whole,
    place_trained,
    prepare_processes,
    require_deepspeed,
    whole_weights,
)
from chatllama_pipeline.training.plan import TrainingPlan
from chatllama_pipeline.training.resume.snapshot import (
    Layout,
    Snapshot,
    best_weights,
    bring_back_best,
    require_room,
)
from chatllama_pipeline.training.resume.state import States, made_from
from chatllama_pipeline.training.stopping import StopSignals
from chatllama_pipeline.training.trackers import Trackers


@dataclass(frozen=True)
class Training:
    """What `train` hands back: curves over steps, seconds of this process, what was noticed.

    `whole` gives a context in which every process has all weights of the trained model.
    """

    curves: list[Curve]
    seconds: float
    steps: int
    warnings: list[str]
    finite_loss: Check
    whole: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    is_main: bool = True

    @property
    def last_figures(self) -> dict[str, float]:
        """The last value of every curve."""
        return {curve.name: curve.points[-1][1] for curve in self.curves if curve.points}


class Objective(nn.Module):
    """The model with its sums: what is wrapped for several processes has one forward, this one."""

    def __init__(self, model: Any, loss_sum: LossSum, of_step: LossSum | None = None) -> None:
        super().__init__()
        self.model = model
        self.loss_sum, self.of_step = loss_sum, of_step

    def forward(self, batch: dict[str, Any], of_step: bool = False) -> torch.Tensor:
        if of_step:
            assert self.of_step is not None
            return self.of_step(self.model, batch)
        return self.loss_sum(self.model, batch)


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Loss = sum over the optimizer batch's items / their number, however it is cut up."""

    def __init__(self, batches: DataLoader[Any], total_steps: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.batches, self.total_steps = batches, total_steps
        self.step_loss = torch.zeros((), device=self.args.device)
        self.gradient_norm: float | torch.Tensor | None = None
        # Trainer then takes the loss as already divided by the whole batch's items.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self.batches

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        # Trainer knows only the steps that are left to do.
        return super().create_scheduler(self.total_steps, optimizer)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        batches = list(itertools.islice(epoch_iterator, num_batches))
        items = torch.tensor(sum(batch[WEIGHT] for batch in batches), device=device)
        items = self.accelerator.reduce(items, "sum")
        if self.accelerator.unwrap_model(self.model).of_step is not None:
            mean = self._of_step(batches) / items
            batches = [{**batch, OF_STEP: mean} for batch in batches]
        return batches, items

    @torch.no_grad()
    def _of_step(self, batches: list[Any]) -> torch.Tensor:
        """Sum over the step's items, of all processes, of what `Task.of_step` asks for."""
        total = torch.zeros((), device=self.args.device)
        for batch in map(self._prepare_inputs, batches):
            read = {name: value for name, value in batch.items() if name != WEIGHT}
            # A batch that doesn't count is read all the same, so that the ranks stay in step.
            total += self.model_wrapped(read, of_step=True) * bool(batch[WEIGHT])
        summed: torch.Tensor = self.accelerator.reduce(total, "sum")
        return summed

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        batch = {name: value for name, value in inputs.items() if name != WEIGHT}
        # Ranks' gradients are averaged, so each rank's share counts as often as there are ranks.
        scale = self.accelerator.num_processes / num_items_in_batch if inputs[WEIGHT] else 0.0
        loss = model(batch) * scale
        self.step_loss += loss.detach()
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        self.gradient_norm = super()._clip_grad_norm(model)
        return self.gradient_norm


def train(model: Any, task: Task, plan: TrainingPlan, progress: Progress) -> Training:
    """Train `model` in place from the newest whole state in the run folder, or from step 0.

    The last state is that of the end: from there nothing is trained again. Steps with a non-finite
    loss move no weight, and too many of them end the training: see the failed check in the result.
    Raises StoppedError after a SIGTERM, its state saved.
    """
    spec, section, means, steps = plan.spec, _section(plan), plan.means, plan.steps
    prepare_processes(means)
    states = States(Path(spec.run_folder), made_from(spec), section.n_checkpoints_to_keep)
    require_room(states, model)
    warnings = list(plan.warnings)
    layout, snapshot = Layout.of(means), Snapshot.newest(states, warnings.append)
    course, objective = Course(), Objective(model, task.loss_sum, task.of_step)
    if snapshot is not None:
        course = _continued(snapshot, objective, progress)
        warnings += filter(None, [snapshot.continued_in(layout)])
    if means.bfloat16 and is_in_parts(objective):
        # DeepSpeed leaves what is in parts already as it finds it.
        as_type(objective, torch.bfloat16)
    if plan.is_main:
        bring_back_best(snapshot, states.run_folder)
    started = time.monotonic()
    prepared: Any = objective
    if course.step < steps and not course.stopped_early:
        lengths = array("i", map(task.length, task.rows)) if section.length_bucketing else None
        cut = (plan.shares, steps, plan.seed, course.step)
        batches = StepBatches(len(task.rows), *cut, lengths)
        trainer = StageTrainer(
            loader(task.rows, task.collate, batches, WEIGHT),
            steps,
            model=objective,
            args=_arguments(plan, section, course.step),
        )
        require_deepspeed(trainer.accelerator, means)
        figures = (spec, plan.settings.tracking)
        trackers = Trackers(*figures, is_main=plan.is_main, steps_done=course.step)
        with StopSignals() as signals, trackers:
            trainer.remove_callback(PrinterCallback)
            watch = (states, snapshot, layout, signals, progress, trackers, warnings)
            trainer.add_callback(StageCallback(trainer, task, section, course, *watch))
            trainer.train()
        prepared = trainer.model_wrapped
        warnings += trackers.warnings
    else:
        place_trained(objective, means)
    warnings += _why_it_ended(course, section, steps, task)
    if section.keep_weights == "best" and course.best.step:
        load_whole(objective, best_weights(states.run_folder))
    model.eval()
    return Training(
        curves=as_curves(course.history),
        seconds=time.monotonic() - started,
        steps=course.step,
        warnings=warnings,
        finite_loss=_finite(course, section),
        whole=lambda: whole_weights(prepared),
        is_main=plan.is_main,
    )


def _continued(snapshot: Snapshot, objective: Objective, progress: Progress) -> Course:
    """How far a training had come, its weights loaded into `objective`."""
    course = Course.read(snapshot.counts)
    progress.say(f"continues from the state in {snapshot.folder}, after step {course.step}")
    load_whole(objective, snapshot.weights())
    return course


def _section(plan: TrainingPlan) -> SupervisedSection:
    section = plan.section
    assert isinstance(section, SupervisedSection), f"{plan.training} has a loop of its own"
    return section


def _finite(course: Course, section: SupervisedSection) -> Check:
    cure = (
        f"lower lr ({section.lr}) or max_grad_norm ({section.max_grad_norm}), or use precision: "
        "float32"
    )
    check = course.guard.check(cure)
    if check.passed and not all(math.isfinite(y) for row in course.history for y in row.values()):
        text = f"a validation figure is not finite; {cure}"
        return Check(check.name, False, True, 1.0, check.limit, text)
    return check


def _why_it_ended(course: Course, section: SupervisedSection, steps: int, task: Task) -> list[str]:
    if not course.stopped_early:
        return []
    return [
        f"stopped early after step {course.step} of {steps}: {task.judged_by[0]} has not been "
        f"better for {section.early_stopping} validation passes than at step {course.best.step}"
    ]


def _arguments(
    plan: TrainingPlan, settings: SupervisedSection, steps_done: int
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(Path(plan.spec.run_folder) / "trainer"),
        max_steps=plan.steps - steps_done,
        per_device_train_batch_size=plan.shares.micro_batch_size,
        gradient_accumulation_steps=plan.shares.accumulation,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_ratio * plan.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=plan.means.bfloat16,
        use_cpu=plan.means.device == "cpu",
        seed=plan.seed,
        deepspeed=deepspeed_settings(plan.means, plan.shares, settings.max_grad_norm),
        ddp_find_unused_parameters=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
    )


def save_trained(folder: Path, model: Any, tokenizer: Any, curves: list[Curve]) -> None:
    """Weights, tokenizer, and `curves.json`: `{name: [[step, value], ...]}`."""
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    plain = {curve.name: [list(point) for point in curve.points] for curve in curves}
    (folder / CURVES_FILE).write_text(json.dumps(plain, indent=1, sort_keys=True))
