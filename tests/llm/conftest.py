"""The loopback server that speaks the OpenAI API, and a store for what its answers leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.llm.client.requests import LlmClient
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.settings import AssistantSettings
from tests.llm.desk import Desk
from tests.llm.loopback.server import KEY, MODEL, OpenAiServer

ROLE = {
    "provider": "openai",
    "model": MODEL,
    "api_key_env": "OPENAI_API_KEY",
    "price": {"input": 1.0, "output": 2.0},
}


@pytest.fixture
def openai_server(
    running_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> OpenAiServer:
    """The server without latency and faults, its key in OPENAI_API_KEY, and an empty store in
    CHATLLAMA_STORE."""
    running_server.reset()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    return running_server


@pytest.fixture
def make_client(openai_server: OpenAiServer, tmp_path: Path) -> Iterator[Callable[..., LlmClient]]:
    """Opens clients of the server; `llm` are keys of config.yaml's section."""
    opened: list[LlmClient] = []

    def make(scope: str = "run", **llm: Any) -> LlmClient:
        settings = AssistantSettings.model_validate(
            {"llm": {**ROLE, "base_url": openai_server.url, **llm}}
        )
        client = open_client(settings.role("judge"), tmp_path / scope)
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def desk(tmp_path: Path, openai_server: OpenAiServer) -> Desk:
    return Desk(tmp_path, openai_server)
