"""What a run's config can ask of any cluster."""

import abc
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from chatllama_pipeline.errors import SettingsError

if TYPE_CHECKING:
    from chatllama_pipeline.launch.jobs.scheduler import Request, Scheduler


class Asked(dg.Config, abc.ABC):
    """The keys that every launcher's section has."""

    gpus: int = Field(default=0, description="GPUs of each node; 0 trains on CPUs.")
    queue_minutes: float = Field(
        default=1440.0, description="A job that waits longer than this is taken back."
    )

    @abc.abstractmethod
    def request(self, nodes: int, processes: int, threads: int) -> "Request":
        """What a job asks for; raises SettingsError for what no cluster could give."""

    @abc.abstractmethod
    def scheduler(self, folder: Path, nodes: int, processes: int, threads: int) -> "Scheduler":
        """Who runs the jobs of run folder `folder`, each with what `request` says."""

    def require_possible(self, section: str, nodes: int, processes: int) -> None:
        """Raises SettingsError for what no cluster could give."""
        for name, value, least in (("nodes", nodes, 1), (f"{section}.gpus", self.gpus, 0)):
            if value < least:
                raise SettingsError(f"compute.{name} is {value}: use {least} or more")
        if not self.queue_minutes > 0:  # nor is what is no number at all
            raise SettingsError(
                f"compute.{section}.queue_minutes is {self.queue_minutes:g}: use more than 0"
            )
        if 0 < self.gpus < processes:
            raise SettingsError(
                f"compute.processes is {processes}, compute.{section}.gpus {self.gpus}: each "
                "process needs a GPU of its own; raise gpus, or lower processes"
            )
