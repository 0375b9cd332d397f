"""A run for each assistant whose `retrain.cron` came round, or that was rated enough."""

import json
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._utils.schedules import get_latest_completed_cron_tick

from chatllama_pipeline.automation.jobs import JOBS, all_job
from chatllama_pipeline.automation.keys import changed_keys
from chatllama_pipeline.automation.reading import settings_or_why
from chatllama_pipeline.automation.runs import asked_since, asked_tags, unfinished_run
from chatllama_pipeline.automation.ticks import tick_result
from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.lineage.declaring.ratings import waiting_ratings
from chatllama_pipeline.settings import RetrainSettings
from chatllama_pipeline.settings.folder import assistant_names


@dg.sensor(
    jobs=JOBS,
    minimum_interval_seconds=60,
    description="Makes each assistant again at its retrain.cron: one run for a time.",
)
def retrain(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for what is due; what can't be asked for yet stays due, and the tick says why.

    The cursor holds since when an assistant's times count: since it was first seen, or its cron or
    zone changed, and after that since the last time asked for. Of several that passed, while the
    service stood still, the last is asked for. A run of everything that another sensor asked for
    since then is that time's, too.
    """
    before = json.loads(context.cursor or "{}")
    keys, _ = changed_keys(context.instance)
    now = datetime.now(UTC)
    counted, requests, reasons = {}, [], []
    for name in assistant_names():
        settings, why = settings_or_why(name)
        if settings is None:
            reasons.append(why)
            if name in before:
                counted[name] = before[name]
            continue
        counted[name], due = _due(name, settings.retrain, before.get(name), now)
        if due is None:
            continue
        told = f"{name} is due since {due:%F %H:%M}"
        if run := asked_since(context.instance, name, due):
            counted[name]["since"] = due.timestamp()
            reasons.append(f"{told}: run {run}, which was asked for since then, makes it")
        elif run := unfinished_run(context.instance, name):
            reasons.append(f"{told}: waits for the end of run {run}")
        else:
            counted[name]["since"] = due.timestamp()
            requests.append(_request(name, settings.retrain.what, due))
    remembered = json.dumps(counted, sort_keys=True)
    return tick_result(context, requests, reasons, "nobody is due", keys, remembered)


def _request(name: str, what: str, due: datetime) -> dg.RunRequest:
    # Whatever becomes of the cursor, Dagster makes one run of a key.
    key = f"{name} {due.isoformat()}"
    tags = asked_tags(name) if what == all_job.name else {}
    return dg.RunRequest(run_key=key, partition_key=name, job_name=what, tags=tags)


def _due(
    name: str, retrain: RetrainSettings, before: dict[str, Any] | None, now: datetime
) -> tuple[dict[str, Any], datetime | None]:
    """What the cursor holds of an assistant, and the last of its times that weren't asked for."""
    when = [retrain.cron_of(name), retrain.timezone]
    if before is None or before["when"] != when:
        return {"when": when, "since": now.timestamp()}, None
    cron, timezone = when
    if cron is None:
        return before, None
    # Dagster's, since croniter's times go astray where summer time comes or goes.
    last = get_latest_completed_cron_tick(cron, now, timezone)
    return before, last if last.timestamp() > before["since"] else None


@dg.sensor(
    job=all_job,
    minimum_interval_seconds=60,
    description="Makes an assistant again once feedback.min_new ratings came since those that it "
    "learned from.",
)
def new_feedback(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for whoever was rated enough; who can't be asked for yet waits, and the tick says why.

    The cursor holds the number of the last rating that a run was asked for: whatever becomes of
    that run, it takes as many more until the next.
    """
    before: dict[str, int] = json.loads(context.cursor or "{}")
    keys, _ = changed_keys(context.instance)
    asked, requests, reasons = {}, [], []
    for name in assistant_names():
        if name in before:
            asked[name] = before[name]
        settings, why = settings_or_why(name)
        if settings is None:
            reasons.append(why)
            continue
        try:
            new, last = _new_ratings(name, before.get(name, 0))
        except ChatllamaError as error:
            reasons.append(f"{name}: {error}")
            continue
        least = settings.feedback.min_new
        if least is None or new < least:
            continue
        if run := unfinished_run(context.instance, name):
            reasons.append(f"{name} has {new} new ratings: waits for the end of run {run}")
            continue
        asked[name] = last
        # Whatever becomes of the cursor, Dagster makes one run of a key.
        key, tags = f"{name} rating {last}", asked_tags(name)
        requests.append(dg.RunRequest(run_key=key, partition_key=name, tags=tags))
    remembered = json.dumps(asked, sort_keys=True)
    return tick_result(context, requests, reasons, "nobody was rated enough", keys, remembered)


def _new_ratings(name: str, asked: int) -> tuple[int, int]:
    """How many ratings neither the current version nor the last request knew, and the last one's
    number."""
    from chatllama_pipeline.store.feedback import FeedbackLog
    from chatllama_pipeline.store.versions import store_root

    held = waiting_ratings(name, store_root()).held
    found = FeedbackLog(store_root(), name).beyond(max(held, asked))
    return found.added, found.last
