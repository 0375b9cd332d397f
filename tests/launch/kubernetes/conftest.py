"""A cluster on this machine, for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.launch.jobs import running
from tests.launch.kubernetes.at_hand import found, started
from tests.launch.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def kube_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster


@pytest.fixture
def kube(
    kube_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.1)
    with found(kube_cluster, tmp_path, monkeypatch):
        yield kube_cluster
