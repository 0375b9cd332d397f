"""`chatllama serve`: what it refuses before it loads anything, and a server that is really run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.serving.serve import serve
from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store, store_root
from tests.serving.served import NAME
from tests.waiting import PATIENCE

Released = tuple[Store, Version, Version]
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def assistant(released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of assistant `tiny`, whose releases stand in the store."""
    folder = tmp_path / "assistants" / NAME
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(folder.parent))
    monkeypatch.setenv("CHATLLAMA_STORE", str(released[0].root))
    monkeypatch.delenv("CHATLLAMA_API_KEY", raising=False)
    return folder


def refusal(*arguments: str) -> str:
    """What the command raises."""
    return str(CliRunner().invoke(serve, list(arguments)).exception)


def test_without_a_release_there_is_nothing_to_serve(
    assistant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "empty"))
    assert "release of assistant tiny was never made" in refusal(NAME)
    assert "unknown assistant 'tinny' (did you mean 'tiny'?)" in refusal("tinny")


def test_a_port_in_use_is_told_with_the_cure(assistant: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = refusal(NAME, "--port", port)
    assert f"127.0.0.1:{port} is in use: end what listens there, or choose another" in told


def test_beyond_loopback_a_key_must_be_set(assistant: Path) -> None:
    for host in ("0.0.0.0", "::"):
        told = refusal(NAME, "--host", host, "--port", "0")
        assert "set CHATLLAMA_API_KEY to a long random word, or listen on 127.0.0.1" in told
    assert "is no address of this machine" in refusal(NAME, "--host", "192.0.2.1")
    assert "--host no such host is no address" in refusal(NAME, "--host", "no such host")


@pytest.mark.parametrize(
    ("versions", "error", "told"),
    [
        (["0123"], AbsentError, "release of assistant tiny has no version 0123; those there are: "),
        (["{first}=heavy"], SettingsError, "'heavy' is no weight: give a number above 0"),
        (["{first}=0"], SettingsError, "'0' is no weight"),
        (["{first}=nan"], SettingsError, "'nan' is no weight"),
        (["{first}", "{first}=2"], SettingsError, "is named twice"),
    ],
)
def test_versions_that_there_are_not_and_weights_that_are_none_are_refused(
    assistant: Path, released: Released, versions: list[str], error: type[Exception], told: str
) -> None:
    options = [f"--version={text.format(first=released[1].id)}" for text in versions]
    result = CliRunner().invoke(serve, [NAME, *options])
    assert isinstance(result.exception, error)
    assert told in str(result.exception)


def test_a_job_needs_a_cluster_that_others_reach_and_a_key(
    assistant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATLLAMA_COMPUTE", raising=False)
    told = "name slurm or ray in the file of CHATLLAMA_COMPUTE, or serve without --job"
    assert f"compute.launcher is 'local': {told}" in refusal(NAME, "--job")
    compute = tmp_path / "compute.yaml"
    monkeypatch.setenv("CHATLLAMA_COMPUTE", str(compute))
    pods = "launcher: kubernetes\nkubernetes: {image: one, claim: two, mount_path: /srv}\n"
    for asked, cure in (
        (pods, f"compute.launcher is 'kubernetes': {told}"),
        ("launcher: slurm\n", "set CHATLLAMA_API_KEY to a long random word"),
        ("launcher: slurm\nnodes: 0\n", "compute.nodes is 0"),
    ):
        compute.write_text(asked)
        assert cure in refusal(NAME, "--job")
    assert not (Store(store_root()).root / "_runs" / "serve").exists()


@pytest.mark.slow
def test_a_server_follows_the_release_in_use_and_ends_by_a_signal(
    assistant: Path, released: Released
) -> None:
    _, first, second = released
    pin = "store: {{pins: {{release: {}}}}}\n"
    (assistant / "config.yaml").write_text(pin.format(first.id))
    server = subprocess.Popen(
        [sys.executable, "-m", "chatllama_pipeline", "serve", NAME, "--port", "0"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        told = next(line for line in server.stderr if "answers at" in line)
        assert f"by version {first.id} (continuous batching" in told
        found = re.search(r"http://\S+", told)
        assert found is not None
        assert _ask(found[0])["system_fingerprint"] == first.id
        (assistant / "config.yaml").write_text(pin.format(second.id))
        assert next(server.stderr) == f"tiny speaks by version {second.id}\n"
        assert _ask(found[0])["system_fingerprint"] == second.id
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
        assert server.stderr.read() == ""
    finally:
        server.kill()
        server.wait()
        server.stderr.close()  # type: ignore[union-attr]


def _ask(url: str) -> dict[str, Any]:
    body = {"model": NAME, "messages": [{"role": "user", "content": "alpha"}]}
    asked = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        told: dict[str, Any] = json.load(answer)
    return told
