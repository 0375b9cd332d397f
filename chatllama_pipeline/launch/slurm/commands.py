"""Slurm's own commands, as far as a job needs them (documented for 22.05 to 25.05)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.jobs import scheduler
from chatllama_pipeline.launch.jobs.scheduler import NoAnswerError

# A busy controller answers within a minute or never.
ANSWER_SECONDS = 60.0
# What Slurm says of a job that its controller has forgotten, some minutes after its end.
_FORGOTTEN = "Invalid job id"
# What it says of a request that may be taken at another time.
_NOT_NOW = ("not available", "busy", "down")
# What it says to whom its controller doesn't trust: no word of clocks, nor of keys.
_UNTRUSTED = ("Zero Bytes were transmitted", "authentication", "credential")
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)")
# States after which a job does nothing more. NODE_FAIL and PREEMPTED are among them only where the
# job isn't put back into the queue.
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
MAY_COME_BACK = frozenset({"NODE_FAIL", "PREEMPTED"})
# A job that waits for these waits for ever, until somebody changes the cluster or the request.
HOPELESS = frozenset(
    {
        "AccountNotAllowed",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
        "QOSTimeLimit",
        "ReservationDeleted",
    }
)
# What a QOS or an account admits of one job, on all of its nodes or each. What it admits of all
# jobs together, or of a user's, is free again once others have ended.
_TOO_MUCH_FOR_ONE = re.compile(r"(QOS|Assoc)(Max\w+Per(Job|Node)|Min)\w*")
# What Slurm says of a job that is held, by whomever.
_HOLD = re.compile(r"[Hh]eld|Hold|special_exit")
# So it shows a job that was put back into the queue and is held there.
_HELD_STATES = frozenset({"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
# Why Slurm holds a job by itself, and what helps where that wasn't for once.
_HELD_BY_SLURM = {
    "launch_failed_requeued_held": "the node that was to start it could not: `sinfo -R` names it "
    "and says why, `scontrol update nodename=NODE state=resume` brings it back once it is mended",
    "JobHoldMaxRequeue": "it was requeued as often as the cluster allows (max_batch_requeue): "
    "`sinfo -R` tells which nodes fail",
}
# So it says of a job that no node of its partition fits, and for a moment of many another.
FITS_NOWHERE = "PartitionConfig"
# Of accounts and QOSs that a partition doesn't admit it tells by a sentence, in other words.
_NOT_ADMITTED = ("can't_use_this_partition", "not_permitted_to_use_this_partition")
_GOES_ON = "run it again, it continues from its last state"
_WHAT_STATES_MEAN = {
    "TIMEOUT": "reached its time limit: raise compute.slurm.time_limit, or lower checkpoint_steps",
    "CANCELLED": "was cancelled, and not by this run",
    "NODE_FAIL": f"lost its node and was not put back into the queue: {_GOES_ON}",
    "PREEMPTED": f"was preempted and not put back into the queue: {_GOES_ON}",
    "OUT_OF_MEMORY": "was killed, out of the memory that it had asked for: raise "
    "compute.slurm.memory, or lower micro_batch_size",
}


@dataclass(frozen=True)
class Job(scheduler.Job):
    """What the controller says of a job; one that is stuck waits for what doesn't come, one that is
    held until it is released."""

    exit_code: str = "0:0"
    stuck: bool = False
    held: bool = False

    waiting: ClassVar[str] = "PENDING"
    over: ClassVar[frozenset[str]] = ENDED

    @property
    def waits(self) -> bool:
        return self.state == self.waiting or self.state in _HELD_STATES

    @property
    def would_never_start(self) -> bool:
        not_admitted = any(words in self.reason for words in _NOT_ADMITTED)
        too_much = _TOO_MUCH_FOR_ONE.fullmatch(self.reason) is not None
        hopeless = self.reason in HOPELESS or not_admitted or too_much
        return self.waits and (hopeless or self.stuck)

    @property
    def cure(self) -> str:
        return f"{_HELD_BY_SLURM[self.reason]}; then run it again" if self.held_by_slurm else ""

    @property
    def held_by_slurm(self) -> bool:
        """Whether Slurm holds it by itself, over something that may not come again."""
        return self.held and self.reason in _HELD_BY_SLURM

    @property
    def may_come_back(self) -> bool:
        return self.state in MAY_COME_BACK

    @property
    def was_lost(self) -> bool:
        return self.state in MAY_COME_BACK

    @property
    def how_it_ended(self) -> str:
        told = f"ended as {self.state} ({self.reason}, exit code {self.exit_code})"
        return _WHAT_STATES_MEAN.get(self.state, told)


def require_slurm() -> None:
    """Raises SettingsError where this machine has no Slurm commands."""
    absent = [
        name for name in ("sbatch", "scontrol", "scancel", "squeue") if shutil.which(name) is None
    ]
    if absent:
        raise SettingsError(
            f"compute.launcher is 'slurm', but {', '.join(absent)} can't be found: start Dagster "
            "where jobs are submitted (a login node), or use launcher 'local'"
        )


def submit(arguments: Sequence[str], script: Path, env: Mapping[str, str]) -> str:
    """Submit a batch script; returns the job's id. Raises SettingsError where it is refused."""
    done = _ask(["sbatch", "--parsable", *arguments, str(script)], env)
    if done.returncode != 0:
        raise _refusal(_said(done))
    # With several clusters: ID;CLUSTER.
    return done.stdout.strip().partition(";")[0]


def try_out(arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Hear whether a job would be taken, without one. Raises SettingsError where it wouldn't."""
    done = _ask(["sbatch", "--test-only", *arguments, "--wrap=true"], env)
    said = _said(done)
    if done.returncode != 0 and not any(words in said for words in _NOT_NOW):
        raise _refusal(said)


def _refusal(said: str) -> SettingsError | NoAnswerError:
    if _unreachable(said):
        return NoAnswerError(f"sbatch: {said}: is slurmctld up? Run again when it is")
    if any(words in said for words in _UNTRUSTED):
        return SettingsError(
            f"sbatch: {said}: Slurm's controller doesn't trust this machine. Compare their "
            "clocks (`date`; munge bears five minutes between them) and their munge keys"
        )
    return SettingsError(
        f"Slurm refused the job: {said}. Look at compute.slurm (partition, account, "
        "time_limit, memory, gpus), compute.nodes and compute.threads; `sinfo` lists what "
        "there is"
    )


def look_at(job: str) -> Job | None:
    """What the controller says of `job`; None if it has forgotten it. Raises NoAnswerError."""
    done = _ask(["scontrol", "show", "job", "--oneliner", job])
    if done.returncode != 0:
        said = _said(done)
        if _FORGOTTEN in said:
            return None
        raise NoAnswerError(f"scontrol show job {job}: {said}")
    return parse(done.stdout)


def named(name: str) -> str | None:
    """The job of that name that waits or runs, if there is one. Raises NoAnswerError."""
    done = _ask(["squeue", "--noheader", "--format=%i", f"--name={name}"])
    if done.returncode != 0:
        raise NoAnswerError(f"squeue --name={name}: {_said(done)}")
    return next(iter(done.stdout.split()), None)


def signal_steps(job: str, name: str) -> None:
    """Send a signal to all tasks of `job`; its script hears nothing. A job that waits has none."""
    _ask(["scancel", f"--signal={name}", job])


def cancel(job: str) -> None:
    """Take `job` from the queue, or end it."""
    _ask(["scancel", job])


def release(job: str) -> None:
    """Let a job that is held start; nothing is said where this user may not."""
    _ask(["scontrol", "release", job])


def parse(line: str) -> Job:
    """Read a line of `scontrol show job --oneliner`."""
    fields = dict(_FIELD.findall(line))
    submitted, started, ended = (
        _time(fields.get(f"{event}Time")) for event in ("Submit", "Start", "End")
    )
    count = int(fields.get("NumNodes", "1").partition("-")[0])
    state, reason = fields.get("JobState", "UNKNOWN"), fields.get("Reason", "None")
    # What is said of a hold may stay for a while after it.
    held = fields.get("Priority") == "0" and (state in _HELD_STATES or bool(_HOLD.search(reason)))
    return Job(
        state=state,
        reason=reason,
        nodes="" if fields.get("NodeList") in (None, "(null)") else fields["NodeList"],
        restarts=int(fields.get("Restarts", "0")),
        queued_seconds=_between(submitted, started),
        node_seconds=count * _between(started, ended),
        exit_code=fields.get("ExitCode", "0:0"),
        held=held,
    )


def _ask(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            # An interrupt of the terminal is for us: we tell Slurm what follows from it.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswerError(
            f"{command[0]} has not answered in {ANSWER_SECONDS:.0f} s: is slurmctld up?"
        ) from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"


def _unreachable(said: str) -> bool:
    return "Unable to contact slurm controller" in said or "configuration source" in said


def _time(text: str | None) -> datetime | None:
    return None if text in (None, "Unknown", "None", "N/A") else datetime.fromisoformat(text)


def _between(first: datetime | None, last: datetime | None) -> float:
    return 0.0 if first is None or last is None else max(0.0, (last - first).total_seconds())
