"""A Ray cluster of two nodes on this machine, with two CPUs each."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatllama_pipeline.launch.ray.client import Client

PATIENCE_SECONDS = 300
# A lost node is noticed within seconds, not half a minute; and nothing starts before it is asked.
SYSTEM = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
    "enable_metrics_collection": False,
}
STORE_BYTES = 80 * 2**20
# Each node has a loopback address of its own; for 127.0.0.1 Ray would take the machine's.
ADDRESSES = {"n1": "127.0.0.2", "n2": "127.0.0.3", "n3": "127.0.0.4"}


class Nodes:
    """The cluster, and what is said of it by a process that has joined it; n1 is its head."""

    def __init__(self) -> None:
        from ray._private.utils import get_ray_address_file
        from ray.cluster_utils import Cluster

        # Where no Ray ever ran it wants to write a file into a folder that isn't there.
        Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
        # Ray's sockets stand in there, and a socket's path is short.
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))
        # At its exit it would want a handler of signals in this process.
        self._cluster = Cluster(shutdown_at_exit=False)
        self._nodes: dict[str, Any] = {}
        self.address = ""

    def start(self) -> None:
        """Bring both nodes up."""
        self.add("n1", include_dashboard=False, temp_dir=str(self.folder), _system_config=SYSTEM)
        self.address = str(self._cluster.address)
        self.client = Client(self.address, self.folder / "client.log")
        self.add("n2")

    def add(self, name: str, **more: Any) -> None:
        """Start a node, which has a resource of its name; all but the head can be lost."""
        where = {"node_ip_address": ADDRESSES[name], "object_store_memory": STORE_BYTES}
        own = {name: 1} if name == "n1" else {name: 1, "may_be_lost": 2}
        what = {"num_cpus": 2, "resources": own, **more}
        self._nodes[name] = self._cluster.add_node(**where, **what)

    def lose(self, name: str) -> None:
        """End a node hard, with what runs there."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def heal(self) -> None:
        """Two nodes again, whatever a test did."""
        if "n2" not in self._nodes:
            self.add("n2")
        if "n3" in self._nodes:
            self.lose("n3")

    def free(self) -> str:
        """What nobody has, of all nodes."""
        told: str = self.client.ask("look", name="nobody")["free"]
        return told

    def wait(self, for_what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not for_what():
            assert time.monotonic() < deadline, self.free()
            time.sleep(0.2)

    def stop(self) -> None:
        if self._nodes:
            self.client.close()
        self._cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)
