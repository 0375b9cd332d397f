"""A release that a node of a cluster serves, as `chatllama serve --job` has it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatllama_pipeline.store.manifests import RUNS
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, lively, publish
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]
KEY = "a long random word"


def serves_and_ends_with_its_command(folder: Path, base: Path, compute: dict[str, Any]) -> None:
    """A server that `compute` asks for says where it is, knows its key, and leaves nothing."""
    store, model = Store(folder / "store"), folder / "model"
    lively(base, model, 0)
    version = publish(store, model, "first")
    (folder / "assistants" / NAME).mkdir(parents=True)
    (folder / "assistants" / NAME / "config.yaml").write_text("seed: 0\n")
    (folder / "compute.yaml").write_text(yaml.safe_dump(compute))
    command = subprocess.Popen(
        [sys.executable, "-m", "chatllama_pipeline", "serve", NAME, "--job", "--port", "0"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "CHATLLAMA_STORE": str(store.root),
            "CHATLLAMA_ASSISTANTS": str(folder / "assistants"),
            "CHATLLAMA_COMPUTE": str(folder / "compute.yaml"),
            "CHATLLAMA_API_KEY": KEY,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    try:
        said: list[str] = []
        for line in command.stderr:
            said.append(line)
            if "answers at" in line:
                break
        found = re.search(r"http://\S+", said[-1])
        assert found is not None, said
        assert said[-1].startswith(f"serve: {NAME} answers at ")
        assert _ask(found[0], KEY)["system_fingerprint"] == version.id
        with pytest.raises(urllib.error.HTTPError, match="401"):
            _ask(found[0], "another word")
        command.send_signal(signal.SIGINT)
        assert command.wait(PATIENCE) == 0, command.stderr.read()
    finally:
        command.kill()
        command.wait()
        command.stderr.close()
    assert list((store.root / RUNS / "serve" / NAME).glob("*/job.json")) == []


def _ask(url: str, key: str) -> dict[str, Any]:
    body = {"model": NAME, "messages": [{"role": "user", "content": "alpha"}]}
    head = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    asked = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), head)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        told: dict[str, Any] = json.load(answer)
    return told
