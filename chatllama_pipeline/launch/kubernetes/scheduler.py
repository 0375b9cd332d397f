"""Kubernetes, as what runs jobs asks it.

`dagster-k8s`' Pipes client runs a bare pod and follows it from Dagster's process: a pod that is
lost, evicted or preempted, or a Dagster that is killed, ends the work there. Here a Job goes on by
itself, and is found again by its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.jobs.node_script import PYTHON, Meeting, node_script, processes_line
from chatllama_pipeline.launch.jobs.scheduler import NoAnswerError, Task
from chatllama_pipeline.launch.kubernetes import waiting
from chatllama_pipeline.launch.kubernetes.api import Api, Object, RefusedError
from chatllama_pipeline.launch.kubernetes.job import Job, index_of, read_job
from chatllama_pipeline.launch.kubernetes.manifest import job_manifest
from chatllama_pipeline.launch.kubernetes.wanted import Wanted
from chatllama_pipeline.launch.shim import through_shim

INSTALL = ".venv/bin/pip install -c constraints.txt -e '.[kubernetes]'"
# The controller of jobs numbers a job's pods.
MEETING = Meeting("$JOB_COMPLETION_INDEX", "$MASTER_ADDR", "$MASTER_PORT")
# An image that can't be fetched for so long isn't there, or isn't ours to fetch.
PULL_SECONDS = 180.0
# What a stage finds in its environment without being named: the keys and passwords aren't among it.
HANDED_ON = (
    "CHATLLAMA_ASSISTANTS",
    "CHATLLAMA_SOURCE",
    "CHATLLAMA_STORE",
    "CHATLLAMA_STORE_CACHE",
)
# The name of a job that is never made.
TRIAL = "chatllama-trial"
_QUOTA_IS_FULL = "exceeded quota"
_LOOK = "Look at compute.kubernetes, compute.nodes and compute.threads"
_CURES = {
    403: "Have its role allow what deploy/kubernetes/rights.yaml lists, or ask for what the "
    "namespace's quota and policies admit (compute.kubernetes, compute.nodes)",
    404: "Make that namespace, or name another in compute.kubernetes.namespace",
}


class Kubernetes:
    """Jobs of run folder `folder`, each as `request` says; of `env` they get what is named."""

    name = "Kubernetes"
    section = "kubernetes"
    cure_for_stops = (
        "raise compute.kubernetes.time_limit_minutes, or see who ends it (a node that is drained, "
        "a pod of higher priority)"
    )

    def __init__(self, request: Wanted, folder: Path, env: Mapping[str, str]) -> None:
        self.request = request
        self._folder, self._env = folder, env
        self._known: Api | None = None
        self._last: dict[str, Job] = {}
        # The index of each that was seen, by its uid.
        self._pods: dict[str, str] = {}
        self._pulls_since: float | None = None

    @property
    def _api(self) -> Api:
        if self._known is None:
            self._known = Api(self.request.context, self.request.namespace)
        return self._known

    def require(self) -> None:
        if importlib.util.find_spec("kubernetes") is None:
            raise SettingsError(
                f"compute.launcher is 'kubernetes', and its client is not installed here: {INSTALL}"
            )
        mount = self.request.mount_path
        if self.request.claim and not self._folder.absolute().is_relative_to(mount):
            raise SettingsError(
                f"the run folder {self._folder} isn't below compute.kubernetes.mount_path "
                f"{mount!r}, where no pod would see it: have the store (CHATLLAMA_STORE) on that "
                "volume, at the same path here and in the pods"
            )
        api = self._api
        try:
            api.job("chatllama")
        except (NoAnswerError, RefusedError) as error:
            status = error.status if isinstance(error, RefusedError) else 0
            raise SettingsError(
                f"no jobs can be asked for at {api.server}, namespace {api.namespace!r}: {error}. "
                f"{_CURES.get(status, 'See whether `kubectl get jobs` works here')}"
            ) from None

    def require_taken(self) -> None:
        self.require()
        try:
            self._require_taken(job_manifest(self.request, TRIAL, Path(os.devnull), {}, 0.0))
        except SettingsError as error:
            # What is full for the moment may have room once the job is asked for.
            if _QUOTA_IS_FULL not in str(error):
                raise

    def submit(self, task: Task, name: str, stop_seconds: float) -> str:
        for left_over in self._folder.glob("chatllama-*.json"):
            left_over.unlink()
        self._pods.clear()
        script = self._write_script(task, name, stop_seconds)
        names = (*HANDED_ON, *self.request.variables)
        environment = {key: self._env[key] for key in names if key in self._env}
        manifest = job_manifest(self.request, name, script, environment, stop_seconds)
        self._require_taken(manifest)
        with self._refusals():
            self._api.create_job(manifest)
        return name

    def look_at(self, job: str) -> Job | None:
        try:
            thing, pods = self._api.job(job), self._api.pods(job)
            if thing is None and not pods:
                last = self._last.get(job)
                return dataclasses.replace(last, state="DELETED", reason="") if last else None
            told = read_job(thing, pods, self._bad_ends(job), self.request.nodes)
            # One that its node took along is soon forgotten there.
            self._pods |= {pod["metadata"]["uid"]: index_of(pod) for pod in pods}
            restarts = max(0, len(self._pods) - self.request.nodes)
            told = dataclasses.replace(told, restarts=restarts)
            if told.state == "FAILED" and self._lacks_one():
                told = dataclasses.replace(told, state="NODE_LOST")
            if told.restarts > self.request.retries and not told.is_over:
                self.cancel(job)
                told = dataclasses.replace(told, state="NODES_LOST", reason=told.reason or "again")
            elif told.waits:
                told = self._with_reason(job, told, pods)
        except RefusedError as error:
            # Rights that were taken away meanwhile may come back.
            raise NoAnswerError(str(error)) from None
        self._last[job] = told
        return told

    def _lacks_one(self) -> bool:
        """Whether a pod stands beside another that was put in a lost one's place.

        The two can't work together: one of them ends, sooner or later, with an error of its own.
        """
        times = Counter(self._pods.values())
        return self.request.nodes > 1 and len(set(times.values())) > 1

    def named(self, name: str) -> str | None:
        return None if self.look_at(name) is None else name

    def ask_to_save(self, job: str) -> None:
        self._api.delete_job(job)

    def cancel(self, job: str) -> None:
        self._api.delete_job(job)
        for pod in self._api.pods(job):
            self._api.end_pod(pod["metadata"]["name"])

    def close(self) -> None:
        if self._known is not None:
            self._known.close()
            self._known = None

    def _require_taken(self, manifest: Object) -> None:
        with self._refusals():
            self._api.create_job(manifest, trial=True)
        self._require_claim()
        self._require_service()

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            raise SettingsError(
                f"Kubernetes refused the job in namespace {self._api.namespace!r}: {error}. "
                f"{_CURES.get(error.status, _LOOK)}"
            ) from None

    def _write_script(self, task: Task, name: str, stop_seconds: float) -> Path:
        script, log = self._folder / "task.sh", task.log
        how, rest = self._bad_end(name, "$JOB_COMPLETION_INDEX"), log.with_suffix("")
        before = [
            f"log={_quoted(rest)}.$JOB_COMPLETION_INDEX.log",
            # What a try left that lost its node must not pass for the next one's.
            f'[ "$JOB_COMPLETION_INDEX" != 0 ] || {{ log={_quoted(log)}; rm -f '
            f"{_quoted(task.refusal)}; }}",
        ]
        on_node = shlex.join(through_shim([PYTHON, "-m", "chatllama_pipeline.launch.jobs.on_node"]))
        line = (
            f'{on_node} {_quoted(how)} "$log" {stop_seconds:g} '
            f"{processes_line(task.command, self.request, MEETING)}"
        )
        script.write_text(node_script(line, self.request.threads_each, task.spec, before))
        return script

    def _bad_end(self, job: str, index: str) -> Path:
        return self._folder / f"{job}.{index}.json"

    def _bad_ends(self, job: str) -> dict[str, Object]:
        """What the job's nodes wrote of how they ended, by the pod's index."""
        found = {}
        for index in map(str, range(self.request.nodes)):
            with contextlib.suppress(OSError, ValueError):
                found[index] = json.loads(self._bad_end(job, index).read_text())
        return found

    def _require_claim(self) -> None:
        name, nodes = self.request.claim, self.request.nodes
        if not name:
            return
        where = f"compute.kubernetes.claim {name!r} in namespace {self._api.namespace!r}"
        try:
            claim = self._api.claim(name)
        except RefusedError:
            return  # its pods tell
        if claim is None:
            raise SettingsError(
                f"there is no {where}: make it (deploy/kubernetes/storage.yaml), or name another"
            )
        modes, phase = claim["spec"].get("accessModes", []), claim.get("status", {}).get("phase")
        if phase == "Lost":
            raise SettingsError(f"{where} has lost its volume: mend it, or name another")
        if nodes > 1 and not {"ReadWriteMany"} & set(modes):
            raise SettingsError(
                f"{where} can be mounted {', '.join(modes)}, and compute.nodes is {nodes}: several "
                "nodes need ReadWriteMany"
            )

    def _require_service(self) -> None:
        name = self.request.service
        if self.request.nodes == 1:
            return
        try:
            service = self._api.service(name)
        except RefusedError:
            return  # its pods would wait for each other in vain, and end
        if service is None or service["spec"].get("clusterIP") != "None":
            raise SettingsError(
                f"the nodes of a job find each other by the headless service {name!r} in namespace "
                f"{self._api.namespace!r}, and there is none: kubectl apply -f "
                "deploy/kubernetes/service.yaml makes it, or name another in "
                "compute.kubernetes.service"
            )

    def _with_reason(self, job: str, told: Job, pods: Sequence[Object]) -> Job:
        """Why a job waits, by what happened to it and its pods."""
        if not pods:
            reason, hopeless = waiting.refused_pods(self._api.events(job))
            return dataclasses.replace(told, reason=reason or told.reason, hopeless=hopeless)
        if waiting.is_pulling(pods):
            self._pulls_since = self._pulls_since or time.monotonic()
            if time.monotonic() - self._pulls_since > PULL_SECONDS:
                return dataclasses.replace(told, hopeless=True)
            return told
        self._pulls_since = None
        for pod in pods:
            if not told.hopeless and waiting.is_starting(pod):
                warned = waiting.warned(self._api.events(pod["metadata"]["name"]))
                if warned:
                    return dataclasses.replace(told, reason=warned)
        return told


def _quoted(path: Path) -> str:
    """As a word of a shell in which the pod's number may stand."""
    return shlex.quote(str(path)).replace("$JOB_COMPLETION_INDEX", "'$JOB_COMPLETION_INDEX'")
