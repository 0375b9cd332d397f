"""What registries hold; tests that need it are skipped, with the reason, where it can't be had."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec
from tests.published import registry

# The published models of these have no embedding for what their tokenizers know of images.
EMBEDDINGS = {"gemma3": 262_144}


def fetched(fetch: Callable[..., Path], *arguments: str) -> Path:
    """What `fetch` gives, or a skip with the reason."""
    try:
        return fetch(*arguments)
    except registry.OutOfReach as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def published_tokenizer(published_base: Callable[[str], Path]) -> Callable[[str], Any]:
    """A published tokenizer, by name, read once from the folder of `published_base`."""
    return functools.cache(lambda name: load_tokenizer(published_base(name)))


@pytest.fixture(scope="session")
def published_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A published tokenizer, by name, with a tiny random Llama, as `actor_base` makes them."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            tokenizer = fetched(registry.tokenizer_folder, name)
            root = tmp_path_factory.mktemp(name)
            _random_llama(tokenizer, root / "model", EMBEDDINGS.get(name))
            made[name] = root / "base"
            made[name].mkdir()
            settings: dict[str, Any] = {
                "actor_config": {"model": str(root / "model"), "tokenizer_path": str(tokenizer)}
            }
            spec = StageSpec(
                "actor_base", name, settings, {}, str(made[name]), str(root), str(root / "result")
            )
            run(spec, Progress("published", lambda line: None))
        return made[name]

    return make


def _random_llama(tokenizer_folder: Path, folder: Path, embeddings: int | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    known = max(tokenizer.get_vocab().values()) + 1
    config = LlamaConfig(
        vocab_size=embeddings or known,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
