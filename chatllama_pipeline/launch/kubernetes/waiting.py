"""Why a job waits, in the cluster's words, and whether it would wait for ever."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from chatllama_pipeline.launch.kubernetes.wanted import quantity

Object = Mapping[str, Any]
# What a kubelet tries again and again without an end, though only a person can mend it.
BROKEN = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "InvalidImageName",
        "RunContainerError",
    }
)
# A registry may be away for a moment: these are broken when they last.
PULLS = frozenset({"ErrImagePull", "ImagePullBackOff"})
_QUOTA = re.compile(r"exceeded quota: .*?requested: (\S+), used: (\S+), limited: (\S+)")


def why(pods: Sequence[Object]) -> tuple[str, bool]:
    """What the pods that haven't started say of it; whether that is hopeless."""
    left = [pod for pod in pods if pod["status"].get("phase") == "Pending"]
    for pod in left:
        stuck = container_waits(pod)
        if stuck.get("reason") in BROKEN | PULLS:
            image = pod["spec"]["containers"][0].get("image")
            told = _line(stuck.get("reason"), stuck.get("message"), f"image {image}")
            return told, stuck["reason"] in BROKEN
    for pod in left:
        for condition in pod["status"].get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] != "True":
                return _line(condition.get("reason"), condition.get("message")), False
    for pod in left:
        if node := pod["spec"].get("nodeName"):
            return f"starts on {node}", False
    if going := [pod for pod in pods if "deletionTimestamp" in pod["metadata"]]:
        return ending(going), False
    return "has no pod yet", False


def is_pulling(pods: Sequence[Object]) -> bool:
    """Whether an image can't be fetched."""
    return any(container_waits(pod).get("reason") in PULLS for pod in pods)


def is_starting(pod: Object) -> bool:
    """Whether it has a node, where its container is made ready."""
    return bool(pod["status"].get("phase") == "Pending" and pod["spec"].get("nodeName"))


def ending(pods: Sequence[Object]) -> str:
    """Which pods are still there of a job that ends, or goes on elsewhere."""
    left = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
    where = ", ".join(
        f"{pod['metadata']['name']} on {pod['spec'].get('nodeName') or 'no node'}" for pod in left
    )
    if not left:
        return "ends"
    return (
        f"for the end of {where}; where that machine is off for good, `kubectl delete node` says so"
    )


def refused_pods(events: Sequence[Object]) -> tuple[str, bool]:
    """Why no pod of a job could be made, of its `events`, the newest last; whether for good."""
    for event in reversed(events):
        if event.get("reason") == "FailedCreate":
            message = str(event.get("message"))
            return message, not _may_be_freed(message)
    return "", False


def warned(events: Sequence[Object]) -> str:
    """The newest warning of a pod's `events`, "" where there is none."""
    for event in reversed(events):
        if event.get("type") == "Warning":
            return _line(event.get("reason"), event.get("message"))
    return ""


def container_waits(pod: Object) -> Object:
    """Why the container of a pod hasn't started; empty where it has."""
    for status in pod["status"].get("containerStatuses") or ():
        if waiting := (status.get("state") or {}).get("waiting"):
            found: Object = waiting
            return found
    return {}


def _may_be_freed(message: str) -> bool:
    """Whether a quota that was exceeded admits the pod once others have ended."""
    found = _QUOTA.search(message)
    if found is None:
        return False
    requested, _, limited = (_amounts(group) for group in found.groups())
    return all(amount <= limited.get(name, amount) for name, amount in requested.items())


def _amounts(listed: str) -> dict[str, float]:
    pairs = (one.rpartition("=") for one in listed.split(","))
    return {name: quantity(amount) or 0.0 for name, _, amount in pairs}


def _line(*parts: object) -> str:
    return ": ".join(" ".join(str(part).split()) for part in parts if part)
