"""Hub ids against a real server on loopback that answers as the hub does, and broken folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.bases.sources import find_model
from tests.tiny import QUIET, MakeSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """`tiny/llama` is the folder; `tiny/gated` lists its files and gives none; no other exists."""

    folder: Path
    fetched: list[str]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/tiny/"):
            what = "/tree/" if "/tree/" in path else "/revision/"
            name, _, revision = path.removeprefix("/api/models/").partition(what)
            if name not in ("tiny/llama", "tiny/gated"):
                self._refuse(404, "RepoNotFound")
            elif revision not in ("main", "v1", COMMIT):
                self._refuse(404, "RevisionNotFound")
            else:
                self._send(json.dumps(self._listed(name, what)).encode(), with_body)
        elif path.startswith(f"/tiny/gated/resolve/{COMMIT}/"):
            self._refuse(403, "GatedRepo")
        elif path.startswith(f"/tiny/llama/resolve/{COMMIT}/"):
            file = self.folder / path.rsplit("/", 1)[1]
            if with_body:
                self.fetched.append(file.name)
            self._send(
                file.read_bytes(), with_body, ETag=f'"{file.name}"', **{"X-Repo-Commit": COMMIT}
            )
        else:
            self._refuse(404, "RepoNotFound")

    def _listed(self, name: str, what: str) -> Any:
        files = sorted(self.folder.iterdir())
        if what == "/revision/":
            siblings = [{"rfilename": path.name} for path in files]
            return {"id": name, "sha": COMMIT, "siblings": siblings}
        return [
            {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name} for p in files
        ]

    def _send(self, body: bytes, with_body: bool, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Hub]]:
    """A server as HF_ENDPOINT, with a copy of the tiny model to serve, and a cache of its own."""
    folder = shutil.copytree(tiny_base_folder, tmp_path / "served")
    kind = type("ThisHub", (Hub,), {"folder": folder, "fetched": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    # The library reads these from the environment when it is first imported.
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield kind
    server.shutdown()
    server.server_close()


def settings(model: str, **others: Any) -> dict[str, Any]:
    return {"actor_config": {"model": model, **others}}


def test_a_hub_id_is_fetched_at_the_commit_its_revision_stands_for(
    hub: type[Hub], make_spec: MakeSpec, tiny_base_folder: Path
) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"the same again, never fetched")
    (hub.folder / "consolidated.safetensors").write_bytes(b"in the maker's own format, likewise")
    (hub.folder / "README.md").write_text("never fetched either")
    spec = make_spec("actor_base", settings("tiny/llama@v1"), {})
    outcome = run(spec, QUIET)
    assert outcome.metrics["revision"] == COMMIT and outcome.warnings == []
    assert "model.safetensors" in hub.fetched
    others = {"pytorch_model.bin", "consolidated.safetensors", "README.md"}
    assert not others & set(hub.fetched)
    copied = load_file(Path(spec.output) / "model.safetensors")
    for name, value in load_file(tiny_base_folder / "model.safetensors").items():
        assert torch.equal(copied[name], value)


def test_what_was_fetched_once_serves_offline(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.folder / "README.md").write_text("not fetched, nor missed")
    online = find_model("tiny/llama", "actor_config.model")
    fetched = list(hub.fetched)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model("tiny/llama", "actor_config.model") == online
    assert hub.fetched == fetched
    with pytest.raises(SettingsError, match=r"tiny/llama@v2 was never fetched.*HF_HUB_OFFLINE"):
        find_model("tiny/llama@v2", "actor_config.model")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("tiny/none", r"actor_config.model: tiny/none is no model on the hub.*spelling.*HF_TOKEN"),
        ("tiny/gated", r"actor_config.model: tiny/gated is gated: ask for access on its page http"
         r".*/tiny/gated.*set HF_TOKEN"),
        ("tiny/llama@v9", r"actor_config.model: tiny/llama has no revision 'v9'"),
        ("a b/c", r"actor_config.model: 'a b/c' is no hub id \(owner/name"),
    ],
)  # fmt: skip
def test_a_hub_id_that_gives_nothing_says_why_and_what_to_do(
    hub: type[Hub], make_spec: MakeSpec, model: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        run(make_spec("actor_base", settings(model), {}), QUIET)


def test_a_hub_out_of_reach_is_told_with_the_cures(
    hub: type[Hub], make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SettingsError, match=r"could not be fetched from http://127.0.0.1:9.*scratch"
    ):
        run(make_spec("actor_base", settings("tiny/llama"), {}), QUIET)


def test_of_a_hub_models_gguf_files_the_one_that_is_named_is_fetched(
    hub: type[Hub], make_spec: MakeSpec, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in hub.folder.iterdir():
        path.unlink()
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(tiny_gguf, hub.folder / name)
    with pytest.raises(SettingsError, match=r"no weights but as GGUF: .* \(a\.gguf, b\.gguf\)"):
        run(make_spec("actor_base", settings("tiny/llama"), {}), QUIET)
    with pytest.raises(SettingsError, match=r"has no file c\.gguf: .* \(a\.gguf, b\.gguf\)"):
        run(make_spec("actor_base", settings("tiny/llama", gguf_file="c.gguf"), {}, "b"), QUIET)
    assert hub.fetched == []
    spec = make_spec("actor_base", settings("tiny/llama", gguf_file="b.gguf"), {}, "c")
    assert run(spec, QUIET).metrics["revision"] == COMMIT
    assert hub.fetched == ["b.gguf"] and (Path(spec.output) / "model.safetensors").is_file()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model("tiny/llama", "actor_config.model", gguf_file="b.gguf").gguf == "b.gguf"
    with pytest.raises(SettingsError, match=r"tiny/llama@main was never fetched on this machine"):
        find_model("tiny/llama", "actor_config.model", gguf_file="a.gguf")


@pytest.fixture
def sharded(tiny_base_folder: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_base_folder, tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    model.save_pretrained(folder, max_shard_size="40KB")
    return folder


def test_an_adapter_alone_is_told_to_be_merged(
    tiny_base_folder: Path, tmp_path: Path, make_spec: MakeSpec
) -> None:
    shutil.copytree(tiny_base_folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "config.json").rename(tmp_path / "adapter" / "adapter_config.json")
    (tmp_path / "adapter" / "model.safetensors").rename(
        tmp_path / "adapter" / "adapter_model.safetensors"
    )
    with pytest.raises(SettingsError, match=r"no config.json and no weights .*: merge it into its"):
        run(make_spec("actor_base", settings(str(tmp_path / "adapter")), {}), QUIET)


def test_a_quantized_model_is_refused(
    tiny_base_folder: Path, tmp_path: Path, make_spec: MakeSpec
) -> None:
    folder = shutil.copytree(tiny_base_folder, tmp_path / "quantized")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        SettingsError, match=r"actor_config.model: .*quantized \(gptq\).* made from"
    ):
        run(make_spec("actor_base", settings(str(folder)), {}), QUIET)


def test_shards_are_put_together(
    sharded: Path, make_spec: MakeSpec, tiny_base_folder: Path
) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 1
    spec = make_spec("actor_base", settings(str(sharded)), {})
    run(spec, QUIET)
    copied = load_file(Path(spec.output) / "model.safetensors")
    for name, value in load_file(tiny_base_folder / "model.safetensors").items():
        assert torch.equal(copied[name], value)


def test_a_missing_shard_is_named(sharded: Path, make_spec: MakeSpec) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    shards[1].unlink()
    told = (
        rf"lacks {shards[1].name}, 1 of the {len(shards)} files that model.safetensors.index.json"
    )
    with pytest.raises(SettingsError, match=told):
        run(make_spec("actor_base", settings(str(sharded)), {}), QUIET)


def test_a_cut_off_file_is_an_error_that_says_to_fetch_it_again(
    sharded: Path, make_spec: MakeSpec
) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(SettingsError, match=r"could not be loaded \(.*\): its files are damaged"):
        run(make_spec("actor_base", settings(str(sharded)), {}), QUIET)


@pytest.fixture
def pickled(tiny_base_folder: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_base_folder, tmp_path / "pickled")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_read_and_warned_of(
    pickled: Path, make_spec: MakeSpec, tiny_base_folder: Path
) -> None:
    spec = make_spec("actor_base", settings(str(pickled)), {})
    outcome = run(spec, QUIET)
    assert len(outcome.warnings) == 1 and "weights-only" in outcome.warnings[0]
    copied = load_file(Path(spec.output) / "model.safetensors")
    assert set(copied) == set(load_file(tiny_base_folder / "model.safetensors"))


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_code_in_a_pickle_is_never_run(pickled: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    torch.save({"weight": Harmful(tmp_path / "harm")}, pickled / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="could not be loaded"):
        run(make_spec("actor_base", settings(str(pickled)), {}), QUIET)
    assert not (tmp_path / "harm").exists()
    # The same file does harm where it is read without that care.
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "harm").exists()


def test_weights_of_another_model_are_refused(
    tiny_base_folder: Path, make_spec: MakeSpec, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base_folder, tmp_path / "deeper")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(
        SettingsError, match=r"lack 9 tensors of a LlamaForCausalLM \(model.layers.2"
    ):
        run(make_spec("actor_base", settings(str(folder)), {}), QUIET)
