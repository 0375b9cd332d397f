"""Clients of the `openai` SDK for a role's server: its URL with a query, its key, its proxies."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.settings import RoleSettings


def read_key(role: RoleSettings) -> str:
    """The key of a role from its environment variable; "" where nobody wants one.

    Raises ProviderError where there is none, or none that a header can carry; nothing of it is
    told.
    """
    if role.provider != "openai" or role.api_key_env is None:
        return ""
    key = os.environ.get(role.api_key_env, "").strip()
    where = f"{role.key}: the environment variable {role.api_key_env}"
    if not key:
        raise ProviderError(
            f"{where} holds no key for "
            f"{role.base_url}: set it where the pipeline runs (for `make ui`, before it starts), "
            f"or name another with {role.key}.api_key_env"
        )
    if unfit := _unfit(key):
        raise ProviderError(f"{where} holds {unfit}, so it is no key: copy the key anew, alone")
    return key


def _unfit(key: str) -> str:
    """What in a key no server's key has; "" where there is nothing."""
    if any(sign in key for sign in "\"'`\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"):
        return "quotation marks"
    if any(sign.isspace() for sign in key):
        return "a line break or a space within"
    if not all("!" <= sign <= "~" for sign in key):
        return "characters that are not printable ASCII"
    return ""


def open_sdk(role: RoleSettings, key: str, asynchronous: bool = True) -> Any:
    """An SDK client whose own retries are off where it is `asynchronous`.

    The query of base_url goes with every call; one that holds `api-version` is Azure's, whose keys
    stand in a header of their own. Raises ProviderError where none can be made.
    """
    import openai

    parts = urlsplit(role.base_url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    given: dict[str, Any] = {
        # The SDK wants some key; servers without one ignore it.
        "api_key": key or "none",
        "base_url": urlunsplit(parts._replace(query="", fragment="")),
        "default_query": query,
        "timeout": role.timeout,
    }
    makers: tuple[Any, Any] = (openai.OpenAI, openai.AsyncOpenAI)
    if version := query.pop("api-version", None):
        makers = (openai.AzureOpenAI, openai.AsyncAzureOpenAI)
        given["api_version"] = version
    if asynchronous:
        given["max_retries"] = 0
    try:
        client = makers[asynchronous](**given)
    except Exception as error:
        # Proxies and certificates of the environment are read here: any library's error may come.
        raise ProviderError(
            f"{role.key}: no client for {role.base_url} can be made "
            f"({type(error).__name__}: {error}): look at base_url, and at the environment "
            "variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from error
    if not role.is_openai:
        # The SDK reads them from the environment; they are nobody else's business.
        client.organization = client.project = None
    return client
