"""What a run's config asks of a Ray cluster."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from chatllama_pipeline.errors import SettingsError
from resources.clusters.asked import Asked

if TYPE_CHECKING:
    from chatllama_pipeline.launch.jobs.scheduler import Scheduler
    from chatllama_pipeline.launch.ray.wanted import Wanted


class Ray(Asked):
    """What a job asks of a running Ray cluster."""

    address: str = Field(
        default="auto",
        description="HOST:PORT of its head, as `ray start --address` takes it; auto: RAY_ADDRESS, "
        "else the cluster that this machine belongs to.",
    )
    memory: str = Field(
        default="", description="Memory of each node that Ray sets aside, as 64G; empty: none."
    )
    resources: dict[str, float] = Field(
        default={}, description="More of Ray's resources, of each node: {accelerator_type:A100: 1}."
    )
    grows: bool = Field(
        default=False,
        description="The cluster adds nodes when asked: wait for what it has no node for.",
    )
    retries: int = Field(
        default=10, description="How often a job that lost a node starts again on others."
    )

    def request(self, nodes: int, processes: int, threads: int) -> "Wanted":
        from chatllama_pipeline.launch.ray.wanted import Wanted, memory_bytes

        self.require_possible("ray", nodes, processes)
        if self.address != "auto" and not re.fullmatch(r"[^/]+:\d+", self.address):
            raise SettingsError(
                f"compute.ray.address is {self.address!r}: use the HOST:PORT that `ray start "
                "--address` takes, or auto; ray start --address=HOST:PORT --num-cpus=0 "
                "--num-gpus=0 has this machine join without giving it work"
            )
        if self.retries < 0:
            raise SettingsError(f"compute.ray.retries is {self.retries}: use 0 or more")
        for name, amount in self.resources.items():
            if not 0 < amount < math.inf:
                raise SettingsError(f"compute.ray.resources.{name} is {amount}: use more than 0")
            if name in ("CPU", "GPU", "memory"):
                raise SettingsError(
                    f"compute.ray.resources.{name}: say it as compute.threads, compute.ray.gpus or "
                    "compute.ray.memory"
                )
        return Wanted(
            nodes=nodes,
            processes=processes,
            threads=threads or processes,
            gpus=self.gpus,
            queue_seconds=self.queue_minutes * 60,
            address=self.address,
            memory=memory_bytes(self.memory),
            resources=self.resources,
            grows=self.grows,
            retries=self.retries,
        )

    def scheduler(self, folder: Path, nodes: int, processes: int, threads: int) -> "Scheduler":
        from chatllama_pipeline.launch.jobs.stage import job_environment
        from chatllama_pipeline.launch.ray.scheduler import Ray as Scheduling

        return Scheduling(self.request(nodes, processes, threads), folder, job_environment())
