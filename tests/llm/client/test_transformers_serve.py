"""The same client against another real server: `transformers serve` with a tiny random model."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.llm.client.requests import LlmReply, LlmRequest
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.records import Message
from chatllama_pipeline.settings import AssistantSettings
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_healthy(port: int) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE).close()
        return True
    return False


@pytest.fixture(scope="module")
def serving(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a `transformers serve` that has loaded the tiny model."""
    port = free_port()
    program = shutil.which("transformers", path=str(Path(sys.executable).parent))
    assert program is not None
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [program, "serve", str(tiny_base_folder), "--device", "cpu", "--port", str(port)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: server.poll() is not None or is_healthy(port), log.read_text)
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(PATIENCE)


@pytest.mark.parametrize("style", ["chat", "completion"])
def test_the_same_client_works_with_transformers_serve(
    serving: str,
    tiny_base_folder: Path,
    style: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    llm = {
        "provider": "openai",
        "base_url": serving,
        "model": str(tiny_base_folder),
        "price": "free",
        "style": style,
        "concurrency": 4,
    }
    role = AssistantSettings.model_validate({"llm": llm}).role("judge")
    requests = [
        LlmRequest(
            (Message("system", "Be kind."), Message("user", f"alpha {n}")),
            temperature=0.7,
            max_tokens=5,
            seed=n,
            json_schema='{"type": "object"}',
        )
        for n in range(6)
    ]
    with open_client(role, tmp_path / "run") as client:
        answers = client.answer(requests)
        ledger = client.ledger()
    assert all(isinstance(answer, LlmReply) for answer in answers), answers
    assert ledger.calls == 6
    assert 6 <= ledger.completion_tokens <= 30
    assert ledger.prompt_tokens > 6
    with open_client(role, tmp_path / "run") as client:
        assert all(answer.cached for answer in client.answer(requests))  # type: ignore[union-attr]
