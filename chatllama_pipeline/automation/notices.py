"""What tells people of failed runs and of releases that got old."""

import json
from datetime import UTC, datetime

import dagster as dg

from assets.partitions import ASSISTANTS
from assets.release import FRESH, fresh_result
from chatllama_pipeline.automation.keys import changed_keys
from chatllama_pipeline.automation.reading import settings_or_why
from chatllama_pipeline.automation.runs import PARTITION_TAG
from chatllama_pipeline.automation.ticks import tick_result
from chatllama_pipeline.lineage.history.freshness import RELEASE, release_freshness
from chatllama_pipeline.settings.folder import assistant_names, load_assistant
from resources.notices import Notice, tell
from resources.refusals import refusals
from resources.store import StoreResource


@dg.run_failure_sensor(
    name="failures",
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the webhook of CHATLLAMA_WEBHOOK of each run of an assistant that failed or "
    "was lost.",
)
def failures(context: dg.RunFailureSensorContext) -> None:
    """One notice for a run, with the error that ended its first failed step."""
    run = context.dagster_run
    name = run.tags.get(PARTITION_TAG)
    if name is None:
        return
    steps = context.get_step_failure_events()
    message = context.failure_event.message or ""
    if steps and (error := steps[0].step_failure_data.error):
        cause = error.cause or error
        message = f"{steps[0].step_key}: {cause.message.strip()}"
    tell(Notice("failed", name, message, run=run.run_id), context.log.warning)


@dg.op(out={"done": dg.Out(dg.Nothing)})
@refusals()
def record_freshness(context: dg.OpExecutionContext, store: StoreResource) -> None:
    """Record the check `fresh` of an assistant's release as it is now."""
    name = context.partition_key
    found = release_freshness(load_assistant(name), store.open(), datetime.now(UTC))
    result = fresh_result(found)
    # In a run, since Dagster keeps one result of a check for all that have none.
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(RELEASE),
        check_name=FRESH,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
        partition=name,
    )
    context.log_event(evaluation)  # type: ignore[arg-type]  # which it takes


@dg.job(
    name="freshness",
    partitions_def=ASSISTANTS,
    description="Records whether an assistant's release is as fresh as its retraining promises.",
)
def freshness_job() -> None:
    record_freshness()


@dg.sensor(
    job_name="freshness",
    minimum_interval_seconds=3600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has the check `fresh` of a release recorded once it is older than 1.5 of its own "
    "interval, or fresh again, and tells the webhook of CHATLLAMA_WEBHOOK of the first.",
)
def old_releases(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """A run of a second where the check's result changes, and none else."""
    from chatllama_pipeline.store.versions import Store, store_root

    before = json.loads(context.cursor or "{}")
    store, now = Store(store_root()), datetime.now(UTC)
    remembered, old, requests = {}, [], []
    for name in assistant_names():
        was_fresh = before.get(name, True)
        if settings_or_why(name)[0] is None:
            remembered[name] = was_fresh
            continue
        found = release_freshness(load_assistant(name), store, now)
        remembered[name] = found.fresh
        if not found.fresh:
            old.append(f"{name}: {found.told}")
        if found.fresh != was_fresh:
            requests.append(dg.RunRequest(partition_key=name))
        if was_fresh and not found.fresh:
            tell(Notice("stale", name, found.told), context.log.warning)
    keys, _ = changed_keys(context.instance)
    cursor = json.dumps(remembered, sort_keys=True)
    return tick_result(context, requests, old, "every release is fresh", keys, cursor)
