"""What a run's config asks of a Slurm cluster."""

import dagster as dg
from pydantic import Field

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.slurm.script import Wanted


class Slurm(dg.Config):
    """What a job asks of Slurm; empty: the cluster's default."""

    partition: str = Field(default="", description="sbatch --partition.")
    account: str = Field(default="", description="sbatch --account.")
    time_limit: str = Field(
        default="",
        description="sbatch --time, as 12:00:00 or 1-0. A training that reaches it saves its state "
        "and asks for another job.",
    )
    memory: str = Field(default="", description="sbatch --mem, of each node, as 64G.")
    gpus: int = Field(default=0, description="GPUs of each node; 0 trains on CPUs.")
    queue_minutes: float = Field(
        default=1440.0, description="A job that waits longer than this is taken back."
    )
    arguments: list[str] = Field(
        default=[], description='More arguments of sbatch: ["--constraint=a100"].'
    )

    def wanted(self, nodes: int, processes: int, threads: int) -> Wanted:
        """The request for a job; raises SettingsError for what no cluster could give."""
        for name, value, least in (("nodes", nodes, 1), ("slurm.gpus", self.gpus, 0)):
            if value < least:
                raise SettingsError(f"compute.{name} is {value}: use {least} or more")
        if self.queue_minutes <= 0:
            raise SettingsError(
                f"compute.slurm.queue_minutes is {self.queue_minutes:g}: use more than 0"
            )
        if 0 < self.gpus < processes:
            raise SettingsError(
                f"compute.processes is {processes}, compute.slurm.gpus {self.gpus}: each process "
                "needs a GPU of its own; raise gpus, or lower processes"
            )
        return Wanted(
            nodes=nodes,
            processes=processes,
            threads=threads,
            gpus=self.gpus,
            partition=self.partition,
            account=self.account,
            time_limit=self.time_limit,
            memory=self.memory,
            queue_seconds=self.queue_minutes * 60,
            arguments=self.arguments,
        )
