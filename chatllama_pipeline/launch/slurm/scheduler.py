"""Slurm, as what runs jobs asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chatllama_pipeline.launch.jobs.scheduler import Task
from chatllama_pipeline.launch.slurm import commands
from chatllama_pipeline.launch.slurm.commands import Job
from chatllama_pipeline.launch.slurm.script import Wanted, sbatch_arguments, write_scripts


@dataclass(frozen=True)
class Slurm:
    """Jobs by `sbatch`, each as `request` says, in the environment `env`."""

    request: Wanted
    env: Mapping[str, str]
    name = "Slurm"
    section = "slurm"
    cure_for_stops = "raise compute.slurm.time_limit, or ask for another partition"

    def require(self) -> None:
        commands.require_slurm()

    def submit(self, task: Task, name: str, stop_seconds: float) -> str:
        script = write_scripts(task.folder, task.command, self.request, task.spec)
        arguments = sbatch_arguments(self.request, name, task.log, stop_seconds)
        return commands.submit(arguments, script, self.env)

    def look_at(self, job: str) -> Job | None:
        return commands.look_at(job)

    def named(self, name: str) -> str | None:
        return commands.named(name)

    def ask_to_save(self, job: str) -> None:
        commands.signal_steps(job, "TERM")

    def cancel(self, job: str) -> None:
        commands.cancel(job)

    def close(self) -> None:
        pass
