"""What makes jobs of manifests: the controller of jobs, a scheduler and nodes, as one thread.

A pod's container is a process of this machine, which is what there is in the place of a runtime.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from chatllama_pipeline.launch.kubernetes.job import INDEX
from chatllama_pipeline.launch.kubernetes.wanted import quantity
from tests.docs.pages import REPOSITORY
from tests.launch.kubernetes.api_server import ApiServer, Object, now, require_valid

DEPLOY = REPOSITORY / "deploy" / "kubernetes"
TICK_SECONDS = 0.05
IMAGE = "registry.test/chatllama:1"
# What the image's own environment would say.
FROM_IMAGE = ("PATH", "HOME", "PYTHONPATH", "LANG")


@dataclass
class Process:
    """A container at work; `why` it was ended, where a kubelet did."""

    popen: subprocess.Popen[bytes]
    output: Path
    why: str = ""
    asked_at: float = 0.0


@dataclass
class Cluster:
    """Nodes `n1` and `n2` (by name their GPUs), behind an API server."""

    folder: Path
    server: ApiServer = field(default_factory=ApiServer)
    nodes: dict[str, int] = field(default_factory=lambda: {"n1": 0, "n2": 0})
    images: set[str] = field(default_factory=lambda: {IMAGE})
    secrets: set[str] = field(default_factory=set)
    # Nodes that take nothing more; and those of which nothing is heard, processes and all.
    closed: set[str] = field(default_factory=set)
    processes: dict[str, Process] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    ports: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        self.server.start()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self.server.stop()

    def heal(self) -> None:
        """Everything as at the start, whatever a test did."""
        with self.server.lock:
            for process in self.processes.values():
                _kill(process)
            self.processes.clear()
            self.server.objects.clear()
            self.server.forbidden.clear()
            self.server.quota.clear()
            self.server.away = 0
            self.nodes, self.closed = {"n1": 0, "n2": 0}, set()
            self.images, self.secrets = {IMAGE}, set()

    def give_store(self) -> None:
        """The claim and the service of deploy/kubernetes."""
        for file in ("storage.yaml", "service.yaml"):
            for thing in yaml.safe_load_all((DEPLOY / file).read_text()):
                require_valid(thing)
                self.server.add(f"{thing['kind'].lower()}s", thing)

    # What befalls a cluster.

    def lose(self, node: str) -> None:
        """A machine is gone, with what ran there; its node is removed."""
        with self.server.lock:
            self.nodes.pop(node)
            for pod in self._pods_on(node):
                _kill(self.processes.pop(pod["metadata"]["name"]))
                _condition(pod, "DisruptionTarget", "DeletionByPodGC", "PodGC: node not found")
                pod["status"] |= {"phase": "Failed"}
                pod["metadata"].setdefault("deletionTimestamp", now())

    def drain(self, node: str) -> None:
        """A node is emptied: its pods end with their grace, and others take their places."""
        with self.server.lock:
            self.closed.add(node)
            for pod in self._pods_on(node):
                _condition(pod, "DisruptionTarget", "EvictionByEvictionAPI", "Eviction API")
                _delete(pod)

    def kill_for_memory(self) -> None:
        """The kernel ends every container, as it does with those over their memory."""
        with self.server.lock:
            for process in self.processes.values():
                process.why = "OOMKilled"
                _kill(process)

    def reach_time_limit(self) -> None:
        """As if every pod had had its activeDeadlineSeconds."""
        with self.server.lock:
            for pod in self.running():
                assert pod["spec"]["activeDeadlineSeconds"] > 0
                self.processes[pod["metadata"]["name"]].why = "DeadlineExceeded"

    def running(self) -> list[Object]:
        with self.server.lock:
            pods = self.server.all("pods")
            return [pod for pod in pods if pod["metadata"]["name"] in self.processes]

    def _pods_on(self, node: str) -> list[Object]:
        return [pod for pod in self.running() if pod["spec"].get("nodeName") == node]

    def _work(self) -> None:
        while not self._ending.wait(TICK_SECONDS):
            with self.server.lock:
                for job in self.server.all("jobs"):
                    self._see_to(job)
                for pod in self.server.all("pods"):
                    self._see_to_pod(pod)
        for process in self.processes.values():
            _kill(process)

    # The controller of jobs.

    def _see_to(self, job: Object) -> None:
        name, status = job["metadata"]["name"], job["status"]
        pods = [
            pod for pod in self.server.all("pods") if pod["metadata"]["labels"]["job-name"] == name
        ]
        conditions = {one["type"] for one in status.get("conditions", [])}
        if "deletionTimestamp" in job["metadata"] or "FailureTarget" in conditions:
            for pod in pods:
                if not _over(pod):
                    _delete(pod)
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                if _over(pod):
                    self.server.remove("pods", pod["metadata"]["name"])
            if not pods:
                self.server.remove("jobs", name)
            return
        if conditions & {"Complete", "Failed"}:
            return
        if "FailureTarget" in conditions:
            if all(_over(pod) for pod in pods):
                _condition(job, "Failed", status["why"], "a pod failed")
            return
        for pod in pods:
            self._count(job, pod)
        gone = self._gone(pods)
        self._fill(job, [pod for pod in pods if pod["metadata"]["name"] not in gone])

    def _count(self, job: Object, pod: Object) -> None:
        """What becomes of a job by a pod that failed, by its podFailurePolicy."""
        uid, status = pod["metadata"]["uid"], job["status"]
        if pod["status"].get("phase") != "Failed" or uid in self.counted:
            return
        self.counted.add(uid)
        if "DisruptionTarget" in {one["type"] for one in pod["status"].get("conditions", [])}:
            return
        status["failed"] = status.get("failed", 0) + 1
        ended = _terminated(pod)
        if ended and ended["exitCode"] != 0:
            status["why"] = "PodFailurePolicy"
        elif status["failed"] > job["spec"]["backoffLimit"]:
            status["why"] = "BackoffLimitExceeded"
        else:
            return
        _condition(job, "FailureTarget", status["why"], "")

    def _gone(self, pods: list[Object]) -> set[str]:
        """Pods that were deleted and have ended: they go once they were counted."""
        names = {
            pod["metadata"]["name"]
            for pod in pods
            if _over(pod) and "deletionTimestamp" in pod["metadata"]
        }
        for name in names:
            self.server.remove("pods", name)
        return names

    def _fill(self, job: Object, pods: list[Object]) -> None:
        """A pod for each index that has none; one that is ending still stands for its index."""
        spec = job["spec"]
        done = {_index(pod) for pod in pods if pod["status"].get("phase") == "Succeeded"}
        if len(done) == spec["completions"]:
            _condition(job, "Complete", "", "")
            return
        there = done | {_index(pod) for pod in pods if not _over(pod)}
        conditions = {one["type"] for one in job["status"].get("conditions", [])}
        if spec.get("suspend") or "FailureTarget" in conditions:
            return
        for index in range(spec["completions"]):
            if str(index) not in there:
                self._make_pod(job, index)

    def _make_pod(self, job: Object, index: int) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        asked = template["spec"]["containers"][0]["resources"]["requests"]
        for resource, limit in self.server.quota.items():
            amount = asked.get(resource.removeprefix("requests."), "0")
            if (quantity(amount) or 0) > limit:
                told = f"requested: {resource}={amount}, used: {resource}=0"
                message = (
                    f'Error creating: pods "{name}-{index}" is forbidden: exceeded quota: few, '
                    f"{told}, limited: {resource}={limit:g}"
                )
                self.server.event(name, "FailedCreate", message)
                return
        number = len(self.counted)
        self.server.add(
            "pods",
            {
                "metadata": {
                    "name": f"{name}-{index}-{number}-{time.monotonic_ns() % 10**6}",
                    "labels": {**template["metadata"]["labels"], "job-name": name},
                    "annotations": {INDEX: str(index)},
                },
                "spec": {**template["spec"], "hostname": f"{name}-{index}"},
                "status": {"phase": "Pending"},
            },
        )

    # The scheduler, and the kubelets.

    def _see_to_pod(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        process = self.processes.get(name)
        if process is not None:
            self._look_after(pod, process)
        elif _over(pod):
            return
        elif "deletionTimestamp" in pod["metadata"]:
            self.server.remove("pods", name)
        elif "nodeName" not in pod["spec"]:
            self._place(pod)
        else:
            self._begin(pod)

    def _place(self, pod: Object) -> None:
        spec = pod["spec"]
        asked = int(spec["containers"][0]["resources"]["requests"].get("nvidia.com/gpu", 0))
        taken = {
            other["spec"].get("nodeName")
            for other in self.server.all("pods")
            if other["metadata"]["labels"]["job-name"] == pod["metadata"]["labels"]["job-name"]
            and not _over(other)
            and "affinity" in spec
        }
        fit = [
            node
            for node, gpus in self.nodes.items()
            if gpus >= asked
            and node not in self.closed | taken
            and spec.get("nodeSelector", {}).items() <= {"name": node}.items()
        ]
        if fit:
            spec["nodeName"] = fit[0]
            return
        told = f"0/{len(self.nodes)} nodes are available: Insufficient nvidia.com/gpu or others."
        _condition(pod, "PodScheduled", "Unschedulable", told, status="False")

    def _begin(self, pod: Object) -> None:
        container = pod["spec"]["containers"][0]
        if container["image"] not in self.images:
            message = f'Back-off pulling image "{container["image"]}"'
            _state(pod, {"waiting": {"reason": "ImagePullBackOff", "message": message}})
            return
        for source in container["envFrom"]:
            secret = source["secretRef"]["name"]
            if secret not in self.secrets:
                message = f'secret "{secret}" not found'
                _state(
                    pod, {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
                )
                return
        output = self.folder / f"{pod['metadata']['name']}.out"
        with output.open("wb") as file:
            popen = subprocess.Popen(
                container["command"],
                env=self._environment(pod, container),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.processes[pod["metadata"]["name"]] = Process(popen, output)
        pod["status"] |= {"phase": "Running"}
        _state(pod, {"running": {"startedAt": now()}})

    def _environment(self, pod: Object, container: Object) -> dict[str, str]:
        """The container's variables; names of pods stand for loopback, where all pods are."""
        given = {one["name"]: one["value"] for one in container["env"]}
        job, services = pod["metadata"]["labels"]["job-name"], self.server.objects.get("services")
        if "MASTER_ADDR" in given and pod["spec"].get("subdomain") in (services or {}):
            assert given["MASTER_ADDR"] == f"{job}-0.{pod['spec']['subdomain']}"
            given["MASTER_ADDR"] = "127.0.0.1"
            given["MASTER_PORT"] = str(self.ports.setdefault(job, _free_port()))
        image = {key: os.environ[key] for key in FROM_IMAGE if key in os.environ}
        own = {"HOSTNAME": pod["spec"]["hostname"], "NODE": pod["spec"]["nodeName"]}
        index = {"JOB_COMPLETION_INDEX": _index(pod)}
        return {**image, **own, **index, **given}

    def _look_after(self, pod: Object, process: Process) -> None:
        code, spec, metadata = process.popen.poll(), pod["spec"], pod["metadata"]
        clock = time.monotonic()
        if code is not None:
            _kill(process)  # a runtime ends what the first process leaves behind
            del self.processes[metadata["name"]]
            self._note_end(pod, process, 128 - code if code < 0 else code)
            return
        if not process.asked_at and (process.why or "deletionTimestamp" in metadata):
            process.asked_at = clock
            process.popen.send_signal(signal.SIGTERM)
        grace = metadata.get("deletionGracePeriodSeconds", spec["terminationGracePeriodSeconds"])
        if process.asked_at and clock - process.asked_at > grace:
            _kill(process)

    def _note_end(self, pod: Object, process: Process, code: int) -> None:
        reason = "Completed" if code == 0 else "Error"
        if process.why == "OOMKilled":
            reason, code = "OOMKilled", 137
        if process.why == "DeadlineExceeded":
            pod["status"] |= {"reason": "DeadlineExceeded"}
        started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        if code:
            ended["message"] = process.output.read_text(errors="replace")[-2048:]
        failed = code or process.why == "DeadlineExceeded"
        pod["status"] |= {"phase": "Failed" if failed else "Succeeded"}
        _state(pod, {"terminated": ended})


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.popen.pid, signal.SIGKILL)
    process.popen.wait()


def _over(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Failed", "Succeeded")


def _index(pod: Object) -> str:
    return str(pod["metadata"]["annotations"][INDEX])


def _terminated(pod: Object) -> Any:
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    return statuses[0]["state"].get("terminated")


def _delete(pod: Object) -> None:
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    pod["metadata"].setdefault("deletionTimestamp", now())
    pod["metadata"].setdefault("deletionGracePeriodSeconds", grace)


def _state(pod: Object, state: Object) -> None:
    pod["status"]["containerStatuses"] = [{"name": "stage", "state": state}]


def _condition(thing: Object, kind: str, reason: str, message: str, status: str = "True") -> None:
    told = {"type": kind, "status": status, "reason": reason, "message": message}
    others = [one for one in thing["status"].get("conditions", []) if one["type"] != kind]
    thing["status"]["conditions"] = [*others, told]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
