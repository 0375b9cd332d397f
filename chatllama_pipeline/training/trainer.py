"""transformers' Trainer with our loss, our validation and our resume state."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.adapters import is_adapted, save_model, trained_state
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import CURVES_FILE, Check, Curve
from chatllama_pipeline.settings import ActorSettings, RewardSettings
from chatllama_pipeline.training import FINITE_LOSS
from chatllama_pipeline.training.resume import load_state, save_state

CURVE_POINTS = 50
WEIGHT, LOSS = "weight", "loss"

# (model, batch without its weight) -> sum of the losses of the batch's items.
LossSum = Callable[[Any, dict[str, Any]], torch.Tensor]
# model -> named validation figures.
Validate = Callable[[Any], dict[str, float]]


class NonFiniteLossError(ArithmeticError):
    """A loss was NaN or infinite; `step` counts the optimizer steps done before it."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"loss {value} after {step} steps")
        self.step, self.value = step, value


@dataclass(frozen=True)
class Training:
    """What `train` hands back: curves over steps, seconds of this process, what was noticed."""

    curves: list[Curve]
    seconds: float
    steps: int
    warnings: list[str]
    finite_loss: Check

    @property
    def last_figures(self) -> dict[str, float]:
        """The last value of every curve."""
        return {curve.name: curve.points[-1][1] for curve in self.curves if curve.points}


@dataclass(frozen=True)
class Task:
    """What is trained: rows, how B rows become a batch, their loss, and the validation.

    `collate` returns tensors and, under `weight`, how many items (tokens, pairs) the batch's loss
    is a sum over; `loss_sum` never sees the weight.
    """

    rows: list[Any]
    collate: Callable[[list[Any]], dict[str, Any]]
    loss_sum: LossSum
    validate: Validate


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Loss = sum over the optimizer batch's items / their number, whatever the micro-batch."""

    def __init__(self, loss_sum: LossSum, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.loss_sum = loss_sum
        # Trainer then takes the loss as already divided by the whole batch's items.
        self.model_accepts_loss_kwargs = True

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        batches = list(itertools.islice(epoch_iterator, num_batches))
        items = torch.tensor(sum(batch[WEIGHT] for batch in batches), device=device)
        return batches, self.accelerator.gather(items).sum()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Of a model with an adapter only what learns: its base never changes."""
        if not is_adapted(self.model):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self.model, state_dict), folder / SAFE_WEIGHTS_NAME)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        batch = {name: value for name, value in inputs.items() if name != WEIGHT}
        # Ranks' gradients are averaged, so each rank's share counts as often as there are ranks.
        scale = self.accelerator.num_processes / num_items_in_batch
        loss = self.loss_sum(model, batch) * scale
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self.state.global_step, loss.item())
        return loss


class StageCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Validation at set steps, progress lines, and Trainer's checkpoints as our resume state."""

    def __init__(
        self,
        trainer: StageTrainer,
        validate: Validate,
        evaluations: int,
        progress: Progress,
        run_folder: Path,
    ) -> None:
        self.trainer, self.validate, self.progress = trainer, validate, progress
        self.run_folder = run_folder
        steps = trainer.args.max_steps
        self.validation_steps = {
            round(steps * part / evaluations) for part in range(1, evaluations + 1)
        }
        self.figures: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.validation_steps:
            model = self.trainer.model
            model.eval()
            with torch.no_grad():
                self.figures = self.validate(model)
            model.train()
            # In Trainer's own history, which its checkpoints carry: curves survive a kill. Not by
            # `Trainer.log`, which would cancel this step's own entry.
            state.log_history.append({**self.figures, "step": state.global_step})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if LOSS in logs:
            figures = {LOSS: logs[LOSS], **self.figures}
            self.progress.step(state.global_step, state.max_steps, **figures)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"

        def move(folder: Path) -> None:
            for path in written.iterdir():
                path.rename(folder / path.name)

        save_state(self.run_folder, move)
        written.rmdir()


def train(
    model: Any,
    task: Task,
    settings: ActorSettings | RewardSettings,
    *,
    seed: int,
    device: str,
    run_folder: Path,
    progress: Progress,
) -> Training:
    """Train `model` in place from the newest whole state in `run_folder`, or from step 0.

    A non-finite loss ends the training: the failed check in the result says at which step.
    """
    warnings: list[str] = []
    steps = settings.max_steps or settings.epochs * math.ceil(len(task.rows) / settings.batch_size)
    checkpoints = run_folder / "trainer"
    shutil.rmtree(checkpoints, ignore_errors=True)  # a save that a kill interrupted
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    use_cache = getattr(model.config, "use_cache", None)  # an encoder has no cache
    trainer = StageTrainer(
        task.loss_sum,
        model=model,
        args=_arguments(settings, steps, seed, device, checkpoints),
        train_dataset=task.rows,
        data_collator=task.collate,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(
        StageCallback(trainer, task.validate, settings.evaluations, progress, run_folder)
    )
    state = load_state(run_folder, warnings.append)
    if state is not None:
        progress.say(f"continues from the state in {state}")
    started = time.monotonic()
    finite = Check(FINITE_LOSS, True, True, 0.0, 0.0, "every loss was finite")
    try:
        trainer.train(resume_from_checkpoint=str(state) if state else None)
    except NonFiniteLossError as error:
        finite = _not_finite(f"{error}: training stopped, nothing was saved", settings.lr)
    curves = _curves(trainer.state.log_history)
    if finite.passed and not all(math.isfinite(y) for curve in curves for _, y in curve.points):
        finite = _not_finite("a validation figure is not finite", settings.lr)
    if use_cache is not None:
        model.config.use_cache = use_cache
    model.eval()
    return Training(curves, time.monotonic() - started, steps, warnings, finite)


def _not_finite(what: str, lr: float) -> Check:
    cure = f"lower lr ({lr}) or max_grad_norm, or use precision: float32"
    return Check(FINITE_LOSS, False, True, 1.0, 0.0, f"{what}; {cure}")


def _arguments(
    settings: ActorSettings | RewardSettings, steps: int, seed: int, device: str, folder: Path
) -> TrainingArguments:
    rows = settings.micro_batch_size or settings.batch_size
    if settings.batch_size % rows:
        raise SettingsError(
            f"batch_size {settings.batch_size} is not a multiple of micro_batch_size {rows}: "
            "choose a micro_batch_size that divides it"
        )
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=settings.batch_size // rows,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bfloat16",
        use_cpu=device == "cpu",
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )


def _curves(history: list[dict[str, float]]) -> list[Curve]:
    """Curves from Trainer's history: the loss as means over windows, other figures as they are."""
    losses = [(float(entry["step"]), entry[LOSS]) for entry in history if LOSS in entry]
    width = max(1, len(losses) // CURVE_POINTS)
    windows = [losses[i : i + width] for i in range(0, len(losses), width)]
    curves = [Curve(LOSS, [(w[-1][0], sum(y for _, y in w) / len(w)) for w in windows])]
    names = {name for entry in history for name in entry if name.startswith("validation_")}
    for name in sorted(names):
        points = [(float(entry["step"]), entry[name]) for entry in history if name in entry]
        curves.append(Curve(name, points))
    return curves


def save_trained(folder: Path, model: Any, tokenizer: Any, curves: list[Curve]) -> None:
    """Weights, tokenizer, and `curves.json`: `{name: [[step, value], ...]}`."""
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    plain = {curve.name: [list(point) for point in curve.points] for curve in curves}
    (folder / CURVES_FILE).write_text(json.dumps(plain, indent=1, sort_keys=True))
