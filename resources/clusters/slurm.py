"""What a run's config asks of a Slurm cluster."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from resources.clusters.asked import Asked

if TYPE_CHECKING:
    from chatllama_pipeline.launch.jobs.scheduler import Scheduler
    from chatllama_pipeline.launch.slurm.script import Wanted


class Slurm(Asked):
    """What a job asks of Slurm; empty: the cluster's default."""

    partition: str = Field(default="", description="sbatch --partition.")
    account: str = Field(default="", description="sbatch --account.")
    time_limit: str = Field(
        default="",
        description="sbatch --time, as 12:00:00 or 1-0. A training that reaches it saves its state "
        "and asks for another job.",
    )
    memory: str = Field(default="", description="sbatch --mem, of each node, as 64G.")
    arguments: list[str] = Field(
        default=[], description='More arguments of sbatch: ["--constraint=a100"].'
    )

    def request(self, nodes: int, processes: int, threads: int) -> "Wanted":
        from chatllama_pipeline.launch.slurm.script import Wanted

        self.require_possible("slurm", nodes, processes)
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

    def scheduler(self, folder: Path, nodes: int, processes: int, threads: int) -> "Scheduler":
        from chatllama_pipeline.launch.jobs.stage import job_environment
        from chatllama_pipeline.launch.slurm.scheduler import Slurm as Scheduling

        return Scheduling(self.request(nodes, processes, threads), job_environment())
