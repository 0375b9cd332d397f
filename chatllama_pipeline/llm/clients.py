"""Opens the client of a role: the one way from settings to a language model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.batches import BatchBackend
from chatllama_pipeline.llm.client.cache import AnswerCache, cache_file
from chatllama_pipeline.llm.client.calls import Backend, CachedClient, OpenAiBackend
from chatllama_pipeline.llm.client.requests import LlmClient
from chatllama_pipeline.llm.client.sdk import read_key
from chatllama_pipeline.llm.local.server import LocalBackend, Machine, place_of
from chatllama_pipeline.settings import RoleSettings
from chatllama_pipeline.store.versions import store_root


def open_client(
    role: RoleSettings,
    run_folder: Path,
    machine: Machine | None = None,
    only_estimates: bool = False,
) -> LlmClient:
    """The client of a role (`settings.role("judge")`), before any call is made.

    `run_folder` is that of the asset being made: what its restarts have paid counts against
    max_usd, and a local model's process works there, on `machine` (the CPU if None). A client that
    only estimates needs no key. Raises ProviderError where no model plays the role or its key is
    missing, SettingsError where a local folder holds none.
    """
    if not role.asks_a_model:
        raise ProviderError(
            f"{role.key}.provider is {role.provider}, which asks no model; set it to openai or "
            "transformers"
        )
    scope = "/".join(run_folder.absolute().parts[-3:])
    backend: Backend
    # What can be refused is refused before a file is made.
    if role.provider == "transformers":
        place = place_of(role)
        cache = AnswerCache(cache_file(store_root()))
        backend = LocalBackend(role, machine or Machine(), run_folder / "llm" / role.key)
    else:
        place = role.base_url
        if not only_estimates:
            read_key(role)
        cache = AnswerCache(cache_file(store_root()))
        if role.batch:
            backend = BatchBackend(role, cache, scope)
        else:
            backend = OpenAiBackend(role, partial(cache.paid, scope))
    return CachedClient(role, place, backend, cache, scope)
