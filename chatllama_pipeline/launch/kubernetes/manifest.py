"""A job as the API server takes it: an Indexed Job (batch/v1), a pod a node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.kubernetes.wanted import Wanted

# What the headless service in deploy/ selects.
APP = {"app.kubernetes.io/name": "chatllama"}
CONTAINER = "stage"
VOLUME = "store"
# Each pod has an address of its own.
PORT = 29_500
# On top of what the stage may take to save: harder signals, and to find out that it has ended.
MORE_GRACE_SECONDS = 15
# Pods that a node turns away before anything ran there.
TURNED_AWAY = 6
# So long an ended job can be looked at, and found by a run that comes later.
KEPT_SECONDS = 86_400
# Fields of a pod that a job's work hangs on.
_OURS = frozenset(
    {
        "activeDeadlineSeconds",
        "containers",
        "nodeSelector",
        "restartPolicy",
        "serviceAccountName",
        "subdomain",
        "terminationGracePeriodSeconds",
        "tolerations",
    }
)
_OURS_IN_CONTAINER = frozenset(
    {"args", "command", "image", "name", "resources", "terminationMessagePolicy"}
)


def job_manifest(
    wanted: Wanted, name: str, script: Path, environment: Mapping[str, str], stop_seconds: float
) -> dict[str, Any]:
    """The Job `name`, whose pods run `script`; `environment` stands in it for all to read.

    Raises SettingsError where `wanted.pod` or `wanted.container` says what is said otherwise.
    """
    labels = {**APP, **wanted.labels}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": wanted.nodes,
            "parallelism": wanted.nodes,
            "backoffLimit": TURNED_AWAY,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            # A lost node, an eviction, a preemption: the next pod goes on. An exit code of the
            # stage's own is its last word.
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "NotIn",
                            "values": [0],
                        },
                    },
                ]
            },
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(wanted, name, script, environment, stop_seconds),
            },
        },
    }


def _pod(
    wanted: Wanted, name: str, script: Path, environment: Mapping[str, str], stop_seconds: float
) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(stop_seconds) + MORE_GRACE_SECONDS,
        # Neither is of use to a stage, and both tell it of the cluster.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "volumes": [],
    }
    if wanted.time_limit_seconds:
        # Of the pod, not the job: the time that it waits for a node doesn't count.
        pod["activeDeadlineSeconds"] = math.ceil(wanted.time_limit_seconds)
    if wanted.service_account:
        pod["serviceAccountName"] = wanted.service_account
    if wanted.node_selector:
        pod["nodeSelector"] = dict(wanted.node_selector)
    if wanted.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in wanted.tolerations]
    if wanted.nodes > 1:
        pod["subdomain"] = wanted.service
        pod["affinity"] = _each_on_its_own(name)
    container = _container(wanted, name, script, environment)
    if wanted.claim:
        pod["volumes"].append(
            {"name": VOLUME, "persistentVolumeClaim": {"claimName": wanted.claim}}
        )
        container["volumeMounts"].append({"name": VOLUME, "mountPath": wanted.mount_path})
    if wanted.nodes * wanted.processes > 1:
        # A container's own has 64 MB, and processes hand tensors to each other through it.
        pod["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    container = _with(container, wanted.container, "container", _OURS_IN_CONTAINER)
    return _with(pod, wanted.pod, "pod", _OURS) | {"containers": [container]}


def _container(
    wanted: Wanted, name: str, script: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    variables = dict(environment)
    if wanted.nodes > 1:
        variables |= {"MASTER_ADDR": f"{name}-0.{wanted.service}", "MASTER_PORT": str(PORT)}
    if not wanted.gpus:
        # Where a container runtime shows all GPUs to whoever asks for none.
        variables["CUDA_VISIBLE_DEVICES"] = ""
    given = wanted.of_each_node
    return {
        "name": CONTAINER,
        "image": wanted.image,
        "command": ["bash", str(script)],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in wanted.secrets],
        "resources": {"requests": given, "limits": given},
        # What the script says before the stage has a log of its own.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [],
    }


def _each_on_its_own(name: str) -> dict[str, Any]:
    """Pods of one job stand on machines of their own."""
    same = {"labelSelector": {"matchLabels": {"job-name": name}}}
    rule = {**same, "topologyKey": "kubernetes.io/hostname"}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}}


def _with(
    ours: dict[str, Any], more: Mapping[str, Any], section: str, fixed: frozenset[str]
) -> dict[str, Any]:
    """`ours` with `more` of a person's: to lists theirs are added, all else theirs replaces."""
    if said := sorted(fixed & more.keys()):
        raise SettingsError(
            f"compute.kubernetes.{section}.{said[0]} can't be set there: a job says it by itself, "
            "or by a key of compute.kubernetes (docs/running/cluster.md)"
        )
    merged = dict(ours)
    for key, value in more.items():
        before = ours.get(key)
        if isinstance(before, list):
            if not isinstance(value, list):
                raise SettingsError(f"compute.kubernetes.{section}.{key} must be a list")
            value = [*before, *value]
        merged[key] = value
    return merged
