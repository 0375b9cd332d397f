"""A run for each assistant whose folder changed."""

import json
from typing import Any

import dagster as dg

from chatllama_pipeline.automation.jobs import all_job
from chatllama_pipeline.automation.keys import changed_keys
from chatllama_pipeline.automation.reading import settings_or_why
from chatllama_pipeline.automation.runs import (
    asked_of_these_files,
    asked_tags,
    unfinished_run,
)
from chatllama_pipeline.automation.ticks import tick_result
from chatllama_pipeline.settings.folder import assistant_names, content_hash

# Which request of the folder sensor a run answers: assistant/number.
ASKED_TAG = "chatllama/asked"
MOST_TIMES = 3
NOT_SEEN = ""


@dg.sensor(job=all_job, minimum_interval_seconds=60)
def assistant_folders(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Makes an assistant again when its folder's content changed and two ticks saw it equal.

    What stands there at the first tick is where it starts from; a folder that comes later is made.
    A run that failed or was lost is asked for again, three times in all, and one that a person
    ended is not; a run that another sensor asked for, of the folder as it is, counts as well.
    Whatever keeps one assistant waiting stands in the tick's log, and keeps no other.
    """
    cursor = json.loads(context.cursor or "{}")
    keys, reasons = changed_keys(context.instance)
    folders, requests = {}, []
    for name in assistant_names():
        folder = cursor.get(name)
        try:
            now = content_hash(name)
        except OSError as error:
            reasons.append(f"{name} can't be read now: {error}")
            if folder:
                folders[name] = folder
            continue
        first = now if context.cursor is None else NOT_SEEN
        folder = folders[name] = folder or {"seen": first, "made": first}
        settled, folder["seen"] = folder["seen"] == now, now
        if folder["made"] == now:
            continue
        elif not settled:
            reasons.append(f"{name} is changing: waits for a quiet tick")
            continue
        runs = _runs_of(context.instance, name, folder)
        if any(run.is_success for run in runs):
            folder["made"] = now
        elif reason := _why_not(context.instance, name, folder, runs):
            reasons.append(reason)
        else:
            requests.append(_asked(name, folder))
    remembered = json.dumps(folders, sort_keys=True)
    return tick_result(context, requests, reasons, "no folder changed", keys, remembered)


def _runs_of(
    instance: dg.DagsterInstance, name: str, folder: dict[str, Any]
) -> list[dg.DagsterRun]:
    """The runs that were asked for since the content is this one, by any sensor; newest first.

    `folder` is what the cursor says of it: `asked` numbers this sensor's requests, `for` is the
    content that the last ones were for, `times` counts those.
    """
    found = asked_of_these_files(instance, name)
    if folder.get("for") != folder["seen"]:
        return found
    # Files that were written again with the same content.
    tags = {ASKED_TAG: f"{name}/{folder['asked']}"}
    own = instance.get_runs(dg.RunsFilter(tags=tags), limit=1)
    return [*found, *(run for run in own if run not in found)]


def _why_not(
    instance: dg.DagsterInstance, name: str, folder: dict[str, Any], runs: list[dg.DagsterRun]
) -> str | None:
    """Why assistant `name` isn't asked for, though its folder changed; None where it is to be."""
    if run := unfinished_run(instance, name):
        return f"{name} changed: waits for the end of run {run}"
    times = folder["times"] if folder.get("for") == folder["seen"] else 0
    times += len([run for run in runs if ASKED_TAG not in run.tags and not run.parent_run_id])
    if times >= MOST_TIMES:
        told = f"the last run was {runs[0].run_id}" if runs else "no run came of it"
        return f"{name} was asked for {MOST_TIMES} times in vain ({told}): run it by hand"
    if runs and runs[0].status == dg.DagsterRunStatus.CANCELED:
        ended = runs[0].run_id
        return f"run {ended} of {name} was ended by hand: run it again, or change the folder"
    return settings_or_why(name)[1] or None


def _asked(name: str, folder: dict[str, Any]) -> dg.RunRequest:
    again = folder.get("for") == folder["seen"]
    folder["for"], folder["times"] = folder["seen"], folder["times"] + 1 if again else 1
    folder["asked"] = folder.get("asked", 0) + 1
    # What stood there before isn't what the store has, once this was begun.
    folder["made"] = NOT_SEEN
    tags = {ASKED_TAG: f"{name}/{folder['asked']}", **asked_tags(name)}
    # No run key: Dagster would never run the same content twice, though it came back.
    return dg.RunRequest(partition_key=name, tags=tags)
