"""A cluster that is there for tests, and as each of them finds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.kubernetes.cluster import Cluster


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """A cluster at work, its files in `folder`."""
    made = Cluster(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def found(cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cluster as this process finds it, with a claim and the service; no pod is left of it."""
    cluster.server.write_kubeconfig(folder / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    cluster.give_store()
    yield
    left = [pod["metadata"]["name"] for pod in cluster.running()]
    cluster.heal()
    assert left == []
