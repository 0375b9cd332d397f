"""What runs on the cluster: an actor that sees a job through, and one on each of its nodes.

Both are sent there by value and need nothing there but Ray, so that a cluster's own Python may be
without the project; the job's script then says where a node lacks what the stage needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

# How long the actors of nodes that are there may take to start.
START_SECONDS = 300.0
# Where one node's part ends badly, the others end of it as well, or are asked to after so long.
FOLLOW_SECONDS = 10.0
# What was spent until then is told this often.
TELL_SECONDS = 10.0
# How long a group may take to go, which an earlier life of this actor left.
REMOVAL_SECONDS = 120.0


class OnNode:
    """Starts a job's script on its node, and waits for it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def place(self) -> tuple[str, int]:
        """The address of this node, and a port that is free there."""
        address = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((address, 0))
            return address, probe.getsockname()[1]

    def run(
        self, script: str, env: dict[str, str], log: str, how: str, gpus: bool
    ) -> dict[str, Any]:
        """The script's exit code, and what it wrote into `how`; empty where it ended well."""
        if not Path(script).exists():
            told = f"{socket.gethostname()} does not see {script}"
            cure = "the store must be a folder that all nodes see at the same path"
            return {"code": 66, "message": f"{told}: {cure}"}
        Path(how).unlink(missing_ok=True)
        # Ray says in this process's environment which devices are the job's.
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
        with Path(log).open("ab") as output:
            self._process = subprocess.Popen(
                ["bash", script],
                env={**env, "CUDA_VISIBLE_DEVICES": devices},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if self._stopping.is_set():
            self._process.terminate()
        code = self._process.wait()
        if code == 0:
            return {}
        with contextlib.suppress(OSError):
            return {"code": code, **json.loads(Path(how).read_text())}
        return {"code": code, "message": f"ended with exit code {code}"}

    def stop(self) -> None:
        """Have the script's stage save and leave."""
        self._stopping.set()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


class Supervisor:
    """Sees a job through: reserves its nodes, runs it there, and again where a node was lost.

    What became of it stands in a file before this actor ends itself. Where its own node is lost
    Ray starts it again elsewhere, and it goes on by that file.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._stopping = threading.Event()
        self._file = Path(plan["status"])
        self._began: float | None = None
        self._spent_before = 0.0
        self._status: dict[str, Any] = {
            "state": "WAITS",
            "reason": "",
            "nodes": "",
            "group": "",
            "restarts": 0,
            "queued_seconds": 0.0,
            "node_seconds": 0.0,
        }
        if self._file.exists():
            self._status = json.loads(self._file.read_text())
        threading.Thread(target=self._work, daemon=True).start()

    def ping(self) -> None:
        """Answers once this actor is at work."""

    def stop(self) -> None:
        """Have the stage save and leave; the job is over then."""
        self._stopping.set()

    def _tell(self, **changes: Any) -> None:
        self._status.update(changes)
        if self._began is not None:
            seconds = time.monotonic() - self._began
            self._status["node_seconds"] = self._spent_before + seconds * self._plan["nodes"]
        beside = self._file.with_name(f".{self._file.name}.new")
        beside.write_text(json.dumps(self._status))
        beside.replace(self._file)

    def _work(self) -> None:
        try:
            if self._status["group"]:
                self._end_earlier_life()
            self._tell(**self._until_end())
        except Exception as error:
            self._tell(state="FAILED", reason=f"ended by {type(error).__name__}: {error}")
        finally:
            me = ray.get_actor(self._plan["name"], namespace=self._plan["namespace"])
            ray.kill(me, no_restart=True)

    def _end_earlier_life(self) -> None:
        """Nothing of the job may run on when it starts again."""
        with contextlib.suppress(ValueError):
            group = get_placement_group(self._status["group"])
            remove_placement_group(group)
            deadline = time.monotonic() + REMOVAL_SECONDS
            while placement_group_table(group).get("state") != "REMOVED":
                if time.monotonic() > deadline:
                    raise RuntimeError("the nodes of the job's earlier try are not given back")
                time.sleep(0.5)
        self._tell(restarts=self._status["restarts"] + 1, reason="the supervisor's node was lost")

    def _until_end(self) -> dict[str, Any]:
        """The job's last state, and the reason."""
        while True:
            if self._status["restarts"] > self._plan["retries"]:
                return {"state": "NODE_LOST"}
            group = self._reserved()
            if group is None:
                return {"state": "CANCELLED"}
            self._began, self._spent_before = time.monotonic(), self._status["node_seconds"]
            try:
                return self._attempt(group)
            except OutOfMemoryError as error:
                return {"state": "OUT_OF_MEMORY", "reason": _first_line(error)}
            except RayTaskError:
                raise
            except RayError as error:
                reason = f"{type(error).__name__}: {_first_line(error)}"
                self._tell(restarts=self._status["restarts"] + 1, reason=reason)
            finally:
                remove_placement_group(group)
                self._tell()
                self._began = None

    def _reserved(self) -> PlacementGroup | None:
        """Nodes of the job's own; None where it was stopped before there were any."""
        name = f"{self._plan['name']}-{self._status['restarts']}"
        began, before = time.monotonic(), self._status["queued_seconds"]
        self._tell(state="WAITS", group=name)
        bundles = [self._plan["bundle"]] * self._plan["nodes"]
        group = placement_group(bundles, strategy="STRICT_SPREAD", name=name)
        while not group.wait(1):
            if self._stopping.is_set():
                remove_placement_group(group)
                return None
        self._tell(queued_seconds=before + time.monotonic() - began)
        return group

    def _attempt(self, group: PlacementGroup) -> dict[str, Any]:
        """Run the job on a group to its end; raises RayError where a node was lost."""
        actors = [self._actor(group, rank) for rank in range(self._plan["nodes"])]
        try:
            places = ray.get([actor.place.remote() for actor in actors], timeout=START_SECONDS)
            nodes = ", ".join(address for address, _ in places)
            self._tell(state="RUNS", nodes=nodes, reason="")
            for left_over in self._plan["forget"]:
                Path(left_over).unlink(missing_ok=True)
            address, port = places[0]
            meeting = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
            parts = []
            for rank, actor in enumerate(actors):
                log, how = self._plan["logs"][rank], self._plan["hows"][rank]
                of_node = {"NODE_RANK": str(rank), "NODE_LOG": log, "NODE_HOW": how}
                env = {**self._plan["env"], **meeting, **of_node}
                gpus = "GPU" in self._plan["bundle"]
                parts.append(actor.run.remote(self._plan["script"], env, log, how, gpus))
            return self._watch(actors, parts)
        finally:
            for actor in actors:
                ray.kill(actor)

    def _actor(self, group: PlacementGroup, rank: int) -> Any:
        bundle = dict(self._plan["bundle"])
        options = {
            "num_cpus": bundle.pop("CPU"),
            "num_gpus": bundle.pop("GPU", 0),
            "memory": bundle.pop("memory", None),
            "resources": bundle,
            "max_concurrency": 3,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank),
        }
        return ray.remote(OnNode).options(**options).remote()

    def _watch(self, actors: list[Any], parts: list[Any]) -> dict[str, Any]:
        """Wait for all parts of the job; those that are left are stopped where one has failed."""
        failures: list[dict[str, Any]] = []
        left, told, failed_at = list(parts), time.monotonic(), float("inf")
        stopped = False
        while left:
            done, left = ray.wait(left, num_returns=1, timeout=1.0)
            failures += [failure for failure in ray.get(done) if failure]
            now = time.monotonic()
            if failures:
                failed_at = min(failed_at, now)
            if not stopped and (self._stopping.is_set() or now > failed_at + FOLLOW_SECONDS):
                stopped = True
                for actor in actors:
                    actor.stop.remote()
            if now > told + TELL_SECONDS:
                told = now
                self._tell()
        if not failures:
            return {"state": "COMPLETED"}
        if self._stopping.is_set():
            return {"state": "CANCELLED"}
        killed = [failure for failure in failures if failure.get("type") == "OutOfMemoryError"]
        state = "OUT_OF_MEMORY" if killed else "FAILED"
        return {"state": state, "reason": (killed or failures)[0]["message"]}


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
