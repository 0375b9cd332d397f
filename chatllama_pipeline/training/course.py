"""The course of a supervised training: its task, and what happens at each step's end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback

from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Curve
from chatllama_pipeline.settings import SupervisedSection
from chatllama_pipeline.training.distributed import agree, whole_weights
from chatllama_pipeline.training.guards import Best, Guard
from chatllama_pipeline.training.resume.snapshot import Engine, Layout, Snapshot
from chatllama_pipeline.training.resume.state import States
from chatllama_pipeline.training.stopping import StopSignals, stopped
from chatllama_pipeline.training.trackers import Trackers

CURVE_POINTS = 50
WEIGHT, LOSS = "weight", "loss"
# In a batch: the mean over the whole step's items of what `Task.of_step` sums.
OF_STEP = "of_step"

# (model, batch without its weight) -> sum of the losses of the batch's items.
LossSum = Callable[[Any, dict[str, Any]], torch.Tensor]
# model -> named validation figures.
Validate = Callable[[Any], dict[str, float]]


@dataclass(frozen=True)
class Task:
    """What is trained: rows, how B rows become a batch, their loss, and the validation.

    `collate` returns tensors and, under `weight`, how many items (tokens, pairs) the batch's loss
    is a sum over; `loss_sum` never sees the weight. `judged_by` names the validation figure that
    decides which weights are best, and whether more of it is better. `length` counts a row's
    tokens, for `length_bucketing`. `of_step` sums, over a batch's items and without gradient, what
    the losses of a step have in common: `loss_sum` finds its mean under `OF_STEP`.
    """

    rows: Sequence[Any]
    collate: Callable[[list[Any]], dict[str, Any]]
    loss_sum: LossSum
    validate: Validate
    judged_by: tuple[str, bool]
    length: Callable[[Any], int] = len
    of_step: LossSum | None = None


@dataclass
class Course:
    """What a training has come to, beside its weights; all of it is in every resume state."""

    step: int = 0
    guard: Guard = field(default_factory=Guard)
    best: Best = field(default_factory=Best)
    history: list[dict[str, float]] = field(default_factory=list)
    stopped_early: bool = False

    @classmethod
    def read(cls, counts: dict[str, Any]) -> Course:
        parts = {"guard": Guard(**counts["guard"]), "best": Best(**counts["best"])}
        return cls(**(counts | parts))


class StageCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """At each step's end: guard, validation, progress, resume state, early end."""

    def __init__(
        self,
        trainer: Any,
        task: Task,
        settings: SupervisedSection,
        course: Course,
        states: States,
        snapshot: Snapshot | None,
        layout: Layout,
        signals: StopSignals,
        progress: Progress,
        trackers: Trackers,
        warnings: list[str],
    ) -> None:
        self.trainer, self.task, self.settings, self.course = trainer, task, settings, course
        self.states, self.snapshot, self.layout = states, snapshot, layout
        self.signals, self.progress, self.warnings = signals, progress, warnings
        self.trackers = trackers
        steps = trainer.total_steps
        self.validation_steps = {
            round(steps * part / settings.evaluations)
            for part in range(1, settings.evaluations + 1)
        }
        self.figures: dict[str, float] = {}
        self.saved_at = time.monotonic()
        self.finite = True

    @property
    def engine(self) -> Engine:
        trainer = self.trainer
        return Engine(
            trainer.accelerator,
            trainer.model,
            trainer.model_wrapped,
            trainer.optimizer,
            self.layout,
            trainer.lr_scheduler,
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.snapshot is not None:
            self.engine.restore(self.snapshot)
            state.global_step = self.course.step
        state.max_steps = self.trainer.total_steps

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step whose loss or gradient isn't finite moves no weight."""
        trainer = self.trainer
        self.loss = float(trainer.accelerator.reduce(trainer.step_loss, "mean"))
        trainer.step_loss.zero_()
        norm = trainer.gradient_norm
        self.finite = math.isfinite(self.loss) and math.isfinite(norm if norm is not None else 0.0)
        if trainer.is_deepspeed_enabled:
            # DeepSpeed has stepped already, unless the gradient's norm was not finite.
            self.finite &= not trainer.optimizer.step_was_skipped
        elif not self.finite:
            trainer.optimizer.zero_grad()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        course, step = self.course, state.global_step
        course.step = step
        course.guard.record(self.finite)
        if self.finite:
            course.history.append({"step": step, LOSS: self.loss})
        if step in self.validation_steps:
            self._validate(step)
        self.progress.step(step, self.trainer.total_steps, **{LOSS: self.loss, **self.figures})
        rate = {"lr": self.trainer.lr_scheduler.get_last_lr()[0]}
        self.trackers.log(step, {LOSS: self.loss, **rate, **self._fresh(step)})
        patience = self.settings.early_stopping
        course.stopped_early = patience is not None and course.best.passes_since >= patience
        control.should_training_stop = (
            course.stopped_early or course.guard.tripped or step >= self.trainer.total_steps
        )
        self._save_if_due(step, control.should_training_stop)

    def _fresh(self, step: int) -> dict[str, float]:
        return self.figures if step in self.validation_steps else {}

    def _validate(self, step: int) -> None:
        model = self.trainer.model.model
        model.eval()
        with torch.no_grad(), whole_weights(self.trainer.model_wrapped):
            self.figures = self.task.validate(model)
        model.train()
        self.course.history.append({**self.figures, "step": step})
        name, more_is_better = self.task.judged_by
        if name in self.figures:
            value = self.figures[name]
            better = self.course.best.record(step, -value if more_is_better else value)
            if better and self.settings.keep_weights == "best":
                self.engine.save_best(self.states.run_folder)

    def _save_if_due(self, step: int, ending: bool) -> None:
        """Save where it is time, and at the end: what follows a training may be killed as well."""
        if ending and not self.course.guard.passed:
            return  # nothing follows
        seconds = time.monotonic() - self.saved_at
        late = self.engine.is_main and seconds >= self.settings.checkpoint_seconds
        stop, due = agree(self.trainer.accelerator, [self.signals.received is not None, late])
        if not (ending or stop or due or step % self.settings.checkpoint_steps == 0):
            return
        # At the end a disk without room for a state has cost the training nothing.
        warn = self.progress.say if ending else self.warnings.append
        saved = self.engine.save(self.states, asdict(self.course), warn)
        self.saved_at = time.monotonic()
        if stop:
            raise stopped(self.signals, f"step {step}", saved)


def as_curves(history: list[dict[str, float]]) -> list[Curve]:
    """Curves from the history: the loss as means over windows, other figures as they are."""
    losses = [(float(entry["step"]), entry[LOSS]) for entry in history if LOSS in entry]
    width = max(1, len(losses) // CURVE_POINTS)
    windows = [losses[i : i + width] for i in range(0, len(losses), width)]
    curves = [Curve(LOSS, [(w[-1][0], sum(y for _, y in w) / len(w)) for w in windows])]
    names = {name for entry in history for name in entry if name.startswith("validation_")}
    for name in sorted(names):
        points = [(float(entry["step"]), entry[name]) for entry in history if name in entry]
        curves.append(Curve(name, points))
    return curves
