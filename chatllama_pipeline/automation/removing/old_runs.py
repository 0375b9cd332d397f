"""Removing from Dagster the runs that ended long ago, with their events and logs.

`chatllama prune --runs-days DAYS` runs `python -m
chatllama_pipeline.automation.removing.old_runs DAYS [--dry-run]`.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.partitions import NAME as PARTITIONS
from chatllama_pipeline.automation.runs import ENDED, remove_run


def remove_old_runs(
    instance: dg.DagsterInstance, days: int, dry_run: bool = False
) -> Iterator[str]:
    """Remove runs that ended `days` ago or earlier, and tell how many.

    A run that made what Dagster has last of any assistant's asset stays: with it would go what the
    page shows of that asset, and the results of its checks.
    """
    kept = _runs_of_the_last(instance)
    wanted = dg.RunsFilter(statuses=ENDED, updated_before=datetime.now(UTC) - timedelta(days=days))
    old = instance.get_run_ids(wanted)
    going = [run for run in old if run not in kept]
    for run in going:
        if not dry_run:
            remove_run(instance, run)
    verb = "would remove" if dry_run else "removed"
    yield f"{verb} {len(going)} runs that ended {days} days ago, with their events and logs"
    if stay := len(old) - len(going):
        yield f"kept {stay} of them, which made what an assistant has last of an asset"


def _runs_of_the_last(instance: dg.DagsterInstance) -> set[str]:
    """The runs of each asset's newest materialization, of every assistant."""
    names = instance.get_dynamic_partitions(PARTITIONS)
    found = set()
    for key in instance.get_asset_keys():
        for partitions in (None, *([name] for name in names)):
            wanted = dg.AssetRecordsFilter(key, asset_partitions=partitions)
            records = instance.fetch_materializations(wanted, limit=1).records
            found |= {record.run_id for record in records}
    return found


def main() -> None:
    """Remove what the arguments name from the instance at hand."""
    with dg.DagsterInstance.get() as instance:
        for line in remove_old_runs(instance, int(sys.argv[1]), "--dry-run" in sys.argv[2:]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
