"""The client: what is cached is not asked, what is asked is kept at once, all of it is counted."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.cache import AnswerCache, Asked
from chatllama_pipeline.llm.client.dispatch import Dispatcher
from chatllama_pipeline.llm.client.money import (
    BATCH_DISCOUNT,
    OPENAI_TERMS,
    Budget,
    Tariff,
    likely_prompt_tokens,
)
from chatllama_pipeline.llm.client.openai_calls import Changes, OpenAiCaller
from chatllama_pipeline.llm.client.replies import clean
from chatllama_pipeline.llm.client.requests import (
    Answer,
    Estimate,
    Ledger,
    LlmFailure,
    LlmReply,
    LlmRequest,
    OnProgress,
)
from chatllama_pipeline.settings import RoleSettings

# A row whose failures might pass is asked in so many runs before it is set aside.
RUNS_TO_SET_ASIDE = 3
# Raised when the same request would be put to a provider in another way.
_KEY_VERSION = 1


class Backend(Protocol):
    """How requests that no cache answers are put to a provider."""

    def run(self, work: Sequence[Asked], keep: Keeper) -> None:
        """Hand every answer to `keep` the moment it arrives; raise what concerns them all."""
        ...

    def close(self) -> None: ...


class Keeper:
    """Takes what comes of requests: into the cache, the ledger, and to who waits for it."""

    def __init__(self, cache: AnswerCache, scope: str, ledger: Ledger) -> None:
        self.cache, self.scope = cache, scope
        self.ledger = ledger
        self.answers: dict[str, Answer] = {}
        self.warnings: list[str] = []
        self.on_answer: Callable[[], None] = lambda: None

    def reply(self, asked: Asked, reply: LlmReply, usd: float | None) -> None:
        self.cache.write(asked, reply, usd, self.scope)
        self._count(
            calls=1,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            usd=usd,
        )
        self.answers[asked.key] = reply
        if not _is_named(reply.model, asked.model):
            self.warn(
                f"{asked.place} answers as {reply.model!r}, and {asked.model!r} was asked: the "
                "server decides which model answers"
            )
        self.on_answer()

    def failure(self, asked: Asked, failure: LlmFailure) -> None:
        self._count(failed=1)
        self.answers[asked.key] = failure
        self.on_answer()

    def charge(self, usd: float, why: str) -> None:
        self.cache.charge(self.scope, usd, why)
        self._count(usd=usd)

    def warn(self, told: str) -> None:
        """Tell a person once."""
        if told not in self.warnings:
            self.warnings.append(told)

    def retry(self) -> None:
        self._count(retried=1)

    def count_cached(self, requests: int) -> None:
        self._count(cached=requests)

    def _count(self, **what: Any) -> None:
        self.ledger += Ledger(**what)


class CachedClient:
    """An `LlmClient` over a backend. `place` says where the model is: a URL, or a folder's hash."""

    def __init__(
        self, role: RoleSettings, place: str, backend: Backend, cache: AnswerCache, scope: str
    ) -> None:
        self.role, self.place = role, place
        self.model, self.provider = role.model, role.provider
        self.json_schema_supported = (
            role.provider == "openai" and role.style == "chat" and "json_schema" not in role.omit
        )
        self._backend, self._cache, self._scope = backend, cache, scope
        self._tariff = tariff(role)
        unknown = self._tariff.usd(1, 1) is None
        self._keeper = Keeper(cache, scope, Ledger(usd=None if unknown else 0.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._backend.close()
        self._cache.close()

    def answer(
        self, requests: Sequence[LlmRequest], progress: OnProgress | None = None
    ) -> list[Answer]:
        """See `LlmClient.answer`."""
        asked = self._asked(requests)
        unique = {one.key: one for one in asked}
        found = self._cache.read(list(unique), self._scope)
        missing = [one for key, one in unique.items() if key not in found]
        keeper = self._keeper
        keeper.count_cached(len(requests) - len(missing))
        keeper.answers = dict(found)
        if progress is not None:
            progress(len(found), len(unique))
            keeper.on_answer = lambda: progress(len(keeper.answers), len(unique))
        try:
            if missing:
                self._backend.run(missing, keeper)
        finally:
            keeper.on_answer = lambda: None
        self._finish(list(unique))
        answers = [keeper.answers[one.key] for one in asked]
        return _repeats_marked(asked, answers)

    def warnings(self) -> list[str]:
        """See `LlmClient.warnings`."""
        return list(self._keeper.warnings)

    def _finish(self, keys: Sequence[str]) -> None:
        """Raise where failures may pass; those of many runs are as good as the row's own."""
        answers = self._keeper.answers
        failed = {
            key: failure
            for key in keys
            if isinstance(failure := answers[key], LlmFailure) and failure.retryable
        }
        runs = self._cache.count_unanswered(list(failed))
        for key, count in runs.items():
            if count >= RUNS_TO_SET_ASIDE:
                answers[key] = dataclasses.replace(failed.pop(key), retryable=False)
        if not failed:
            return
        counts = Counter(failure.reason for failure in failed.values())
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        first = next(iter(failed.values()))
        raise ProviderError(
            f"{self.role.key}: {len(failed)} of {len(keys)} rows are still to ask ({reasons}): run "
            "again, which asks for them alone, since all other answers are kept. A row that gets "
            f"none in {RUNS_TO_SET_ASIDE} runs is set aside. Of the first it was said: "
            f"{first.detail}"
        )

    def estimate(self, requests: Sequence[LlmRequest]) -> Estimate:
        """See `LlmClient.estimate`."""
        unique = {one.key: one.request for one in self._asked(requests)}
        found = self._cache.read(list(unique))
        missing = [request for key, request in unique.items() if key not in found]
        prompt = sum(likely_prompt_tokens(request) for request in missing)
        completion = sum(request.max_tokens for request in missing)
        return Estimate(
            calls=len(missing),
            cached=len(requests) - len(missing),
            prompt_tokens=prompt,
            completion_tokens=completion,
            usd=self._tariff.usd(prompt, completion),
            notes=notes(self.role),
        )

    def ledger(self) -> Ledger:
        """See `LlmClient.ledger`."""
        return self._keeper.ledger

    def _asked(self, requests: Sequence[LlmRequest]) -> list[Asked]:
        role = self.role
        who = [_KEY_VERSION, role.provider, self.place, role.model, role.style]
        how = [sorted(role.omit), dict(role.extra_body)]
        start = hashlib.sha256(json.dumps([who, how], sort_keys=True).encode())
        asked = []
        for request in requests:
            digest = start.copy()
            said = [[message.role, clean(message.content)] for message in request.messages]
            drawn = [float(request.temperature), request.max_tokens, request.seed, request.sample]
            digest.update(json.dumps([said, drawn, request.json_schema]).encode())
            asked.append(Asked(digest.hexdigest(), role.provider, self.place, role.model, request))
        return asked


def _repeats_marked(asked: Sequence[Asked], answers: list[Answer]) -> list[Answer]:
    """Of equal requests the first was asked; the others had its answer for nothing."""
    seen: set[str] = set()
    for index, one in enumerate(asked):
        answer = answers[index]
        if one.key in seen and isinstance(answer, LlmReply):
            answers[index] = dataclasses.replace(answer, cached=True)
        seen.add(one.key)
    return answers


def _is_named(answered: str, asked: str) -> bool:
    """Whether a server's name for its model may mean the one that was asked: with another prefix,
    a date, or a tag."""
    told, wanted = (
        name.lower().replace("\\", "/").rpartition("/")[2].partition(":")[0]
        for name in (answered, asked)
    )
    return told.startswith(wanted) or wanted.startswith(told)


def tariff(role: RoleSettings) -> Tariff:
    """What a role's calls cost."""
    return Tariff(role.price or "unknown", BATCH_DISCOUNT if role.batch else 1.0)


def notes(role: RoleSettings) -> tuple[str, ...]:
    """What a person should read before a role's calls are paid."""
    told = []
    if role.is_openai:
        told.append(OPENAI_TERMS)
    if role.price == "unknown":
        told.append(f"the price of {role.model} is unknown: llm.max_usd does not hold")
    if role.batch:
        told.append(f"{role.base_url} answers batches within 24 hours, at half the price")
    return tuple(told)


class OpenAiBackend:
    """Concurrent calls to a server that speaks the OpenAI API.

    `paid` gives the US dollars paid so far, by whatever client shares the budget.
    """

    def __init__(self, role: RoleSettings, paid: Callable[[], float]) -> None:
        self._role, self._paid = role, paid
        self._changes = Changes()

    def run(self, work: Sequence[Asked], keep: Keeper) -> None:
        self._changes.tell = keep.warn
        asyncio.run(self._run(work, keep))

    async def _run(self, work: Sequence[Asked], keep: Keeper) -> None:
        async with OpenAiCaller(self._role, self._changes) as call:
            dispatcher = Dispatcher(
                call,
                self._role,
                tariff(self._role),
                Budget(self._role.max_usd, self._paid()),
                on_reply=keep.reply,
                on_failure=keep.failure,
                on_charge=keep.charge,
                on_retry=keep.retry,
            )
            await dispatcher.run(work)

    def close(self) -> None:
        pass
