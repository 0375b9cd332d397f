"""Sensors over several ticks, their cursors kept and their keys added as the daemon does it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from assets.partitions import NAME
from chatllama_pipeline.definitions import definitions


def write(root: Path, name: str, config: str) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "config.yaml").write_text(config)


class Ticks:
    """One sensor over several ticks."""

    def __init__(self, instance: dg.DagsterInstance, sensor: dg.SensorDefinition) -> None:
        self.instance = instance
        self.sensor = sensor
        self.cursor: str | None = None

    def tick(self) -> tuple[list[str | None], str]:
        """The assistants asked for, and why others weren't."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=definitions.get_repository_def(),
        )
        data = self.sensor.evaluate_tick(context)
        for request in data.dynamic_partitions_requests or []:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(NAME, list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(NAME, key)
        self.cursor = data.cursor
        self.requests = list(data.run_requests or [])
        return [request.partition_key for request in self.requests], data.skip_message or ""

    def end(self, status: dg.DagsterRunStatus) -> None:
        """Let every run that the last tick asked for end so."""
        for request in self.requests:
            self.instance.add_run(
                dg.DagsterRun(
                    "all",
                    status=status,
                    tags={**request.tags, "dagster/partition": str(request.partition_key)},
                )
            )


def going(instance: dg.DagsterInstance, name: str) -> dg.DagsterRun:
    """A run of an assistant that goes on."""
    tags = {"dagster/partition": name}
    return instance.add_run(dg.DagsterRun("all", status=dg.DagsterRunStatus.STARTED, tags=tags))
