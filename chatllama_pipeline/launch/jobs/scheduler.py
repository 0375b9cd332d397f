"""What a scheduler of jobs is asked, and what it answers."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from chatllama_pipeline.errors import ChildError


class NoAnswerError(ChildError):
    """The scheduler doesn't answer; what was asked of it may work later."""


@dataclass(frozen=True)
class Request:
    """What every job asks for: `nodes`, with `processes`, `threads` and `gpus` on each of them.

    No threads: what the scheduler gives by itself. A job that waits for `queue_seconds` is taken
    back. Up to `retries` times work that lost a node goes on elsewhere.
    """

    nodes: int = 1
    processes: int = 1
    threads: int = 0
    gpus: int = 0
    queue_seconds: float = 86_400.0
    retries: int = 10

    @property
    def threads_each(self) -> int:
        """CPU threads of a process; 0: it counts the cores that it was given."""
        return max(1, self.threads // self.processes) if self.threads else 0


@dataclass(frozen=True)
class Task:
    """A command and its files: `spec` is what it reads, `log` what it prints.

    It says in `refusal` why it refuses. `begin` clears away what an earlier try wrote, `is_done`
    says whether it left its result.
    """

    name: str
    command: Sequence[str]
    spec: Path
    log: Path
    refusal: Path
    begin: Callable[[], None]
    is_done: Callable[[], bool]

    @property
    def folder(self) -> Path:
        return self.spec.parent


@dataclass(frozen=True)
class Job(abc.ABC):
    """What a scheduler says of a job at one look, in its own words where it is text.

    `reason` is why it waits, or went wrong; `nodes` where it runs, or ran last; `restarts` how
    often it was started again after it had lost its nodes. Seconds are the cluster's: those in the
    queue, and those of all of its nodes together.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    queued_seconds: float = 0.0
    node_seconds: float = 0.0

    # The states of a job that waits, and of one that does nothing more.
    waiting: ClassVar[str] = "WAITS"
    over: ClassVar[frozenset[str]]

    @property
    def waits(self) -> bool:
        return self.state == self.waiting

    @property
    def would_never_start(self) -> bool:
        """Whether it waits for what doesn't come by itself."""
        return False

    @property
    def cure(self) -> str:
        """What helps where it would never start; "" where it asks for what there isn't."""
        return ""

    @property
    def is_over(self) -> bool:
        return self.state in self.over

    @property
    def may_come_back(self) -> bool:
        """Whether a job that is over may yet be put back into the queue."""
        return False

    @property
    def was_lost(self) -> bool:
        """Whether it is over since a node was lost, and another job may go on in its place."""
        return False

    @property
    def went_well(self) -> bool:
        return self.state == "COMPLETED"

    @property
    def was_out_of_memory(self) -> bool:
        return self.state == "OUT_OF_MEMORY"

    @property
    @abc.abstractmethod
    def how_it_ended(self) -> str:
        """A sentence's end after the job's id, with the cure where there is one."""

    @property
    def node_hours(self) -> float:
        return self.node_seconds / 3600


class Scheduler(Protocol):
    """Who runs jobs. All but `require` raise NoAnswerError while it is away."""

    @property
    def name(self) -> str:
        """As people call it."""

    @property
    def section(self) -> str:
        """The key of its settings under `compute`, and of a job's metrics."""

    @property
    def request(self) -> Request: ...

    @property
    def cure_for_stops(self) -> str:
        """What helps where jobs are stopped again and again before they have done anything."""

    def require(self) -> None:
        """Raises SettingsError where this machine can't ask it for anything."""

    def require_taken(self) -> None:
        """Raises SettingsError where no job as asked for would be taken; asks for none."""

    def submit(self, task: Task, name: str, stop_seconds: float) -> str:
        """Have `task` run as `name`; returns the job's id. Raises SettingsError if refused."""

    def look_at(self, job: str) -> Job | None:
        """None where it knows nothing of that job, or has forgotten it."""

    def named(self, name: str) -> str | None:
        """The id of the job of that name that waits or runs."""

    def ask_to_save(self, job: str) -> None:
        """Ask the stage of a running job to save its state and leave."""

    def cancel(self, job: str) -> None:
        """Take a job from the queue, or end it at once."""

    def close(self) -> None:
        """Nothing more is asked."""
