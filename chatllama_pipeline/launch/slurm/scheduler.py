"""Slurm, as what runs jobs asks it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatllama_pipeline.launch.jobs.scheduler import Task
from chatllama_pipeline.launch.slurm import commands
from chatllama_pipeline.launch.slurm.commands import Job
from chatllama_pipeline.launch.slurm.script import Wanted, sbatch_arguments, write_scripts

# A job that fits on no node so long fits on none.
STUCK_SECONDS = 60.0
# What Slurm has lost sight of is ended by then: it must not work beside what is released.
RELEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Slurm:
    """Jobs by `sbatch`, each as `request` says, in the environment `env`."""

    request: Wanted
    env: Mapping[str, str]
    _stuck_since: dict[str, float] = field(default_factory=dict)
    _held_since: dict[str, float] = field(default_factory=dict)
    _released: set[str] = field(default_factory=set)
    name = "Slurm"
    section = "slurm"
    cure_for_stops = "raise compute.slurm.time_limit, or ask for another partition"

    def require(self) -> None:
        commands.require_slurm()

    def require_taken(self) -> None:
        self.require()
        arguments = sbatch_arguments(self.request, "chatllama", Path(os.devnull), 0.0)
        commands.try_out(arguments, self.env)

    def submit(self, task: Task, name: str, stop_seconds: float) -> str:
        script = write_scripts(task.folder, task.command, self.request, task.spec)
        arguments = sbatch_arguments(self.request, name, task.log, stop_seconds)
        return commands.submit(arguments, script, self.env)

    def look_at(self, job: str) -> Job | None:
        told = commands.look_at(job)
        if told is not None and told.held:
            return self._held(job, told)
        if told is None or told.reason != commands.FITS_NOWHERE:
            self._stuck_since.pop(job, None)
            return told
        since = self._stuck_since.setdefault(job, time.monotonic())
        return dataclasses.replace(told, stuck=time.monotonic() - since > STUCK_SECONDS)

    def _held(self, job: str, held: Job) -> Job:
        """What to say of a job that is held; one that Slurm alone holds is released, once."""
        if not held.held_by_slurm:
            who = "somebody, or a rule of the cluster's, holds it"
            why = f"{who}: `scontrol release {job}` starts it"
        elif job in self._released:
            return dataclasses.replace(held, stuck=True)
        else:
            why = "is released, once"
            since = self._held_since.setdefault(job, time.monotonic())
            if time.monotonic() - since >= RELEASE_SECONDS:
                self._released.add(job)
                commands.release(job)
        return dataclasses.replace(held, reason=f"{held.reason}: {why}")

    def named(self, name: str) -> str | None:
        return commands.named(name)

    def ask_to_save(self, job: str) -> None:
        commands.signal_steps(job, "TERM")

    def cancel(self, job: str) -> None:
        commands.cancel(job)

    def close(self) -> None:
        pass
