"""Forgetting an assistant in Dagster: its runs with their events and logs, and its partition.

`chatllama forget` runs `python -m chatllama_pipeline.automation.removing.forgetting NAME
[--folder]`.
"""

import sys
from collections.abc import Iterator

import dagster as dg

from assets.partitions import NAME as PARTITIONS
from chatllama_pipeline.automation.runs import PARTITION_TAG, remove_run, unfinished_run
from chatllama_pipeline.errors import ChatllamaError, StoreError
from chatllama_pipeline.lineage.history.forgetting import forget, require_known
from chatllama_pipeline.store.versions import store_root

AT_ONCE = 100


def forget_everywhere(instance: dg.DagsterInstance, name: str, with_folder: bool) -> Iterator[str]:
    """Remove an assistant from the store and from Dagster, and tell what stays.

    Raises StoreError, and removes nothing, while a run of it waits or goes on.
    """
    require_known(name, store_root())
    if run := unfinished_run(instance, name):
        raise StoreError(
            f"run {run} of {name} waits or goes on: wait for its end, or end it, and forget then"
        )
    yield from forget(name, store_root(), with_folder)
    yield from _forget_runs(instance, name)


def _forget_runs(instance: dg.DagsterInstance, name: str) -> Iterator[str]:
    count = 0
    wanted = dg.RunsFilter(tags={PARTITION_TAG: name})
    while records := instance.get_run_records(wanted, limit=AT_ONCE):
        for record in records:
            remove_run(instance, record.dagster_run.run_id)
            count += 1
    instance.delete_dynamic_partition(PARTITIONS, name)
    yield f"removed {count} runs of it from Dagster, with their events and logs"
    yield (
        "kept in Dagster: the newest event of each asset that was this assistant's, with three "
        "rows of a table at most, until another assistant's takes its place"
    )


def main() -> None:
    """Forget the assistant that the arguments name; errors of ours in a line, exit code 2."""
    name, with_folder = sys.argv[1], "--folder" in sys.argv[2:]
    try:
        with dg.DagsterInstance.get() as instance:
            for line in forget_everywhere(instance, name, with_folder):
                print(line, flush=True)
    except ChatllamaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
