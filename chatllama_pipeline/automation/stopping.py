"""Ending runs from a terminal, whoever started them, and those of a terminal from Dagster's page.

`chatllama stop NAME` runs `python -m chatllama_pipeline.automation.stopping NAME`.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator

import dagster as dg

from chatllama_pipeline.automation.runs import ENDED, PARTITION_TAG, UNFINISHED
from resources.signs_of_life import process_of, signs_folder

# Dagster's tag of a run that its page can reach itself, since a server of code started it.
REACHABLE = ".dagster/grpc_info"
# A training has compute.stop_seconds to save its state, and is then ended.
MOST_SECONDS = 90.0
RETRY_SECONDS = 0.5


def stop_runs(
    instance: dg.DagsterInstance, name: str, most_seconds: float = MOST_SECONDS
) -> Iterator[str]:
    """End every run of assistant `name` that waits or goes on, and tell of each how it ended."""
    wanted = dg.RunsFilter(tags={PARTITION_TAG: name}, statuses=UNFINISHED)
    runs = instance.get_runs(wanted)
    if not runs:
        yield f"no run of {name} waits or goes on"
    for run in runs:
        process = process_of(signs_folder(instance), run.run_id)
        instance.report_run_canceling(run)
        if process is not None:
            os.kill(process, signal.SIGINT)
        elif run.status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED):
            instance.report_run_canceled(run)
    for run in runs:
        yield _ended(instance, run.run_id, time.monotonic() + most_seconds)


def interrupt_ended(instance: dg.DagsterInstance, told: set[str]) -> set[str]:
    """Interrupt runs that Dagster's page or a time limit ends and can't reach, but those `told`.

    A run of a terminal is one: Dagster marks it, and nobody tells its process. Returns those that
    are being ended.
    """
    signs = signs_folder(instance)
    ending = list(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELING])))
    # A run's sign is gone before it has ended by itself.
    if living := [path.name for path in signs.glob("*")]:
        ending += instance.get_runs(dg.RunsFilter(run_ids=living, statuses=ENDED))
    for run in ending:
        if REACHABLE in run.tags or run.run_id in told:
            continue
        process = process_of(signs, run.run_id)
        if process is not None:
            os.kill(process, signal.SIGINT)
    return {run.run_id for run in ending}


def _ended(instance: dg.DagsterInstance, run_id: str, until: float) -> str:
    while (run := instance.get_run_by_id(run_id)) and not run.is_finished:
        if time.monotonic() > until:
            return f"run {run_id} was told to end, and didn't so far: look at Dagster's page"
        time.sleep(RETRY_SECONDS)
    return f"run {run_id} was ended"


def main() -> None:
    """Stop the runs of the assistant that the argument names."""
    with dg.DagsterInstance.get() as instance:
        for line in stop_runs(instance, sys.argv[1]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
