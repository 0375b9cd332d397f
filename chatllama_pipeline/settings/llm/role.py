"""A role of `llm` with everything decided: its own keys, those it takes over, the defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from chatllama_pipeline.settings.llm.provider import (
    CallSettings,
    LlmRole,
    LlmSettings,
    ModelPrice,
    Price,
    Style,
)
from chatllama_pipeline.settings.llm.rubric import Criterion

RoleName = Literal["writer", "judge", "evaluation_judge"]

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
JUDGE_TEMPERATURE, WRITER_TEMPERATURE = 0.1, 1.0
MAX_TOKENS, TIMEOUT_SECONDS, CONCURRENCY, BATCH_SIZE = 512, 120.0, 16, 8

# Models that only complete text. They are gone from OpenAI and live on in people's configs and
# behind compatible servers.
_COMPLETION_MODELS = re.compile(
    r"(text-(davinci|curie|babbage|ada)-\d+|(davinci|babbage)-002|gpt-3\.5-turbo-instruct.*)"
)
# The original ChatLLaMA's names, and today's way.
_ORIGINAL_MODELS = ("text-davinci-003", "gpt-3.5-turbo")
_ENDED = {
    "text-davinci-003": "OpenAI shut it down in January 2024",
    "gpt-3.5-turbo": "a model of 2022 that OpenAI has replaced",
}


@dataclass(frozen=True)
class RoleSettings:
    """One role, resolved. `key` is where it stands in config.yaml, for messages."""

    key: str
    provider: str
    model: str
    base_url: str
    api_key_env: str | None
    style: Style
    temperature: float
    max_tokens: int
    timeout: float
    concurrency: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    price: ModelPrice | None
    max_usd: float
    batch: bool
    omit: Sequence[str]
    extra_body: Mapping[str, Any]
    batch_size: int
    rubric: Sequence[Criterion] = ()

    @property
    def asks_a_model(self) -> bool:
        """Whether a language model plays this role."""
        return self.provider in ("openai", "transformers")

    @property
    def is_openai(self) -> bool:
        """Whether OpenAI itself answers, whose terms and parameter names then hold."""
        return self.provider == "openai" and _is_openai(self.base_url)

    def is_the_model_of(self, other: RoleSettings) -> bool:
        """Whether the same model plays both roles, wherever it is served."""
        if not (self.asks_a_model and other.asks_a_model):
            return self.provider == other.provider
        ours, theirs = PurePath(self.model.casefold()), PurePath(other.model.casefold())
        if self.provider == other.provider == "transformers":
            return ours == theirs
        return ours.name == theirs.name  # a server may leave out whose model it is

    @property
    def models_url(self) -> str:
        """Where a server lists its models."""
        parts = urlsplit(self.base_url)
        return urlunsplit(parts._replace(path=f"{parts.path}/models"))

    def faults(self) -> list[str]:
        """What is missing or contradicts itself; each names its key and the cure."""
        if self.provider == "rubric" and not self.rubric:
            return [
                f"{self.key}.provider: rubric judges by the section rubric, which is empty: list "
                "there what a reply earns points for"
            ]
        if not self.asks_a_model:
            return []
        if not self.model:
            return [f"{self.key}.model is missing: name the model that {self.provider} shall ask"]
        found = []
        if self.provider == "openai" and (unfit := _unfit_url(self.base_url)):
            found.append(f"{self.key}.base_url: {self.base_url!r} {unfit}")
        if self.provider == "openai" and self.price is None:
            found.append(
                f"llm.prices has no price for {self.model!r} ({self.key}.model): set {self.key}."
                f"price or llm.prices to {{input: ..., output: ...}} in US dollars per million "
                f"tokens as the provider lists them, to free (your own server), or to unknown "
                f"(then no money is counted, and llm.max_usd can't hold)"
            )
        if self.batch and self.provider != "openai":
            found.append(f"{self.key}.batch: true needs provider: openai, not {self.provider}")
        return found

    def warnings(self) -> list[str]:
        """What works and yet should be told."""
        told = []
        if self.provider == "openai" and self.model in _ORIGINAL_MODELS:
            told.append(
                f"{self.key}.model: {self.model!r} is sent as it is, but {_ENDED[self.model]}; "
                f"choose a chat model that {self.models_url} lists, and style: chat"
            )
        return told


def resolve(
    role: RoleName, llm: LlmSettings, evaluation_judge: LlmRole, rubric: Sequence[Criterion] = ()
) -> RoleSettings:
    """The settings of a role; `rubric` is what the provider of that name judges by.

    What a role leaves out it takes from above: evaluation.judge from llm.judge, that and
    llm.writer from llm. A role that names another provider takes nothing over.
    """
    own = {"writer": llm.writer, "judge": llm.judge, "evaluation_judge": evaluation_judge}[role]
    chain: list[tuple[str, CallSettings]] = [("llm", llm)]
    if role == "evaluation_judge":
        chain.insert(0, ("llm.judge", llm.judge))
    key = "evaluation.judge" if role == "evaluation_judge" else f"llm.{role}"
    chain.insert(0, (key, own))
    provider, given = _taken_over(chain)
    if not own.model_fields_set:
        key = next((name for name, level in chain if level.model_fields_set), "llm")
    decided = _decided(key, provider, given, role, llm)
    return replace(decided, rubric=tuple(rubric)) if provider == "rubric" else decided


def _is_openai(base_url: str) -> bool:
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    return host == "openai.com" or host.endswith(".openai.com")


def _plain_url(base_url: str) -> str:
    """A base URL without the paths of calls, as consoles show it, or a slash at the end."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return base_url
    path = parts.path.rstrip("/")
    for call in ("/chat/completions", "/completions"):
        path = path.removesuffix(call)
    return urlunsplit(parts._replace(path=path))


def _unfit_url(base_url: str) -> str:
    """Why no server can be reached by a URL; "" where one may be."""
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError as error:
        return f"is no URL ({error}): ports go up to 65535, and an IPv6 address stands in brackets"
    if not parts.hostname or port == 0:
        return "names no server: write http://HOST:PORT/v1"
    return ""


def _taken_over(chain: Sequence[tuple[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The provider, and every key's first value among the levels that speak of it."""
    provider = next(level.provider for _, level in chain if level.provider is not None)
    given: dict[str, Any] = {}
    for _, level in chain:
        if level.provider not in (None, provider):
            break
        named = "model" in given
        for name in CallSettings.model_fields:
            # The price beside another model's name is that model's.
            if getattr(level, name) is not None and not (named and name == "price"):
                given.setdefault(name, getattr(level, name))
    return provider, given


def _decided(
    key: str, provider: str, given: dict[str, Any], role: RoleName, llm: LlmSettings
) -> RoleSettings:
    model = given.get("model") or ""
    style: Style = "completion" if _COMPLETION_MODELS.fullmatch(model) else "chat"
    price: ModelPrice | None = given.get("price") or llm.prices.get(model)
    if provider == "transformers":
        price = Price(input=0, output=0)
    base_url = _plain_url(given.get("base_url") or OPENAI_URL)
    temperature = WRITER_TEMPERATURE if role == "writer" else JUDGE_TEMPERATURE
    return RoleSettings(
        key=key,
        provider=provider,
        model=model,
        base_url=base_url,
        # OpenAI's key is for OpenAI: another server gets one only where its variable is named.
        api_key_env=given.get("api_key_env", OPENAI_KEY if _is_openai(base_url) else None),
        style=given.get("style") or style,
        temperature=given.get("temperature", temperature),
        max_tokens=given.get("max_tokens", MAX_TOKENS),
        timeout=given.get("timeout", TIMEOUT_SECONDS),
        concurrency=given.get("concurrency", CONCURRENCY),
        requests_per_minute=given.get("requests_per_minute"),
        tokens_per_minute=given.get("tokens_per_minute"),
        price=price,
        max_usd=llm.max_usd,
        batch=given.get("batch", False),
        omit=tuple(given.get("omit", ())),
        extra_body=given.get("extra_body", {}),
        batch_size=given.get("batch_size", BATCH_SIZE),
    )
