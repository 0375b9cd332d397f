"""Opens the client of a role: the one way from settings to a language model."""

from __future__ import annotations

from pathlib import Path

from chatllama_pipeline.artifacts import store_root
from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.cache import AnswerCache, cache_file
from chatllama_pipeline.llm.client import CachedClient, OpenAiBackend
from chatllama_pipeline.llm.openai_calls import read_key
from chatllama_pipeline.llm.requests import LlmClient
from chatllama_pipeline.settings import RoleSettings


def open_client(role: RoleSettings, run_folder: Path) -> LlmClient:
    """The client of a role (`settings.role("judge")`), before any call is made.

    `run_folder` is that of the asset being made: what its restarts have paid counts against
    max_usd. Raises ProviderError where no model plays the role or its key is missing.
    """
    if not role.asks_a_model:
        raise ProviderError(
            f"{role.key}.provider is {role.provider}, which asks no model; set it to openai or "
            "transformers"
        )
    read_key(role)
    cache = AnswerCache(cache_file(store_root()))
    scope = "/".join(run_folder.absolute().parts[-3:])
    backend = OpenAiBackend(role, cache.paid(scope))
    return CachedClient(role, role.base_url, backend, cache, scope)
