"""A bucket on loopback for each test, by one server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.store.s3 import S3, environment, s3_server


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
