"""Clusters on this machine; tests of them are skipped, with the reason, where they can't be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.launch.jobs import running
from tests.cluster.losses import Alone
from tests.cluster.machines.ray_nodes import Nodes
from tests.cluster.machines.slurm import Cluster, absent
from tests.cluster.place import Place


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are looked at more often than a cluster of others should be."""
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.5)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """What one process learns, for all clusters to be held to."""
    return Alone(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing := absent():
        pytest.skip(
            f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge"
        )
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, as this process finds it; no job is left of the test."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.config))
    yield cluster
    cluster.heal()
    assert cluster.queue() == []


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="no Ray here: pip install -c constraints.txt -e '.[ray]'")
    made = Nodes()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def nodes(ray_nodes: Nodes) -> Iterator[Nodes]:
    """The cluster; nothing is left of the test."""
    yield ray_nodes
    ray_nodes.heal()
    ray_nodes.wait(lambda: "4 CPU" in ray_nodes.free())
