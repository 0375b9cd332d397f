"""A cluster on this machine, for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.launch.jobs import running
from tests.launch.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def kube_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("kubernetes"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def kube(
    kube_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """The cluster as this process finds it, with a claim and the service; no pod is left of it."""
    kube_cluster.server.write_kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.1)
    kube_cluster.give_store()
    yield kube_cluster
    left = [pod["metadata"]["name"] for pod in kube_cluster.running()]
    kube_cluster.heal()
    assert left == []
