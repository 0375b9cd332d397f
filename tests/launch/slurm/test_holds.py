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


@pytest.mark.parametrize(
    ("reason", "state", "cure"),
    [
        ("JobHeldUser", "PENDING", "somebody holds it"),
        ("JobHeldAdmin", "PENDING", "somebody holds it"),
        ("job_requeued_in_held_state", "PENDING", "somebody holds it"),
        ("job_requeued_in_held_state", "SPECIAL_EXIT", "somebody holds it"),
        ("launch_failed_requeued_held", "PENDING", "sinfo -R.*nodename=NODE state=resume"),
        ("JobHoldMaxRequeue", "PENDING", "max_batch_requeue"),
    ],
)
def test_a_held_job_never_starts_by_itself_and_has_a_cure(
    reason: str, state: str, cure: str
) -> None:
    job = parse(told(reason, state))
    assert job.waits and job.held and job.would_never_start
    assert re.search(cure, job.cure)


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


def test_what_a_person_holds_is_not_released(asked: Path) -> None:
    (asked / "says").write_text(told("JobHeldAdmin"))
    job = Slurm(Wanted(), {}).look_at("3")
    assert job is not None
    assert job.would_never_start
    assert not (asked / "asked").exists()


@pytest.mark.parametrize("option", ["--hold", "-H"])
def test_a_job_that_was_to_be_held_waits_and_says_for_what(asked: Path, option: str) -> None:
    (asked / "says").write_text(told("JobHeldUser"))
    job = Slurm(Wanted(arguments=[option]), {}).look_at("3")
    assert job is not None
    assert not job.would_never_start
    assert "`scontrol release 3`" in job.reason
    assert not (asked / "asked").exists()
