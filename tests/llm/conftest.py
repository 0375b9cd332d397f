"""The loopback server that speaks the OpenAI API, and a store for what its answers leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llm.openai_server import KEY, OpenAiServer


@pytest.fixture(scope="session")
def _running_server() -> Iterator[OpenAiServer]:
    yield from OpenAiServer.running()


@pytest.fixture
def openai_server(
    _running_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> OpenAiServer:
    """The server without latency and faults, its key in OPENAI_API_KEY, and an empty store in
    CHATLLAMA_STORE."""
    _running_server.reset()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    return _running_server
