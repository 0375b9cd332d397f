"""Runs whose process was killed: Dagster is told that they ended."""

import json

import dagster as dg

from chatllama_pipeline.automation.stopping import interrupt_ended
from chatllama_pipeline.automation.ticks import tick_result
from resources.signs_of_life import runs_without_life, signs_folder
from resources.time_limit import retry_though_limited

GONE = "its process is gone: killed, or out of memory, or the machine went down"


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process is gone, and tells those of a terminal that they were "
    "terminated on this page, or by their time limit; starts none. Dagster tries them again where "
    "dagster.yaml has run_retries.",
)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """So that nothing waits for a run that never ends."""
    told = []
    ending = interrupt_ended(context.instance, set(json.loads(context.cursor or "[]")))
    for run_id in runs_without_life(signs_folder(context.instance)):
        run = context.instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            context.instance.report_run_canceled(run, f"The run was ended: {GONE}.")
        else:
            message = f"The run was lost: {GONE}. Run it again: it continues."
            retry_though_limited(context.instance, run)
            context.instance.report_run_failed(run, message)
        told.append(f"run {run_id} was lost: {GONE}")
    cursor = json.dumps(sorted(ending))
    return tick_result(context, [], told, "every run's process lives", cursor=cursor)
