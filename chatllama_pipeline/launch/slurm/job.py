"""A stage as a batch job, from its submission to how it ends.

A job is meant to outlive the process that asked for it: its id stands in the run folder, and the
next run of the same work finds it there, waits for it and starts no second one.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.errors import ChildError, OutOfMemoryError, SettingsError
from chatllama_pipeline.launch.child import held_signals, tail
from chatllama_pipeline.launch.slurm import commands
from chatllama_pipeline.launch.slurm.commands import Job, NoAnswerError
from chatllama_pipeline.launch.slurm.script import Wanted, sbatch_arguments, write_scripts
from chatllama_pipeline.store.manifests import write_atomically

LOOK_SECONDS = 2.0
# A waiting job says why, this often.
WAITING_SECONDS = 60.0
# How long a controller may be away (it is started again, say) before we give up on it.
CONTROLLER_SECONDS = 600.0
# A job that lost its node, or was preempted, is put back into the queue within this time.
REQUEUE_SECONDS = 30.0
# What an ending job may take on top of what its stage needs to save.
CANCEL_SECONDS = 30.0
JOB_FILE = "job.json"
# A job that waits for these waits for ever, until somebody changes the cluster or the request.
HOPELESS = frozenset(
    {
        "AccountNotAllowed",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
    }
)

_GOES_ON = "run it again, it continues from its last state"
_WHAT_STATES_MEAN = {
    "TIMEOUT": "reached its time limit: raise compute.slurm.time_limit, or lower checkpoint_steps",
    "CANCELLED": "was cancelled, and not by this run",
    "NODE_FAIL": f"lost its node and was not put back into the queue: {_GOES_ON}",
    "PREEMPTED": f"was preempted and not put back into the queue: {_GOES_ON}",
}


@dataclass(frozen=True)
class Task:
    """A stage's command and files: `spec` is what it reads, `log` what it prints.

    `begin` clears away what an earlier try wrote, `is_done` says whether the stage left its result.
    """

    name: str
    command: Sequence[str]
    spec: Path
    log: Path
    begin: Callable[[], None]
    is_done: Callable[[], bool]

    @property
    def folder(self) -> Path:
        return self.spec.parent

    @property
    def job_file(self) -> Path:
        return self.folder / JOB_FILE


@dataclass(frozen=True)
class JobRun:
    """A job that ended well; `ended` is None where the controller has forgotten it."""

    id: str
    seconds: float
    ended: Job | None


class JobError(ChildError):
    """A job ended badly, by itself."""

    def __init__(self, message: str, id: str, seconds: float, ended: Job) -> None:
        super().__init__(message)
        self.id, self.seconds, self.ended = id, seconds, ended


def run_job(
    task: Task,
    wanted: Wanted,
    *,
    env: Mapping[str, str],
    say: Callable[[str], None],
    stop_seconds: float,
) -> JobRun:
    """Submit `task`, or find the job that was, and wait for its end; `say` gets its lines.

    Interrupted, it has the stage save within `stop_seconds`, and leaves no job behind.

    Raises SettingsError where Slurm is absent, refuses the job or would never start it,
    NoAnswerError where its controller is away too long, OutOfMemoryError, JobError with the state,
    the reason and the end of the log, or ChildError where this process took the job back.
    """
    commands.require_slurm()
    begun = time.monotonic()
    with held_signals() as held:
        found = _found(task, say)
        job = found or _submit(task, wanted, env, stop_seconds, say)
        watch = _Watch(task, job, say, wanted.queue_seconds, held)
        if found:
            watch.skip_what_was_printed()
        try:
            ended = watch.until_end()
        except NoAnswerError:
            raise  # the job may go on: the next run looks for it
        except BaseException:
            if _end(job, stop_seconds):
                task.job_file.unlink(missing_ok=True)
            raise
    task.job_file.unlink(missing_ok=True)
    seconds = time.monotonic() - begun
    if ended is None and not task.is_done():
        raise ChildError(
            f"job {job} is gone, and {task.name} left no result: look at {task.log}, and at what "
            "your cluster logs of the job"
        )
    if ended is not None and ended.state != "COMPLETED":
        raise _what_went_wrong(task, job, ended, seconds)
    return JobRun(job, seconds, ended)


def _found(task: Task, say: Callable[[str], None]) -> str | None:
    """The job of this very spec that an earlier run left behind: it goes still, or ended well.

    A job of another spec (another micro-batch, say) would write to the same folder: it is ended.
    """
    if not task.job_file.exists():
        return None
    told = json.loads(task.job_file.read_text())
    # Killed amid the submission, a run knows its job by name alone.
    job = told["id"] or commands.named(told["name"])
    left = None if job is None else commands.look_at(job)
    if job is None:
        return None
    over = left is None or left.state in commands.ENDED
    if told["spec"] != task.spec.read_text():
        if not over:
            say(f"{task.name}: ends job {job}, which an earlier run left with other settings")
            _end(job, CANCEL_SECONDS)
        return None
    if over and not task.is_done():
        return None
    state = "over" if left is None else left.state
    say(f"{task.name}: takes up job {job}, which an earlier run left ({state})")
    return str(job)


def _submit(
    task: Task,
    wanted: Wanted,
    env: Mapping[str, str],
    stop_seconds: float,
    say: Callable[[str], None],
) -> str:
    task.begin()
    task.log.unlink(missing_ok=True)
    script = write_scripts(task.folder, task.command, wanted, task.spec)
    name = f"chatllama-{task.name}-{uuid.uuid4().hex[:12]}"
    told = {"name": name, "id": None, "spec": task.spec.read_text()}
    write_atomically(task.job_file, told)
    job = commands.submit(sbatch_arguments(wanted, name, task.log, stop_seconds), script, env)
    write_atomically(task.job_file, told | {"id": job})
    nodes = f"{wanted.nodes} nodes" if wanted.nodes > 1 else "one node"
    say(f"{task.name}: job {job} of Slurm, on {nodes}")
    return job


class _Watch:
    """Looks at a job, and hands on what it prints."""

    def __init__(
        self,
        task: Task,
        job: str,
        say: Callable[[str], None],
        queue_seconds: float,
        held: list[int],
    ) -> None:
        self._task, self._job, self._say = task, job, say
        self._queue_seconds, self._held = queue_seconds, held
        self._read = 0
        self._rest = b""

    def skip_what_was_printed(self) -> None:
        """Begin at the end of the log: an earlier run has handed on the rest."""
        with contextlib.suppress(OSError):
            self._read = self._task.log.stat().st_size

    def until_end(self) -> Job | None:
        """What the controller says of the job at its end; None where it has forgotten it."""
        last_answer = waiting_since = time.monotonic()
        last_told, maybe_over = -WAITING_SECONDS, 0.0
        while True:
            now = time.monotonic()
            try:
                job = commands.look_at(self._job)
                last_answer = now
            except NoAnswerError as error:
                self._bear(error, now - last_answer)
                job = Job("UNKNOWN", "", "", "", 0, 0, None, None, None)
            self._hand_on()
            if job is None:
                return None
            if job.state in commands.ENDED:
                maybe_over = maybe_over or now
                gone = now - maybe_over > REQUEUE_SECONDS
                if job.state not in commands.MAY_COME_BACK or gone:
                    return job
            else:
                maybe_over = 0.0
            if job.state != "PENDING":
                waiting_since, last_told = now, -WAITING_SECONDS
            elif now - last_told >= WAITING_SECONDS:
                last_told = now
                self._say(f"{self._task.name}: job {self._job} waits ({job.reason})")
            if job.state == "PENDING" and job.reason in HOPELESS:
                raise SettingsError(
                    f"job {self._job} would never start ({job.reason}) and was taken back: ask for "
                    "what the partition gives (compute.nodes, compute.slurm)"
                )
            if now - waiting_since > self._queue_seconds:
                raise ChildError(
                    f"job {self._job} has waited {self._queue_seconds / 60:.0f} minutes "
                    f"({job.reason}) and was taken back: ask for less (compute.nodes, "
                    "compute.slurm), or raise compute.slurm.queue_minutes"
                )
            self._pause()

    def _pause(self) -> None:
        deadline = time.monotonic() + LOOK_SECONDS
        while time.monotonic() < deadline:
            if self._held:
                name = signal.Signals(self._held[0]).name
                raise ChildError(f"job {self._job} was stopped: {name}")
            time.sleep(0.1)

    def _bear(self, error: NoAnswerError, seconds: float) -> None:
        if seconds > CONTROLLER_SECONDS:
            raise NoAnswerError(
                f"{error}; nothing was heard of job {self._job} for {seconds / 60:.0f} minutes: "
                "run again when Slurm is back, the job is looked for then"
            ) from error

    def _hand_on(self) -> None:
        for line in self._new_lines():
            if line.startswith(f"{self._task.name}: "):
                self._say(line)

    def _new_lines(self) -> Iterator[str]:
        with contextlib.suppress(OSError), self._task.log.open("rb") as file:
            file.seek(self._read)
            content = file.read()
            self._read += len(content)
            *lines, self._rest = (self._rest + content).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)


def _end(job: str, stop_seconds: float) -> bool:
    """End a job; whether it is over.

    Its stage is asked to save, then whatever is left is ended by Slurm.
    """
    with contextlib.suppress(NoAnswerError):
        if _state(job) == "RUNNING":
            commands.signal_steps(job, "TERM")
            _await(job, stop_seconds)
        commands.cancel(job)
        return _await(job, CANCEL_SECONDS)
    return False


def _state(job: str) -> str:
    known = commands.look_at(job)
    return "COMPLETED" if known is None else known.state


def _await(job: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _state(job) in commands.ENDED:
            return True
        time.sleep(0.2)
    return False


def _what_went_wrong(task: Task, job: str, ended: Job, seconds: float) -> ChildError:
    where = f" on {ended.nodes}" if ended.nodes else ""
    printed = f"; the end of {task.log}:\n{tail(task.log)}" if task.log.exists() else ""
    if ended.state == "OUT_OF_MEMORY":
        return OutOfMemoryError(
            f"job {job} was killed{where}, out of the memory that it had asked for: raise "
            f"compute.slurm.memory, or lower micro_batch_size{printed}"
        )
    told = _WHAT_STATES_MEAN.get(
        ended.state, f"ended as {ended.state} ({ended.reason}, exit code {ended.exit_code})"
    )
    return JobError(f"job {job} {told}{where}{printed}", job, seconds, ended)
