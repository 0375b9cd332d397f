"""What a run's config asks of a Slurm cluster."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from chatllama_pipeline.errors import SettingsError
from resources.clusters.asked import Asked

if TYPE_CHECKING:
    from chatllama_pipeline.launch.jobs.scheduler import Scheduler
    from chatllama_pipeline.launch.slurm.script import Wanted

_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}|(?i:infinite|unlimited)")
_MEMORY = re.compile(r"\d+(?i:[kmgt]b?)?")
_NAME = re.compile(r"[^\s,=]+(,[^\s,=]+)*")
# What a job says by itself, with its short form, or by a key.
_OURS = {
    **dict.fromkeys(("array", "a"), ""),
    **dict.fromkeys(("clusters", "cluster", "M"), ""),
    **dict.fromkeys(("error", "e"), ""),
    **dict.fromkeys(("export", "export-file", "get-user-env"), ""),
    **dict.fromkeys(("job-name", "J"), ""),
    **dict.fromkeys(("no-requeue", "requeue", "open-mode", "signal"), ""),
    **dict.fromkeys(("ntasks", "n", "ntasks-per-node"), ""),
    **dict.fromkeys(("output", "o"), ""),
    **dict.fromkeys(("parsable", "test-only", "wait", "W", "wrap", "help", "h"), ""),
    **dict.fromkeys(("account", "A"), "account"),
    **dict.fromkeys(("mem",), "memory"),
    **dict.fromkeys(("partition", "p"), "partition"),
    **dict.fromkeys(("time", "t"), "time_limit"),
    **dict.fromkeys(("cpus-per-task", "c"), "threads"),
    **dict.fromkeys(("nodes", "N"), "nodes"),
}
_COMPUTES = ("threads", "nodes")


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
        self._require_notation()
        for argument in self.arguments:
            _require_free(argument)
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

    def _require_notation(self) -> None:
        """Slurm's own words for what it doesn't read name neither key nor value."""
        if self.time_limit and not _TIME.fullmatch(self.time_limit):
            raise SettingsError(
                f"compute.slurm.time_limit is {self.time_limit!r}: use HOURS:MINUTES:SECONDS, as "
                "12:00:00, DAYS-HOURS, as 1-0, or minutes alone, as 90"
            )
        if self.memory and not _MEMORY.fullmatch(self.memory):
            raise SettingsError(
                f"compute.slurm.memory is {self.memory!r}: use a size such as 64G, or nothing"
            )
        for name in ("partition", "account"):
            value = getattr(self, name)
            if value and not _NAME.fullmatch(value):
                raise SettingsError(
                    f"compute.slurm.{name} is {value!r}: use a name as `sinfo` and `sacctmgr` "
                    "list it, or several with commas between"
                )

    def scheduler(self, folder: Path, nodes: int, processes: int, threads: int) -> "Scheduler":
        from chatllama_pipeline.launch.jobs.stage import job_environment
        from chatllama_pipeline.launch.slurm.scheduler import Slurm as Scheduling

        return Scheduling(self.request(nodes, processes, threads), job_environment())


def _require_free(argument: str) -> None:
    """Raises SettingsError for what is no option of sbatch, or one that is said otherwise."""
    if not argument.startswith("-") or any(sign.isspace() for sign in argument):
        raise SettingsError(
            f"compute.slurm.arguments: {argument!r} is no option of sbatch by itself: write each "
            "with its value as one, as --constraint=a100"
        )
    long = argument.startswith("--")
    name = argument[2:].partition("=")[0] if long else argument[1:2]
    if name not in _OURS:
        return
    key = _OURS[name]
    section = "compute" if key in _COMPUTES else "compute.slurm"
    cure = f"say it as {section}.{key}" if key else "a job says it by itself: leave it out"
    raise SettingsError(f"compute.slurm.arguments: {argument!r}: {cure}")
