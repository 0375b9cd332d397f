"""`chatllama publish` against a hub on loopback, by huggingface_hub's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chatllama_pipeline.cli.serving.publish import publish
from chatllama_pipeline.errors import DataError, StoreError
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.hub import TOKEN, Repository, RunningHub, running_hub
from tests.serving.served import NAME

# huggingface_hub's own, of its client's old word for a body.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Released = tuple[Store, Version, Version]
ID = "me/tiny"


@pytest.fixture
def hub(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningHub]:
    """A hub that knows the token, and assistant `tiny` with its releases."""
    folder = tmp_path / "assistants" / NAME
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(folder.parent))
    monkeypatch.setenv("CHATLLAMA_STORE", str(released[0].root))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Tests are told to stay off the hub; this one is on loopback.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # This hub takes large files by HTTP alone.
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def said(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(publish, [NAME, ID, *arguments], input=answer)


def test_a_release_is_published_whole_and_private(hub: RunningHub, released: Released) -> None:
    first = released[1]
    result = said("--version", first.id)
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip().startswith(f"{hub.url}/{ID}/commit/")
    there = hub.repositories[ID]
    assert there.private and there.messages == [f"tiny, version {first.id}"]
    # The manifest, which names what it was made from, stays here.
    assert "manifest.json" not in there.files and "model.safetensors" in there.files
    for file in first.manifest.files:
        assert there.files[file.path] == (first.path / file.path).read_bytes()


def test_what_stands_there_is_replaced_only_when_that_is_said(
    hub: RunningHub, released: Released
) -> None:
    hub.repositories[ID] = there = Repository(False, {"old.bin": b"old", "config.json": b"{}"})
    result = said(answer="n\n")
    assert result.exit_code == 1
    assert f"{ID} holds 2 files (old.bin, config.json). Replace them" in result.stderr
    assert there.files == {"old.bin": b"old", "config.json": b"{}"}
    # Where nobody can answer, nothing is replaced either.
    assert said(answer="").exit_code == 1 and "old.bin" in there.files
    assert said("--yes").exit_code == 0
    assert "old.bin" not in there.files and there.files["config.json"] != b"{}"
    assert "model.safetensors" in there.files and not there.private


def test_public_is_for_repositories_that_are_made(hub: RunningHub) -> None:
    assert said("--public").exit_code == 0
    assert not hub.repositories[ID].private
    hub.repositories[ID] = Repository(True)
    result = said("--public")
    assert "me/tiny stays private: --public is for new ones" in result.stderr
    assert hub.repositories[ID].private


def test_what_was_exported_goes_with_it(hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "tiny-q8_0.gguf").write_bytes(b"GGUF")
    (tmp_path / "README.md").write_text("a card with GGUF")
    assert said("--gguf", str(tmp_path)).exit_code == 0
    assert hub.repositories[ID].files["tiny-q8_0.gguf"] == b"GGUF"
    assert hub.repositories[ID].files["README.md"] == b"a card with GGUF"
    assert "config.yaml" not in hub.repositories[ID].files
    (tmp_path / "tiny-q8_0.gguf").unlink()
    result = said("--gguf", str(tmp_path), "--yes")
    assert isinstance(result.exception, DataError)
    assert "holds no GGUF file: name what `chatllama export` wrote" in str(result.exception)


def test_nobody_and_strangers_are_told_how_to_sign_in(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.repositories[ID] = Repository(True)
    result = said()
    assert isinstance(result.exception, StoreError)
    assert f"the hub didn't let us look at {ID}: " in str(result.exception)
    assert "Invalid token" in str(result.exception)
    monkeypatch.setattr("chatllama_pipeline.serving.hub.get_token", lambda: None)
    assert "set HF_TOKEN to a token that may write" in str(said().exception)


def test_an_id_that_is_none_and_a_hub_that_is_away_are_told(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(publish, [NAME, "not an id"])
    assert isinstance(result.exception, StoreError) and "not an id" in str(result.exception)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert isinstance(said().exception, StoreError)
