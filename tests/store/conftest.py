"""A store for each test, in a folder or in a bucket on loopback, by one server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.store.remote import mirror
from chatllama_pipeline.store.versions import Store, store_root
from tests.store.buckets.s3 import S3, environment, s3_server


@pytest.fixture(scope="package")
def server() -> Iterator[S3]:
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server, where this process finds it and nothing goes wrong."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    yield server
    server.fail()


@pytest.fixture
def url(s3: S3) -> str:
    """An empty place in a bucket of its own."""
    bucket = uuid.uuid4().hex
    s3.make_bucket(bucket)
    return f"s3://{bucket}/stores/mine"


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """An empty store in a folder, where what is damaged has no second copy."""
    return Store(tmp_path / "storage")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folder: Store) -> Store:
    """An empty store: what holds of one holds wherever it stands."""
    if request.param == "folder":
        return folder
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("CHATLLAMA_STORE", request.getfixturevalue("url"))
    monkeypatch.setenv("CHATLLAMA_STORE_CACHE", str(folder.root))
    return Store(store_root())
