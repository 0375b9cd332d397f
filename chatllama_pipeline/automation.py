"""Jobs like the original's --type, a schedule per assistant, and a sensor on their folders."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import dagster as dg

from assets.partitions import ASSISTANTS
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import RetrainSettings
from chatllama_pipeline.settings.folder import assistant_names, content_hash, load_assistant

PARTITION_TAG = "dagster/partition"
# Which request of the folder sensor a run answers: assistant/number.
ASKED_TAG = "chatllama/asked"
MOST_TIMES = 3
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

reward_job = dg.define_asset_job(
    "reward",
    selection=dg.AssetSelection.assets("reward_model").upstream(),
    description="The reward model and all that it is made from.",
)
actor_job = dg.define_asset_job(
    "actor",
    selection=dg.AssetSelection.assets("actor_sft").upstream(),
    description="The fine-tuned actor and all that it is made from.",
)
rl_job = dg.define_asset_job(
    "rl",
    selection=dg.AssetSelection.assets("actor_ppo", "evaluation", "release"),
    description="PPO with the current actor and reward model, then evaluation and release.",
)
all_job = dg.define_asset_job(
    "all",
    selection=dg.AssetSelection.all(),
    description="Everything; what didn't change is reused.",
)
audit_job = dg.define_asset_job(
    "audit",
    selection=dg.AssetSelection.assets("data_audit").upstream(),
    description="The datasets and their audit, before anything is trained.",
)
JOBS = [audit_job, reward_job, actor_job, rl_job, all_job]


def retrain_schedules() -> list[dg.ScheduleDefinition]:
    """One stopped schedule per assistant, at its `retrain.cron`.

    That of an assistant which can't be read fails at its ticks, saying why.
    """
    return [_retrain_schedule(name) for name in assistant_names()]


def _retrain_schedule(name: str) -> dg.ScheduleDefinition:
    retrain = RetrainSettings()
    # A broken assistant keeps neither the location from loading nor the others from running.
    with contextlib.suppress(SettingsError):
        retrain = load_assistant(name).settings.retrain
    return dg.ScheduleDefinition(
        name=f"retrain_{name}",
        job=all_job,
        cron_schedule=retrain.cron,
        execution_timezone=retrain.timezone,
        execution_fn=_request(name),
        description=f"Makes assistant {name} again.",
    )


def _request(
    name: str,
) -> Callable[[dg.ScheduleEvaluationContext], dg.RunRequest | dg.SkipReason]:
    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        load_assistant(name)
        if run := _unfinished_run(context.instance, name):
            return dg.SkipReason(f"run {run} of {name} goes on")
        return dg.RunRequest(partition_key=name)

    return request


def _unfinished_run(instance: dg.DagsterInstance, name: str) -> str | None:
    """The id of a run of assistant `name` that waits or goes on."""
    found = instance.get_run_records(
        dg.RunsFilter(tags={PARTITION_TAG: name}, statuses=UNFINISHED), limit=1
    )
    return found[0].dagster_run.run_id if found else None


@dg.sensor(job=all_job, minimum_interval_seconds=60)
def assistant_folders(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Makes an assistant again when its folder's content changed and two ticks saw it equal.

    What stands there at the first tick is where it starts from. A run that failed or was lost is
    asked for again, three times in all. Whatever keeps one assistant waiting stands in the tick's
    log, and keeps no other.
    """
    cursor = json.loads(context.cursor or "{}")
    names = assistant_names()
    known = set(ASSISTANTS.get_partition_keys())
    folders = {name: cursor.get(name) for name in names}
    requests, reasons = [], []
    for name in names:
        try:
            now = content_hash(name)
        except OSError as error:
            reasons.append(f"{name} can't be read now: {error}")
            continue
        folder = folders[name] = folders[name] or {"seen": now, "made": now}
        settled, folder["seen"] = folder["seen"] == now, now
        if name not in known:
            folder["made"] = ""
            reasons.append(f"{name} is new: reload definitions to run it")
        elif folder["made"] == now:
            continue
        elif not settled:
            reasons.append(f"{name} is changing: waits for a quiet tick")
        elif (last := _last_run(context.instance, name, folder)) and last.is_success:
            folder["made"] = now
        elif reason := _why_not(context.instance, name, folder, last):
            reasons.append(reason)
        else:
            requests.append(_asked(name, folder))
    for reason in reasons:
        context.log.info(reason)
    return dg.SensorResult(
        run_requests=requests,
        cursor=json.dumps(folders, sort_keys=True),
        skip_reason="; ".join(reasons) if reasons and not requests else None,
    )


def _last_run(
    instance: dg.DagsterInstance, name: str, folder: dict[str, Any]
) -> dg.DagsterRun | None:
    """The run that the last request for this content became.

    `folder` is what the cursor says of it: `asked` numbers the requests, `for` is the content that
    the last ones were for, `times` counts those.
    """
    if folder.get("for") != folder["seen"]:
        return None
    tags = {ASKED_TAG: f"{name}/{folder['asked']}"}
    runs = instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
    return runs[0].dagster_run if runs else None


def _why_not(
    instance: dg.DagsterInstance, name: str, folder: dict[str, Any], last: dg.DagsterRun | None
) -> str | None:
    """Why assistant `name` isn't asked for, though its folder changed; None where it is to be."""
    if run := _unfinished_run(instance, name):
        return f"{name} changed: waits for the end of run {run}"
    if folder.get("for") == folder["seen"] and folder["times"] >= MOST_TIMES:
        told = f"the last run was {last.run_id}" if last else "no run came of it"
        return f"{name} was asked for {MOST_TIMES} times in vain ({told}): run it by hand"
    try:
        load_assistant(name)
    except SettingsError as error:
        return str(error)
    return None


def _asked(name: str, folder: dict[str, Any]) -> dg.RunRequest:
    again = folder.get("for") == folder["seen"]
    folder["for"], folder["times"] = folder["seen"], folder["times"] + 1 if again else 1
    folder["asked"] = folder.get("asked", 0) + 1
    # No run key: Dagster would never run the same content twice, though it came back.
    return dg.RunRequest(partition_key=name, tags={ASKED_TAG: f"{name}/{folder['asked']}"})
