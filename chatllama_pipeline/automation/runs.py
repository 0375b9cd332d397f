"""The runs of one assistant, as an instance of Dagster knows them."""

import time

import dagster as dg

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


def remove_run(instance: dg.DagsterInstance, run: str) -> None:
    """Remove a run that is over, with its events and logs."""
    instance.compute_log_manager.delete_logs(prefix=[run])
    instance.delete_run(run)
