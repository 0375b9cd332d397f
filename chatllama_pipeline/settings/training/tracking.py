"""`tracking`: where a training's figures are shown while it runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chatllama_pipeline.settings.section import Section

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


class TrackingSettings(Section):
    """Trackers of every training's figures, beside Dagster."""

    trackers: list[TrackerName] = Field(
        default=["tensorboard"],
        description="wandb and mlflow are extras: pip install -e '.[wandb,mlflow]'",
    )
    project: str = Field(default="chatllama", description="W&B's project, MLflow's experiment")
    mlflow_uri: str | None = Field(
        default=None, description="MLFLOW_TRACKING_URI if null, else a file in the store"
    )
