"""Trainings as children of their own, as the launcher starts them, and in this process alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.resume import METHODS, Trial, finish
from chatllama_pipeline.launch import STAGES as STAGES_OF
from chatllama_pipeline.launch import TRAININGS as TRAININGS_OF
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings

STEPS = 20
Curves = dict[str, list[float]]


def trial_of(training: str, processes: int = 1, zero_stage: int = 0, steps: int = STEPS) -> Trial:
    if training in METHODS:
        return Trial("actor_ppo", processes, zero_stage, steps, training)
    return Trial(training, processes, zero_stage, steps)


def run(
    trial: Trial, inputs: Path, folder: Path, change: Callable[[StageSpec], None] | None = None
) -> tuple[StageSpec, Outcome]:
    spec = trial.spec(inputs, folder)
    if change is not None:
        change(spec)
        spec.write(folder / "spec.json")
    finish(trial.start(folder), folder)
    return spec, Outcome.read(Path(spec.result))


def run_here(trial: Trial, inputs: Path, folder: Path) -> Outcome:
    """The same in this process, by one process without DeepSpeed."""
    spec = trial.spec(inputs, folder)
    training = AssistantSettings.of_stage(spec).trained_as(spec.stage)
    module, function = {**STAGES_OF, **TRAININGS_OF}[training].split(":")
    stage: Callable[[StageSpec, Progress], Outcome] = getattr(
        importlib.import_module(module), function
    )
    return stage(spec, Progress(trial.stage, lambda line: None))


def largest_difference(found: list[float], expected: list[float]) -> float:
    assert len(found) == len(expected)
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))
