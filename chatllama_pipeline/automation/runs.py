"""The runs of one assistant, as an instance of Dagster knows them."""

import time
from datetime import UTC, datetime

import dagster as dg

from chatllama_pipeline.automation.jobs import all_job
from chatllama_pipeline.settings.folder import times_hash

# When a sensor asked for everything, and how the assistant's files were then.
ASKED_AT_TAG = "chatllama/asked_at"
FILES_TAG = "chatllama/files"
# So many of an assistant's newest runs of everything are looked through.
LOOKED_THROUGH = 10
PARTITION_TAG = "dagster/partition"
GOING = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
ENDED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
UNFINISHED = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, *GOING]


WILL_RETRY = {"dagster/will_retry": "true"}
# The daemon tries a lost run again within seconds; what it didn't in so many, it never will.
RETRY_SECONDS = 600.0


def unfinished_run(instance: dg.DagsterInstance, name: str) -> str | None:
    """The id of a run of assistant `name` that waits, goes on, or is about to be tried again."""
    found = instance.get_run_records(
        dg.RunsFilter(tags={PARTITION_TAG: name}, statuses=UNFINISHED), limit=1
    )
    if found:
        return found[0].dagster_run.run_id
    failed = dg.RunsFilter(
        tags={PARTITION_TAG: name, **WILL_RETRY}, statuses=[dg.DagsterRunStatus.FAILURE]
    )
    for record in instance.get_run_records(failed, limit=1):
        run, ended = record.dagster_run, record.end_time or 0.0
        if run.is_complete_and_waiting_to_retry and time.time() - ended < RETRY_SECONDS:
            return run.run_id
    return None


def going_run(instance: dg.DagsterInstance, name: str, besides: str = "") -> str | None:
    """The id of a run of assistant `name` that goes on, other than the run `besides`."""
    wanted = dg.RunsFilter(tags={PARTITION_TAG: name}, statuses=GOING)
    found = [record.dagster_run.run_id for record in instance.get_run_records(wanted)]
    return next((run for run in found if run != besides), None)


def asked_tags(name: str) -> dict[str, str]:
    """What a request for everything of an assistant says, for whoever would ask for the same.

    Raises OSError where its folder can't be read.
    """
    return {ASKED_AT_TAG: datetime.now(UTC).isoformat(), FILES_TAG: times_hash(name)}


def asked_since(instance: dg.DagsterInstance, name: str, since: datetime) -> str | None:
    """The id of a run of everything of assistant `name` that a sensor asked for since then."""
    wanted = dg.RunsFilter(job_name=all_job.name, tags={PARTITION_TAG: name})
    for run in instance.get_runs(wanted, limit=LOOKED_THROUGH):
        told = run.tags.get(ASKED_AT_TAG)
        if told and datetime.fromisoformat(told) >= since:
            return run.run_id
    return None


def asked_of_these_files(instance: dg.DagsterInstance, name: str) -> list[dg.DagsterRun]:
    """Runs of everything that a sensor asked for since the folder of `name` is as it is.

    The newest first, and no more than anybody wants to know. Raises OSError where the folder can't
    be read.
    """
    tags = {PARTITION_TAG: name, FILES_TAG: times_hash(name)}
    return list(instance.get_runs(dg.RunsFilter(tags=tags), limit=LOOKED_THROUGH))


def remove_run(instance: dg.DagsterInstance, run: str) -> None:
    """Remove a run that is over, with its events and logs."""
    instance.compute_log_manager.delete_logs(prefix=[run])
    instance.delete_run(run)
