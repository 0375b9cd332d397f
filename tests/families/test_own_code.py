"""A model with Python code of its own: refused, unless a setting of its section lets it in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.loading import CODE_TRUSTED, code_arguments
from chatllama_pipeline.serving.chat import chat_once
from tests.families.kit import ACTORS
from tests.families.test_stages import Chain, settings

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

Path(__file__).with_name("ran").touch()


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnModel(LlamaModel):
    config_class = OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A Llama whose config names classes in a file of its own; it also claims to be trusted."""
    folder = next(f for f in ACTORS if f.name == "llama").make(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own_llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_own.OwnConfig",
            "AutoModel": "modeling_own.OwnModel",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
        CODE_TRUSTED: True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(CODE)
    return folder


@pytest.fixture
def chain(
    own_folder: Path,
    family_folder: Callable[[str], Path],
    tables: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Chain]:
    # The library copies such code here before it runs it.
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )

    def make(**actor: Any) -> Chain:
        config = settings(own_folder, family_folder("gpt2"))
        config["actor_config"] |= actor
        (tmp_path / "chain").mkdir()
        return Chain(tmp_path / "chain", tables, config)

    return make


def test_it_is_refused_by_default_and_never_run(
    chain: Callable[..., Chain], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"set actor_config.trust_remote_code: true"):
        chain().outcome("actor_base")
    assert not list(tmp_path.rglob("ran"))


def test_let_in_by_its_setting_it_goes_through_every_stage(
    chain: Callable[..., Chain], tmp_path: Path
) -> None:
    made = chain(trust_remote_code=True)
    assert made.outcome("actor_ppo").checks[-1].passed
    assert list(tmp_path.rglob("ran"))
    release = made.folder("release")
    assert (release / "modeling_own.py").is_file()
    assert code_arguments(release) == {"trust_remote_code": True}
    assert isinstance(chat_once(release, "alpha"), str)


def test_a_models_own_claim_to_be_trusted_counts_for_nothing(
    own_folder: Path, chain: Callable[..., Chain]
) -> None:
    config = json.loads((own_folder / "config.json").read_text())
    config |= {"model_type": "llama", "auto_map": {}}
    (own_folder / "config.json").write_text(json.dumps(config))
    assert code_arguments(chain().folder("actor_base")) == {"trust_remote_code": False}
