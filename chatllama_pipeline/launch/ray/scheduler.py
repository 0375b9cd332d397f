"""Ray, as what runs jobs asks it.

A job is a detached actor by its name, which sees it through whether or not anybody waits. Ray's own
jobs would need its dashboard on the cluster, and would be told of by HTTP alone; an actor needs
plain Ray, is started again by Ray where its node is lost, and takes its nodes along when it ends.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.jobs import scheduler
from chatllama_pipeline.launch.jobs.node_script import (
    PYTHON,
    Meeting,
    node_script,
    processes_line,
)
from chatllama_pipeline.launch.jobs.scheduler import NoAnswerError, Task
from chatllama_pipeline.launch.ray.client import Client
from chatllama_pipeline.launch.ray.wanted import Wanted
from chatllama_pipeline.launch.shim import through_shim

INSTALL = ".venv/bin/pip install -c constraints.txt -e '.[ray]'"
ENDED = frozenset({"CANCELLED", "COMPLETED", "FAILED", "NODE_LOST", "OUT_OF_MEMORY"})
# The job's actor sets these on each node.
MEETING = Meeting("$NODE_RANK", "$MASTER_ADDR", "$MASTER_PORT")


@dataclass(frozen=True)
class Job(scheduler.Job):
    """What a job's actor wrote of it, and why it waits.

    The actor starts it again before it says that it is over, as often as it may; one that no node
    has room for is refused.
    """

    over: ClassVar[frozenset[str]] = ENDED

    @property
    def how_it_ended(self) -> str:
        return {
            "CANCELLED": "was cancelled, and not by this run",
            "NODE_LOST": f"lost a node {self.restarts} times ({self.reason}): look at the cluster, "
            "or raise compute.ray.retries; run it again, it continues from its last state",
        }.get(self.state, f"ended as {self.state}: {self.reason}")


class Ray:
    """Jobs of run folder `folder`, each as `request` says, in the environment `env`."""

    name = "Ray"
    section = "ray"
    cure_for_stops = "see who ends it (a node that is drained, say), or ask for other nodes"

    def __init__(self, request: Wanted, folder: Path, env: Mapping[str, str]) -> None:
        self.request = request
        self._folder, self._env = folder, env
        self._client = Client(request.address, folder / "ray.log")

    def require(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise SettingsError(
                f"compute.launcher is 'ray', and Ray is not installed here: {INSTALL}"
            )
        try:
            self._client.join()
        except NoAnswerError as error:
            raise SettingsError(
                f"no Ray cluster can be joined at compute.ray.address {self.request.address!r}: "
                f"{error}. Look whether its head runs (`ray status`), whether this machine is one "
                "of its nodes (ray start --address=HOST:PORT --num-cpus=0 --num-gpus=0 joins it "
                "and gives it no work), and whether both have the same Ray and Python"
            ) from None

    def require_taken(self) -> None:
        self.require()
        if not self.request.grows:
            self._ask_for_nodes("fits", count=self.request.nodes, bundle=self.request.of_each_node)

    def submit(self, task: Task, name: str, stop_seconds: float) -> str:
        for left_over in self._folder.glob("chatllama-*.json"):
            left_over.unlink()
        script = self._folder / "task.sh"
        line = processes_line(task.command, self.request, MEETING)
        on_node = [PYTHON, "-m", "chatllama_pipeline.launch.jobs.on_node"]
        words = f'{shlex.join(through_shim(on_node))} "$NODE_HOW" "$NODE_LOG" {stop_seconds:g}'
        script.write_text(node_script(f"{words} {line}", self.request.threads_each, task.spec))
        ranks = range(self.request.nodes)
        plan = {
            "script": str(script),
            "status": str(self._status(name)),
            "env": dict(self._env),
            "nodes": self.request.nodes,
            "bundle": self.request.of_each_node,
            "grows": self.request.grows,
            "retries": self.request.retries,
            "logs": [str(task.log)] + [str(task.log.with_suffix(f".{n}.log")) for n in ranks[1:]],
            "hows": [str(self._folder / f"{name}.{n}.json") for n in ranks],
            # What a try left that lost its node must not pass for the next one's.
            "forget": [str(task.refusal)],
        }
        self._ask_for_nodes("submit", name=name, plan=plan)
        return name

    def look_at(self, job: str) -> Job | None:
        told = self._told(job)
        if told is not None and told.is_over:
            return told
        seen: dict[str, Any] = self._client.ask("look", name=job)
        if not seen["lives"]:
            # It may have ended between the two.
            told = self._told(job)
            return told if told is not None and told.is_over else None
        if told is None:
            told = Job("WAITS")
        if not told.waits:
            return told
        asked = ", ".join(
            f"{amount:g} {name}" for name, amount in self.request.of_each_node.items()
        )
        lost = f"; before: {told.reason}" if told.reason else ""
        reason = (
            f"for {self.request.nodes} node(s) with {asked}; free on the whole cluster: "
            f"{seen['free'] or 'nothing'}{lost}"
        )
        return dataclasses.replace(told, reason=reason)

    def named(self, name: str) -> str | None:
        return None if self.look_at(name) is None else name

    def ask_to_save(self, job: str) -> None:
        self._client.ask("stop", name=job)

    def cancel(self, job: str) -> None:
        self._client.ask("kill", name=job)

    def close(self) -> None:
        self._client.close()

    def _ask_for_nodes(self, question: str, **about: Any) -> None:
        try:
            self._client.ask(question, **about)
        except SettingsError as error:
            raise SettingsError(
                f"Ray refused the job: {error}. Look at compute.nodes, compute.threads and "
                "compute.ray (gpus, memory, resources), or set compute.ray.grows where the "
                "cluster adds nodes"
            ) from None

    def _status(self, job: str) -> Path:
        return self._folder / f"{job}.json"

    def _told(self, job: str) -> Job | None:
        try:
            told = json.loads(self._status(job).read_text())
        except FileNotFoundError:
            return None
        del told["group"]
        return Job(**told)
