"""The runs of one assistant, as an instance of Dagster knows them."""

import dagster as dg

PARTITION_TAG = "dagster/partition"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def unfinished_run(instance: dg.DagsterInstance, name: str) -> str | None:
    """The id of a run of assistant `name` that waits or goes on."""
    found = instance.get_run_records(
        dg.RunsFilter(tags={PARTITION_TAG: name}, statuses=UNFINISHED), limit=1
    )
    return found[0].dagster_run.run_id if found else None
