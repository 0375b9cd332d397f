"""What a job's objects come to: pods as API servers tell of them."""

from __future__ import annotations

from typing import Any

import pytest

from chatllama_pipeline.launch.kubernetes import waiting
from chatllama_pipeline.launch.kubernetes.job import INDEX, Job, read_job

Object = dict[str, Any]
CREATED = "2026-03-01T10:00:00Z"


def pod(index: int = 0, made: int = 0, **status: Any) -> Object:
    """A pod of an index, made so many minutes after the job, on a node of its own."""
    return {
        "metadata": {
            "name": f"job-{index}-{made}",
            "annotations": {INDEX: str(index)},
            "creationTimestamp": f"2026-03-01T10:{made:02}:00Z",
        },
        "spec": {"nodeName": f"n{index}", "containers": [{"image": "ours:1"}]},
        "status": status,
    }


def with_state(one: Object, phase: str, **state: Any) -> Object:
    one["status"] |= {
        "phase": phase,
        "containerStatuses": [{"name": "proxy", "state": {}}, {"name": "stage", "state": state}],
    }
    return one


def runs(one: Object) -> Object:
    return with_state(one, "Running", running={"startedAt": "2026-03-01T10:30:00Z"})


def failed(one: Object, code: int = 1, reason: str = "Error", message: str = "") -> Object:
    ended = {"exitCode": code, "reason": reason, "message": message}
    times = {"startedAt": "2026-03-01T10:30:00Z", "finishedAt": "2026-03-01T11:00:00Z"}
    return with_state(one, "Failed", terminated={**ended, **times})


def disrupted(one: Object, reason: str = "EvictionByEvictionAPI") -> Object:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    one["status"]["conditions"] = [condition]
    return one


def deleted(one: Object) -> Object:
    one["metadata"]["deletionTimestamp"] = "2026-03-01T11:00:00Z"
    return one


def job(*conditions: Object, **spec: Any) -> Object:
    return {
        "metadata": {"name": "job", "creationTimestamp": CREATED},
        "spec": spec,
        "status": {"conditions": list(conditions)},
    }


def is_true(kind: str, reason: str = "", message: str = "") -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


FAILED = job(is_true("Failed", "PodFailurePolicy", "a container failed"))


def test_a_job_runs_once_all_its_pods_do() -> None:
    pending = pod(1, phase="Pending")
    assert read_job(job(), [runs(pod(0)), runs(pod(1))], {}, 2).state == "RUNS"
    half = read_job(job(), [runs(pod(0)), pending], {}, 2)
    assert (half.waits, half.reason, half.would_never_start) == (True, "starts on n1", False)


def test_time_in_the_queue_and_on_nodes_is_told() -> None:
    ended = read_job(job(is_true("Complete")), [failed(pod(0), 0), failed(pod(1), 0)], {}, 2)
    assert ended.went_well
    assert (ended.queued_seconds, ended.node_hours, ended.nodes) == (1800.0, 1.0, "n0, n1")


def test_clocks_that_are_apart_cost_no_time_and_no_error() -> None:
    early = failed(pod(0), 0)
    ended = early["status"]["containerStatuses"][1]["state"]["terminated"]
    ended |= {"startedAt": "2026-03-01T09:00:00Z", "finishedAt": "2026-03-01T08:00:00Z"}
    told = read_job(job(is_true("Complete")), [early], {}, 1)
    assert (told.queued_seconds, told.node_hours) == (0.0, 0.0)


LOST: list[tuple[str, list[Object]]] = [
    ("drained", [disrupted(failed(pod()))]),
    ("evicted by an older kubelet", [{**pod(phase="Failed", reason="Evicted")}]),
    ("turned away before anything ran", [pod(phase="Failed", reason="UnexpectedAdmissionError")]),
    ("shut down", [failed(pod(reason="NodeShutdown"), 143)]),
    ("the other one's node is lost", [failed(pod(0)), disrupted(runs(pod(1)))]),
    (
        "the other one is replaced already",
        [failed(pod(0)), disrupted(failed(pod(1))), deleted(failed(pod(1, made=5), 143))],
    ),
    (
        "the other one's node isn't heard of yet",
        [
            failed(pod(0)),
            runs(
                pod(1, conditions=[{"type": "Ready", "status": "False", "reason": "NodeNotReady"}])
            ),
        ],
    ),
]


@pytest.mark.parametrize("pods", [pods for _, pods in LOST], ids=[name for name, _ in LOST])
def test_a_job_that_failed_since_a_node_was_lost_may_go_on_elsewhere(pods: list[Object]) -> None:
    told = read_job(FAILED, pods, {}, 2)
    assert told.is_over
    assert told.was_lost, told


def test_a_pod_that_failed_by_itself_after_an_earlier_one_was_lost_is_its_jobs_end() -> None:
    told = read_job(FAILED, [disrupted(failed(pod())), failed(pod(made=7), 3)], {}, 1)
    assert (told.state, told.was_lost) == ("FAILED", False)
    assert "job-0-7, exit code 3" in told.how_it_ended


def test_what_a_node_wrote_and_what_its_container_said_is_the_reason() -> None:
    said = failed(pod(), 127, message="bash: task.sh: No such\nfile")
    assert "exit code 127: bash: task.sh: No such file" in (
        read_job(FAILED, [said], {}, 1).how_it_ended
    )
    told = read_job(FAILED, [said], {"0": {"type": "ChildError", "message": "ended by X"}}, 1)
    assert "exit code 127: ended by X" in told.how_it_ended


def test_out_of_memory_shows_in_the_container_or_in_what_the_node_wrote() -> None:
    for pods, how in (
        ([failed(pod(), 137, "OOMKilled")], {}),
        ([failed(pod(0)), failed(pod(1), 137, "OOMKilled")], {}),
        ([failed(pod())], {"0": {"type": "OutOfMemoryError", "message": "was killed"}}),
    ):
        told = read_job(FAILED, pods, how, 1)
        assert told.was_out_of_memory
        assert "raise compute.kubernetes.memory" in told.how_it_ended


def test_a_time_limit_is_told_with_its_key() -> None:
    told = read_job(FAILED, [failed(pod(reason="DeadlineExceeded"), 1)], {}, 1)
    assert "compute.kubernetes.time_limit_minutes" in told.how_it_ended


def test_a_job_whose_pods_are_gone_is_told_by_its_own_condition() -> None:
    told = read_job(FAILED, [], {}, 1)
    assert told.how_it_ended == "ended as FAILED: PodFailurePolicy: a container failed"


def test_a_job_that_is_deleted_ends_when_its_pods_have() -> None:
    going = job() | {"metadata": {"name": "job", "deletionTimestamp": CREATED}}
    for left in (going | {"metadata": {**going["metadata"], "creationTimestamp": CREATED}}, None):
        told = read_job(left, [deleted(runs(pod()))], {}, 1)
        assert (told.state, told.is_over, told.waits) == ("ENDING", False, False)
        assert "job-0-0 on n0" in told.reason


def test_a_drained_pod_is_waited_for_with_what_ends_the_wait() -> None:
    told = read_job(job(), [deleted(disrupted(runs(pod())))], {}, 1)
    assert told.waits
    assert "`kubectl delete node`" in told.reason


def test_a_suspended_job_waits_for_its_queue() -> None:
    told = read_job(job(suspend=True), [], {}, 1)
    assert told.waits
    assert "suspended" in told.reason


def over_quota(requested: str, used: str, limited: str) -> str:
    told = f"requested: {requested}, used: {used}, limited: {limited}"
    return f'pods "a" is forbidden: exceeded quota: q, {told}'


@pytest.mark.parametrize(
    ("message", "hopeless"),
    [
        (
            over_quota(
                "requests.nvidia.com/gpu=8",
                "requests.nvidia.com/gpu=0",
                "requests.nvidia.com/gpu=4",
            ),
            True,
        ),
        (
            over_quota(
                "cpu=1,requests.memory=64Gi",
                "cpu=9,requests.memory=60Gi",
                "cpu=10,requests.memory=65536Mi",
            ),
            False,
        ),
        (
            over_quota(
                "cpu=1,requests.memory=64Gi",
                "cpu=0,requests.memory=0",
                "cpu=10,requests.memory=60G",
            ),
            True,
        ),
        ('pods "a" is forbidden: error looking up service account ours/none: not found', True),
        ('pods "a" is forbidden: violates PodSecurity "restricted:latest": allowPrivilege', True),
    ],
)
def test_pods_that_are_forbidden_wait_only_for_what_others_give_back(
    message: str, hopeless: bool
) -> None:
    events = [{"reason": "SuccessfulCreate"}, {"reason": "FailedCreate", "message": message}]
    assert waiting.refused_pods(events) == (message, hopeless)


def test_a_state_that_there_is_says_how_it_ended() -> None:
    for state in ("DELETED", "FAILED", "NODE_LOST", "NODES_LOST", "OUT_OF_MEMORY", "TIME_LIMIT"):
        assert Job(state, "why").is_over
        assert len(Job(state, "why").how_it_ended.split()) > 3
