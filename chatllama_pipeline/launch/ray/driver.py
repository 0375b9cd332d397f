"""`python -m chatllama_pipeline.launch.ray.driver ADDRESS`: asks a Ray cluster, line by line.

Whoever started it writes a question as JSON into its standard input, and reads the answer from its
standard output. Ray has this process to itself: it sets handlers of signals, and ends a process
whose cluster is gone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from chatllama_pipeline.launch.ray import cluster_side

NAMESPACE = "chatllama"
# A head that is there answers a bare connection at once.
PROBE_SECONDS = 10.0
START_SECONDS = 50.0


class Refused(Exception):
    """What was asked can't be had; the message says why."""


def connect(address: str) -> None:
    """Join the cluster. Raises ConnectionError, RuntimeError or OSError where that can't be."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS):
            pass
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level="ERROR",
    )
    cloudpickle.register_pickle_by_value(cluster_side)


def submit(name: str, plan: Mapping[str, Any]) -> None:
    """Have an actor see a job through; raises Refused where it can't start."""
    if not plan["grows"]:
        fits(plan["nodes"], plan["bundle"])
    options = {
        "name": name,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": 4,
    }
    whole = {**plan, "name": name, "namespace": NAMESPACE}
    actor = ray.remote(cluster_side.Supervisor).options(**options).remote(whole)
    try:
        ray.get(actor.ping.remote(), timeout=START_SECONDS)
    except RayError as error:
        ray.kill(actor, no_restart=True)
        raise Refused(f"its supervisor did not start: {error}") from None


def look(name: str) -> dict[str, Any]:
    """Whether a job's actor lives, and what is free on the whole cluster."""
    free = {key: amount for key, amount in ray.available_resources().items() if _is_told(key)}
    return {"lives": _actor(name) is not None, "free": _amounts(free)}


def stop(name: str) -> None:
    """Have a job save and end."""
    actor = _actor(name)
    if actor is not None:
        actor.stop.remote()


def kill(name: str) -> None:
    """End a job; its group, and what runs on it, go with its actor."""
    actor = _actor(name)
    if actor is not None:
        ray.kill(actor, no_restart=True)


def _actor(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def fits(count: int, bundle: Mapping[str, float]) -> None:
    """Raises Refused where the cluster hasn't so many nodes with that much each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = [
        node for node in nodes if all(node.get(key, 0) >= asked for key, asked in bundle.items())
    ]
    if len(fit) < count:
        have = "; ".join(
            _amounts({key: amount for key, amount in node.items() if _is_told(key)}) or "nothing"
            for node in nodes
        )
        raise Refused(
            f"it asks for {count} node(s) with {_amounts(bundle)} each, and the cluster has "
            f"{len(fit)} of them among {len(nodes)}: {have}"
        )


def _is_told(resource: str) -> bool:
    # Ray's own marks of nodes and groups are nobody's request.
    return not resource.startswith(("node:", "object_store_memory")) and "_group_" not in resource


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(
        f"{amount / 2**30:.1f} GiB memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in sorted(resources.items())
    )


QUESTIONS: dict[str, Callable[..., Any]] = {
    "fits": fits,
    "submit": submit,
    "look": look,
    "stop": stop,
    "kill": kill,
}


def main(argv: list[str]) -> int:
    """Answer until the standard input ends."""
    # What Ray prints must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**said: Any) -> None:
        print(json.dumps(said), file=answers, flush=True)

    try:
        connect(argv[0])
    except (OSError, RuntimeError, ValueError) as error:
        answer(error=f"{type(error).__name__}: {error}")
        return 1
    answer(answer=None)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer(answer=QUESTIONS[question.pop("ask")](**question))
        except Refused as error:
            answer(refused=str(error))
        except RayError as error:
            answer(error=f"{type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
