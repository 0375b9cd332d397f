"""Jobs that Slurm holds: what it printed of them (22.05.8), asked by a program of its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chatllama_pipeline.launch.slurm import scheduler
from chatllama_pipeline.launch.slurm.commands import parse
from chatllama_pipeline.launch.slurm.scheduler import Slurm
from chatllama_pipeline.launch.slurm.script import Wanted


def told(reason: str, state: str = "PENDING", priority: int = 0) -> str:
    """A line of `scontrol show job --oneliner`."""
    return (
        f"JobId=3 JobName=wrap UserId=root(0) GroupId=root(0) MCS_label=N/A Priority={priority} "
        f"Nice=0 Account=(null) QOS=normal JobState={state} Reason={reason} Dependency=(null) "
        "Requeue=1 Restarts=1 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:00 "
        "TimeLimit=UNLIMITED TimeMin=N/A SubmitTime=2026-11-28T14:05:13 StartTime=Unknown "
        "EndTime=Unknown Partition=all NodeList=(null) NumNodes=1-1 NumCPUs=1"
    )


@pytest.mark.parametrize("reason", ["None", "Priority", "BeginTime", "JobHeldUser"])
def test_what_is_released_or_never_was_held_waits_on(reason: str) -> None:
    job = parse(told(reason, priority=4294901756))
    assert job.waits
    assert not job.would_never_start


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a scontrol that says what stands in `says` there, and notes in `asked` what it
    was asked to change."""
    program = tmp_path / "scontrol"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = show ] && exec cat {tmp_path}/says\necho "$@" >> {tmp_path}/asked\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


@pytest.mark.parametrize("reason", ["launch_failed_requeued_held", "JobHoldMaxRequeue"])
def test_what_slurm_holds_by_itself_is_released_once_and_after_a_while(
    asked: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    (asked / "says").write_text(told(reason))
    slurm = Slurm(Wanted(), {})

    def looked() -> tuple[str, bool, bool]:
        job = slurm.look_at("3")
        assert job is not None
        return job.reason, job.would_never_start, (asked / "asked").exists()

    assert looked() == (f"{reason}: is released, once", False, False)
    monkeypatch.setattr(scheduler, "RELEASE_SECONDS", 0.0)
    assert looked() == (f"{reason}: is released, once", False, True)
    assert looked() == (reason, True, True)
    assert (asked / "asked").read_text() == "release 3\n"


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("launch_failed_requeued_held", "sinfo -R.*nodename=NODE state=resume.*run it again"),
        ("JobHoldMaxRequeue", "max_batch_requeue.*run it again"),
    ],
)
def test_what_slurm_holds_has_a_cure(reason: str, cure: str) -> None:
    assert re.search(cure, parse(told(reason)).cure)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("JobHeldUser", "PENDING"),
        ("JobHeldAdmin", "PENDING"),
        ("job_requeued_in_held_state", "REQUEUE_HOLD"),
        ("job_requeued_in_held_state", "SPECIAL_EXIT"),
    ],
)
def test_what_a_person_holds_waits_for_them(asked: Path, reason: str, state: str) -> None:
    (asked / "says").write_text(told(reason, state))
    job = Slurm(Wanted(), {}).look_at("3")
    assert job is not None
    assert job.waits and not job.would_never_start
    assert job.reason.startswith(reason) and "`scontrol release 3`" in job.reason
    assert not (asked / "asked").exists()
