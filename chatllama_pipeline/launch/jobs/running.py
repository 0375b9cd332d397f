"""A stage as a job of a cluster, from its submission to how it ends.

A job is meant to outlive the process that asked for it: its id stands in the run folder, and the
next run of the same work finds it there, waits for it and starts no second one.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.errors import ChildError, OutOfMemoryError, SettingsError
from chatllama_pipeline.launch.child import held_signals, tail
from chatllama_pipeline.launch.jobs.scheduler import Job, NoAnswerError, Scheduler, Task
from chatllama_pipeline.store.manifests import write_atomically

LOOK_SECONDS = 2.0
# A waiting job says why, this often.
WAITING_SECONDS = 60.0
# How long a scheduler may be away (it is started again, say) before we give up on it.
AWAY_SECONDS = 600.0
# A job that lost its node, or was preempted, is put back into the queue within this time; and a
# shared folder shows by then what a job wrote at its end.
COME_BACK_SECONDS = 30.0
# What an ending job may take on top of what its stage needs to save.
CANCEL_SECONDS = 30.0
JOB_FILE = "job.json"


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
    scheduler: Scheduler,
    *,
    say: Callable[[str], None],
    stop_seconds: float,
    look: Callable[[], None] = lambda: None,
) -> JobRun:
    """Submit `task`, or find the job that was, and wait for its end; `say` gets its lines.

    Interrupted, or where `look` raises, it has the stage save within `stop_seconds`, and leaves no
    job behind.

    Raises SettingsError where the scheduler is absent, refuses the job or would never start it,
    NoAnswerError where it is away too long, OutOfMemoryError, JobError with the state, the reason
    and the end of the log, or ChildError where this process took the job back.
    """
    require_no_job(task.folder, scheduler.section)
    scheduler.require()
    begun = time.monotonic()
    with held_signals() as held:
        found = _found(task, scheduler, say)
        job = found or _submit(task, scheduler, stop_seconds, say)
        watch = _Watch(task, job, scheduler, say, held, look)
        if found:
            watch.skip_what_was_printed()
        try:
            ended = watch.until_end()
        except NoAnswerError:
            raise  # the job may go on: the next run looks for it
        except BaseException:
            if _end(job, scheduler, stop_seconds):
                _job_file(task).unlink(missing_ok=True)
            raise
    _job_file(task).unlink(missing_ok=True)
    seconds = time.monotonic() - begun
    if ended is None and not task.is_done():
        raise ChildError(
            f"job {job} is gone, and {task.name} left no result: look at {task.log}, and at what "
            "your cluster logs of the job"
        )
    if ended is not None and not ended.went_well:
        raise _what_went_wrong(task, job, ended, seconds)
    return JobRun(job, seconds, ended)


def require_no_job(folder: Path, launcher: str) -> None:
    """Raises SettingsError where another launcher than `launcher` has a job for a run folder."""
    path = folder / JOB_FILE
    if not path.exists():
        return
    told = json.loads(path.read_text())
    other = told.get("launcher", launcher)
    if other != launcher:
        raise SettingsError(
            f"the job {told['id'] or told['name']} of launcher '{other}' may work in {folder} "
            f"still: run once more with that launcher, or end the job and remove {path}"
        )


def _job_file(task: Task) -> Path:
    return task.folder / JOB_FILE


def _found(task: Task, scheduler: Scheduler, say: Callable[[str], None]) -> str | None:
    """The job of this very spec that an earlier run left behind: it goes still, or ended well.

    A job of another spec (another micro-batch, say) would write to the same folder: it is ended.
    """
    if not _job_file(task).exists():
        return None
    told = json.loads(_job_file(task).read_text())
    # Killed amid the submission, a run knows its job by name alone.
    job = told["id"] or scheduler.named(told["name"])
    if job is None:
        return None
    left = scheduler.look_at(job)
    over = left is None or left.is_over
    if told["spec"] != task.spec.read_text():
        if not over:
            say(f"{task.name}: ends job {job}, which an earlier run left with other settings")
            _end(job, scheduler, CANCEL_SECONDS)
        return None
    if over and not task.is_done():
        return None
    state = "over" if left is None else left.state
    say(f"{task.name}: takes up job {job}, which an earlier run left ({state})")
    return str(job)


def _submit(
    task: Task, scheduler: Scheduler, stop_seconds: float, say: Callable[[str], None]
) -> str:
    task.begin()
    task.log.unlink(missing_ok=True)
    # Not every scheduler takes an underscore in a name.
    name = f"chatllama-{task.name.replace('_', '-')}-{uuid.uuid4().hex[:12]}"
    told = {
        "launcher": scheduler.section,
        "name": name,
        "id": None,
        "spec": task.spec.read_text(),
    }
    write_atomically(_job_file(task), told)
    try:
        job = scheduler.submit(task, name, stop_seconds)
    except SettingsError:
        _job_file(task).unlink()
        raise
    write_atomically(_job_file(task), told | {"id": job})
    nodes = scheduler.request.nodes
    where = f"{nodes} nodes" if nodes > 1 else "one node"
    say(f"{task.name}: job {job} of {scheduler.name}, on {where}")
    return job


class _Watch:
    """Looks at a job, and hands on what it prints."""

    def __init__(
        self,
        task: Task,
        job: str,
        scheduler: Scheduler,
        say: Callable[[str], None],
        held: list[int],
        look: Callable[[], None],
    ) -> None:
        self._task, self._job, self._scheduler, self._say = task, job, scheduler, say
        self._held, self._look = held, look
        self._read = 0
        self._rest = b""

    def skip_what_was_printed(self) -> None:
        """Begin at the end of the log: an earlier run has handed on the rest."""
        with contextlib.suppress(OSError):
            self._read = self._task.log.stat().st_size

    def until_end(self) -> Job | None:
        """What the scheduler says of the job at its end; None where it has forgotten it."""
        last_answer = waiting_since = time.monotonic()
        last_told, maybe_over = -WAITING_SECONDS, 0.0
        while True:
            now = time.monotonic()
            try:
                job = self._scheduler.look_at(self._job)
            except NoAnswerError as error:
                self._bear(error, now - last_answer)
                self._hand_on()
                self._pause()
                continue
            last_answer = now
            self._hand_on()
            if job is None or job.is_over:
                maybe_over = maybe_over or now
                if self._is_final(job) or now - maybe_over > COME_BACK_SECONDS:
                    return job
            else:
                maybe_over = 0.0
            if job is None or not job.waits:
                waiting_since, last_told = now, -WAITING_SECONDS
            else:
                if now - last_told >= WAITING_SECONDS:
                    last_told = now
                    self._say(f"{self._task.name}: job {self._job} waits ({job.reason})")
                self._look_at_queue(job, now - waiting_since)
            self._pause()

    def _is_final(self, job: Job | None) -> bool:
        return self._task.is_done() if job is None else not job.may_come_back

    def _look_at_queue(self, job: Job, seconds: float) -> None:
        section = self._scheduler.section
        if job.would_never_start:
            cure = job.cure or f"ask for what there is (compute.nodes, compute.{section})"
            raise SettingsError(
                f"job {self._job} would never start ({job.reason}) and was taken back: {cure}"
            )
        allowed = self._scheduler.request.queue_seconds
        if seconds > allowed:
            raise ChildError(
                f"job {self._job} has waited {allowed / 60:g} minutes ({job.reason}) and was taken "
                f"back: ask for less (compute.nodes, compute.{section}), or raise "
                f"compute.{section}.queue_minutes"
            )

    def _pause(self) -> None:
        deadline = time.monotonic() + LOOK_SECONDS
        while time.monotonic() < deadline:
            if self._held:
                name = signal.Signals(self._held[0]).name
                raise ChildError(f"job {self._job} was stopped: {name}")
            self._look()
            time.sleep(0.1)

    def _bear(self, error: NoAnswerError, seconds: float) -> None:
        if seconds > AWAY_SECONDS:
            raise NoAnswerError(
                f"{error}; nothing was heard of job {self._job} for {seconds / 60:.0f} minutes: "
                f"run again when {self._scheduler.name} is back, the job is looked for then"
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


def _end(job: str, scheduler: Scheduler, stop_seconds: float) -> bool:
    """End a job; whether it is over.

    Its stage is asked to save, then whatever is left is ended by the scheduler.
    """
    with contextlib.suppress(NoAnswerError):
        known = scheduler.look_at(job)
        if known is not None and not known.waits and not known.is_over:
            scheduler.ask_to_save(job)
            _await(job, scheduler, stop_seconds)
        scheduler.cancel(job)
        return _await(job, scheduler, CANCEL_SECONDS)
    return False


def _await(job: str, scheduler: Scheduler, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        known = scheduler.look_at(job)
        if known is None or known.is_over:
            return True
        time.sleep(0.2)
    return False


def _what_went_wrong(task: Task, job: str, ended: Job, seconds: float) -> ChildError:
    where = f" on {ended.nodes}" if ended.nodes else ""
    printed = f"; the end of {task.log}:\n{tail(task.log)}" if task.log.exists() else ""
    told = f"job {job}{where} {ended.how_it_ended}{printed}"
    if ended.was_out_of_memory:
        return OutOfMemoryError(told)
    return JobError(told, job, seconds, ended)
