"""A training's figures, step by step, for TensorBoard, W&B and MLflow.

The files stand in the store under `_logs/<assistant>/<stage>/<fingerprint>`. A continued training
writes on from its last state: what was noted of later steps is replaced.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import TrackingSettings

FLUSH_SECONDS = 10


class Trackers:
    """The trackers that settings name; none without a `logs` folder, nor in other processes."""

    def __init__(
        self, spec: StageSpec, settings: TrackingSettings, *, is_main: bool, steps_done: int = 0
    ) -> None:
        self.warnings: list[str] = []
        self._open: dict[str, _Tracker] = {}
        if not (spec.logs and is_main):
            return
        for name in dict.fromkeys(settings.trackers):
            try:
                self._open[name] = TRACKERS[name](spec, settings, steps_done)
            except ModuleNotFoundError as error:
                raise SettingsError(
                    f"tracking.trackers names {name}, and {error.name} is not installed: "
                    f".venv/bin/pip install -e '.[{name}]', or take {name} out"
                ) from None

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Note the finite ones of `figures`; a tracker that fails is left out from then on."""
        finite = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
        for name, tracker in list(self._open.items()):
            self._tell(name, lambda tracker=tracker: tracker.log(step, finite))  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, tracker in list(self._open.items()):
            self._tell(name, tracker.close)

    def _tell(self, name: str, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:
            # A tracker's server that is away must not end hours of training.
            del self._open[name]
            self.warnings.append(f"the tracker {name} failed and was left out: {error}")


class _Tracker:
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class TensorBoard(_Tracker):
    """Event files, by tensorboardX."""

    def __init__(self, spec: StageSpec, settings: TrackingSettings, steps_done: int) -> None:
        from tensorboardX import SummaryWriter

        purge = steps_done + 1 if steps_done else None
        self.writer = SummaryWriter(spec.logs, purge_step=purge, flush_secs=FLUSH_SECONDS)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases(_Tracker):
    """A W&B run; WANDB_MODE=offline keeps it in the store's `_logs`."""

    def __init__(self, spec: StageSpec, settings: TrackingSettings, steps_done: int) -> None:
        import wandb

        Path(spec.logs).mkdir(parents=True, exist_ok=True)
        self.run: Any = wandb.init(
            project=settings.project,
            name=f"{spec.assistant} {spec.stage}",
            id=f"{spec.stage}-{Path(spec.logs).name}",
            resume="allow",
            dir=spec.logs,
            config=spec.settings,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


class MlFlow(_Tracker):
    """An MLflow run, on the server that settings or MLFLOW_TRACKING_URI name, else in a file."""

    def __init__(self, spec: StageSpec, settings: TrackingSettings, steps_done: int) -> None:
        import mlflow

        folder = Path(spec.logs)
        folder.mkdir(parents=True, exist_ok=True)
        own = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(settings.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or own)
        mlflow.set_experiment(settings.project)
        kept = folder / "mlflow_run"
        known = kept.read_text() if kept.exists() else None
        self.mlflow: Any = mlflow
        run = mlflow.start_run(run_id=known, run_name=f"{spec.assistant} {spec.stage}")
        kept.write_text(run.info.run_id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        self.mlflow.end_run()


TRACKERS: dict[str, type[Any]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MlFlow,
}
