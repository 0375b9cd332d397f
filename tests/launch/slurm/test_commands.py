"""What Slurm says of a job that waits, in the words of its own library."""

from __future__ import annotations

import pytest

from chatllama_pipeline.launch.slurm.commands import parse


def waits_for(reason: str) -> str:
    """A line of `scontrol show job --oneliner` that Slurm 22.05 printed, with another reason."""
    return (
        "JobId=16 JobName=wrap UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901745 "
        f"Nice=0 Account=(null) QOS=normal JobState=PENDING Reason={reason} Dependency=(null) "
        "Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:00 "
        "TimeLimit=UNLIMITED TimeMin=N/A SubmitTime=2026-11-28T10:53:23 StartTime=Unknown "
        "EndTime=Unknown Partition=all NodeList=(null) NumNodes=1-1 NumCPUs=64"
    )


@pytest.mark.parametrize(
    ("reason", "for_ever"),
    [
        ("PartitionNodeLimit", True),
        ("PartitionTimeLimit", True),
        ("QOSNotAllowed", True),
        ("QOSMaxNodePerJobLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("QOSMaxGRESPerJob", True),
        ("QOSMaxCpuPerNode", True),
        ("QOSMinGRES", True),
        ("QOSMinCpuNotSatisfied", True),
        ("AssocMaxMemPerJob", True),
        ("AssocMaxCpuMinutesPerJobLimit", True),
        ("InvalidQOS", True),
        ("DependencyNeverSatisfied", True),
        ("ReservationDeleted", True),
        ("Job's_QOS_not_permitted_to_use_this_partition_(theirs_allows_a_not_b)", True),
        ("Job's_account_not_known,_so_it_can't_use_this_partition_(theirs_allows_theirs)", True),
        ("PartitionConfig", False),  # not at once
        ("Priority", False),
        ("Resources", False),
        ("QOSMaxJobsPerUserLimit", False),
        ("QOSMaxGRESPerUser", False),
        ("QOSGrpNodeLimit", False),
        ("AssocGrpCPUMinutesLimit", False),
        ("AssocMaxJobsLimit", False),
        ("PartitionDown", False),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs", False),
        ("BeginTime", False),
    ],
)
def test_a_job_is_taken_back_for_what_it_waits_for_in_vain_alone(
    reason: str, for_ever: bool
) -> None:
    job = parse(waits_for(reason))
    assert job.waits
    assert job.would_never_start is for_ever
