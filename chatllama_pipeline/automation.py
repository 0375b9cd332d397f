"""Jobs like the original's --type, a schedule per assistant, and a sensor on their folders."""

import contextlib
import json
from collections.abc import Callable, Iterator

import dagster as dg

from assets.partitions import ASSISTANTS
from chatllama_pipeline.assistants import assistant_names, content_hash, load_assistant
from chatllama_pipeline.errors import SettingsError

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
    """One stopped schedule per assistant that can be read, at its `retrain.cron`."""
    schedules = []
    for name in assistant_names():
        # A broken assistant keeps neither the location from loading nor the others from running.
        with contextlib.suppress(SettingsError, dg.DagsterInvalidDefinitionError):
            retrain = load_assistant(name).settings.retrain
            schedules.append(
                dg.ScheduleDefinition(
                    name=f"retrain_{name}",
                    job=all_job,
                    cron_schedule=retrain.cron,
                    execution_timezone=retrain.timezone,
                    execution_fn=_request(name),
                    description=f"Makes assistant {name} again.",
                )
            )
    return schedules


def _request(name: str) -> Callable[[dg.ScheduleEvaluationContext], dg.RunRequest]:
    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(partition_key=name)

    return request


@dg.sensor(job=all_job, minimum_interval_seconds=60)
def assistant_folders(
    context: dg.SensorEvaluationContext,
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Makes an assistant again when its folder's content changed and two ticks saw it equal.

    What stands there at the first tick is where it starts from.
    """
    cursor = json.loads(context.cursor or "{}")
    known = set(ASSISTANTS.get_partition_keys())
    reasons = []
    for name in assistant_names():
        now = content_hash(name)
        before = cursor.setdefault(name, {"seen": now, "made": now})
        settled, changed = before["seen"] == now, before["made"] != now
        before["seen"] = now
        if name not in known:
            before["made"] = ""
            reasons.append(f"{name} is new: reload definitions to run it")
        elif changed and not settled:
            reasons.append(f"{name} is changing: waits for a quiet tick")
        elif changed:
            try:
                load_assistant(name)
            except SettingsError as error:
                reasons.append(str(error))
                continue
            before["made"] = now
            yield dg.RunRequest(partition_key=name, run_key=f"{name}-{now}")
    context.update_cursor(json.dumps(cursor, sort_keys=True))
    if reasons:
        yield dg.SkipReason("; ".join(reasons))
