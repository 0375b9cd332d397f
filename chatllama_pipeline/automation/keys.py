"""The partition keys of assistants, in step with their folders."""

import dagster as dg

from assets.partitions import ASSISTANTS, NAME
from chatllama_pipeline.automation.reading import settings_or_why
from chatllama_pipeline.automation.runs import unfinished_run
from chatllama_pipeline.automation.ticks import KeyRequests, tick_result
from chatllama_pipeline.settings.folder import (
    assistant_names,
    misnamed_folders,
    require_assistants_root,
    unknown_assistant,
)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds each new folder's assistant, removes that of each folder which is gone, and "
    "says which assistants are broken; starts no run.",
)
def assistants(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Keys come and go with the folders, so that the UI shows what there is without a reload."""
    from chatllama_pipeline.automation.looking import look

    requests, reasons = changed_keys(context.instance)
    reasons += [why for name in assistant_names() if (why := settings_or_why(name)[1])]
    reasons += [str(unknown_assistant(name)) for name in misnamed_folders()]
    known = context.instance.get_dynamic_partitions(NAME)
    for name in sorted(set(known) & set(assistant_names())):
        if settings_or_why(name)[0] and (unseen := look(context.instance, name)):
            reasons.append(unseen)
    return tick_result(context, [], reasons, "every folder is an assistant", requests)


def changed_keys(instance: dg.DagsterInstance) -> tuple[KeyRequests, list[str]]:
    """What makes the instance's keys those of the folders, and why a key stays all the same.

    Raises SettingsError where there is no folder of assistants: a disk that isn't mounted takes
    away no key.
    """
    require_assistants_root()
    there, known = assistant_names(), instance.get_dynamic_partitions(NAME)
    gone, reasons = [], []
    for name in sorted(set(known) - set(there)):
        if run := unfinished_run(instance, name):
            reasons.append(f"{name} has no folder any more, but run {run} of it goes on")
        else:
            gone.append(name)
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if new := [name for name in there if name not in known]:
        requests.append(ASSISTANTS.build_add_request(new))
    if gone:
        requests.append(ASSISTANTS.build_delete_request(gone))
    return requests, reasons
