"""What the API server's objects say of a job: pure functions of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar

from chatllama_pipeline.launch.jobs import scheduler
from chatllama_pipeline.launch.kubernetes import waiting
from chatllama_pipeline.launch.kubernetes.manifest import CONTAINER

Object = Mapping[str, Any]
INDEX = "batch.kubernetes.io/job-completion-index"
ENDED = frozenset(
    {"COMPLETED", "DELETED", "FAILED", "NODE_LOST", "NODES_LOST", "OUT_OF_MEMORY", "TIME_LIMIT"}
)
# Why kubelets and controllers end pods that did nothing wrong, where no condition says so.
_LOST = frozenset({"Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated"})
_WHAT_STATES_MEAN = {
    "DELETED": "was deleted, and not by this run",
    "TIME_LIMIT": "reached its time limit: raise compute.kubernetes.time_limit_minutes, or lower "
    "checkpoint_steps",
}


@dataclass(frozen=True)
class Job(scheduler.Job):
    """A job at one look. `hopeless`: it waits for what doesn't come by itself."""

    hopeless: bool = False

    over: ClassVar[frozenset[str]] = ENDED

    @property
    def would_never_start(self) -> bool:
        return self.waits and self.hopeless

    @property
    def was_lost(self) -> bool:
        return self.state == "NODE_LOST"

    @property
    def how_it_ended(self) -> str:
        if self.state in _WHAT_STATES_MEAN:
            return _WHAT_STATES_MEAN[self.state]
        if self.state == "OUT_OF_MEMORY":
            return (
                f"was killed, out of memory ({self.reason}): raise compute.kubernetes.memory, or "
                "lower micro_batch_size"
            )
        if self.state in ("NODE_LOST", "NODES_LOST"):
            return (
                f"lost a node {self.restarts} times, at last: {self.reason}: look at the cluster, "
                "or raise compute.kubernetes.retries; run it again, it continues from its last "
                "state"
            )
        return f"ended as {self.state}: {self.reason}"


def read_job(
    job: Object | None, pods: Sequence[Object], told: Mapping[str, Object], wanted_pods: int
) -> Job:
    """The job as it is; `told` is what its nodes wrote of bad ends, by the pod's index.

    Without the object `job` its `pods` are what is left of it. Why it waits is said only as far as
    the pods know.
    """
    now = Job(
        "RUNS",
        nodes=", ".join(dict.fromkeys(node for pod in pods if (node := _node(pod)))),
        queued_seconds=_queued(job, pods),
        node_seconds=sum(_worked(pod) for pod in pods),
    )
    conditions = _true_conditions(job or {})
    if "Complete" in conditions:
        return replace(now, state="COMPLETED")
    if "Failed" in conditions:
        state, reason = _how_it_failed(conditions["Failed"], pods, told)
        return replace(now, state=state, reason=reason)
    if job is None or "deletionTimestamp" in job["metadata"]:
        return replace(now, state="ENDING", reason=waiting.ending(pods))
    if job["spec"].get("suspend"):
        reason = "suspended, until a queue of the cluster lets it go"
        return replace(now, state="WAITS", reason=reason)
    started = [pod for pod in pods if _container(pod).keys() & {"running", "terminated"}]
    standing = [pod for pod in started if not _is_disrupted(pod) and not _is_over(pod, "Failed")]
    if len(standing) >= wanted_pods:
        return now
    reason, hopeless = waiting.why(pods)
    return replace(now, state="WAITS", reason=reason, hopeless=hopeless)


def _is_disrupted(pod: Object) -> bool:
    """Whether the cluster ended it, or is about to: its node was drained, lost or wanted."""
    return "DisruptionTarget" in _true_conditions(pod)


def _how_it_failed(
    condition: Object, pods: Sequence[Object], told: Mapping[str, Object]
) -> tuple[str, str]:
    """The state of a job that failed, and the reason."""
    failed = [pod for pod in _newest(pods) if _is_over(pod, "Failed")]
    for pod in failed:
        said = told.get(index_of(pod), {})
        if _ended(pod).get("reason") == "OOMKilled":
            memory = "over the memory that it had asked for"
            return "OUT_OF_MEMORY", f"{pod['metadata']['name']} was {memory}"
        if said.get("type") == "OutOfMemoryError":
            return "OUT_OF_MEMORY", str(said["message"])
    limits = [condition, *(pod["status"] for pod in failed)]
    if any(one.get("reason") == "DeadlineExceeded" for one in limits):
        return "TIME_LIMIT", ""
    by_themselves = [pod for pod in failed if _failed_by_itself(pod)]
    indexes = {index_of(pod) for pod in by_themselves}
    for pod in pods:
        # Where one pod is lost others fail for want of it, often before anybody knows.
        if _was_lost(pod) and index_of(pod) not in indexes:
            return "NODE_LOST", f"{pod['metadata']['name']}: {_words(pod)}"
    for pod in by_themselves:
        return "FAILED", _last_words(pod, told.get(index_of(pod), {}))
    reasons = [str(condition.get(key)) for key in ("reason", "message") if condition.get(key)]
    return "FAILED", ": ".join(reasons) or "its pods are gone"


def _newest(pods: Sequence[Object]) -> list[Object]:
    """The last pod of each index."""
    found: dict[str, Object] = {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        found[index_of(pod)] = pod
    return list(found.values())


def _failed_by_itself(pod: Object) -> bool:
    """Whether what ran in it ended badly, though nobody had it end."""
    ended_by_others = _is_disrupted(pod) or "deletionTimestamp" in pod["metadata"]
    return bool(_ended(pod)) and not ended_by_others and not _was_lost(pod)


def _was_lost(pod: Object) -> bool:
    """Whether its node was lost or drained, or turned it away before anything ran."""
    turned_away = _is_over(pod, "Failed") and not _container(pod)
    by_kubelet = pod["status"].get("reason") in _LOST
    return _is_disrupted(pod) or by_kubelet or turned_away or _is_unheard(pod)


def _last_words(pod: Object, said: Object) -> str:
    ended = _ended(pod)
    how = f"{pod['metadata']['name']}, exit code {ended.get('exitCode')}"
    words = said.get("message") or ended.get("message") or ended.get("reason") or ""
    return f"{how}: {' '.join(str(words).split())}"


def _words(pod: Object) -> str:
    """Why a pod was ended by the cluster, in its words."""
    condition = _true_conditions(pod).get("DisruptionTarget", {})
    for source in (pod["status"], condition):
        if words := source.get("message") or source.get("reason"):
            return str(words)
    return "its node isn't heard of"


def _is_unheard(pod: Object) -> bool:
    """Whether it counts as running, on a node that says nothing."""
    ready = [one for one in pod["status"].get("conditions", ()) if one["type"] == "Ready"]
    running = pod["status"].get("phase") == "Running"
    return running and any(one.get("reason") == "NodeNotReady" for one in ready)


def _is_over(pod: Object, phase: str) -> bool:
    return bool(pod["status"].get("phase") == phase)


def _true_conditions(thing: Object) -> dict[str, Object]:
    conditions = thing.get("status", {}).get("conditions") or ()
    return {one["type"]: one for one in conditions if one["status"] == "True"}


def _container(pod: Object) -> Object:
    """The state of the container that holds the stage, by `waiting`, `running` or `terminated`."""
    for status in pod["status"].get("containerStatuses") or ():
        if status["name"] == CONTAINER:
            state: Object = status.get("state") or {}
            return state
    return {}


def _ended(pod: Object) -> Object:
    """How its container ended; empty where it hasn't."""
    ended: Object = _container(pod).get("terminated") or {}
    return ended


def index_of(pod: Object) -> str:
    """Which of the job's nodes it is."""
    return str(pod["metadata"].get("annotations", {}).get(INDEX, "0"))


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or "")


def _queued(job: Object | None, pods: Sequence[Object]) -> float:
    begun = [_begun(pod) for pod in pods if _begun(pod)]
    if job is None or not begun:
        return 0.0
    return _between(job["metadata"]["creationTimestamp"], min(begun))


def _worked(pod: Object) -> float:
    return _between(_begun(pod), str(_ended(pod).get("finishedAt") or ""))


def _begun(pod: Object) -> str:
    state = _container(pod)
    return str((state.get("running") or state.get("terminated") or {}).get("startedAt") or "")


def _between(first: str, last: str) -> float:
    """Seconds between two of Kubernetes' times; 0 where one isn't known, or clocks disagree."""
    if not first or not last:
        return 0.0
    return max(0.0, (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds())
