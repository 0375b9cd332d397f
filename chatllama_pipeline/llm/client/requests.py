"""The border between who asks a language model and who answers: one call and what came of it.

Judge and writer know these records alone; which provider answers, what was cached, retried and
paid is the client's business (`clients.open_client`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from chatllama_pipeline.records import Message

# Told how many of all requests have an answer.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class LlmRequest:
    """One call. Two requests that are equal are asked once and paid once.

    `json_schema` is the canonical JSON text of a schema that the reply must follow; it is sent
    where the client's `json_schema_supported`, and is otherwise without effect. `sample` tells
    several samples of the same question apart.
    """

    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    seed: int | None = None
    json_schema: str | None = None
    sample: int = 0


@dataclass(frozen=True)
class LlmReply:
    """What a model answered, without lone surrogates and control characters.

    `finish_reason` is the provider's: `stop`, `length` (cut off at max_tokens), `content_filter`,
    or `refusal` where the model declined by the API's own field.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached: bool
    model: str


@dataclass(frozen=True)
class LlmFailure:
    """A request without an answer: a short stable reason, and all that was said of it.

    Reasons: `prompt_too_long`, `content_filter`, `bad_request`, `malformed_reply`, `timeout`,
    `dropped`, `rate_limited`, `server_error`, `batch_expired`, `out_of_memory`. Where `retryable`,
    the same request may succeed in a later run.
    """

    reason: str
    detail: str
    retryable: bool


Answer = LlmReply | LlmFailure


@dataclass(frozen=True)
class Estimate:
    """What requests would cost now.

    `calls` are those that no cached answer saves. Prompt tokens are counted as one per three
    bytes of UTF-8, which is above what common tokenizers make of prose; completion tokens are
    max_tokens each, their upper bound. `usd` is None where the price is unknown.
    """

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    # Sentences a person should read before paying.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """What a client did so far. `failed` are requests without an answer.

    `usd` is what was paid, None where the price is unknown; a call whose connection broke counts
    with the most that it may have cost, since the provider may have charged it.
    """

    calls: int = 0
    cached: int = 0
    retried: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Ledger) -> Ledger:
        """What both did together."""
        unknown = self.usd is None or other.usd is None
        return Ledger(
            self.calls + other.calls,
            self.cached + other.cached,
            self.retried + other.retried,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if unknown else (self.usd or 0.0) + (other.usd or 0.0),
        )

    def metrics(self) -> dict[str, Any]:
        """As a version's manifest and Dagster's metadata show it."""
        usd = self.usd if self.usd is None else round(self.usd, 6)
        return {
            "llm_calls": self.calls,
            "llm_cached": self.cached,
            "llm_retried": self.retried,
            "llm_failed": self.failed,
            "llm_prompt_tokens": self.prompt_tokens,
            "llm_completion_tokens": self.completion_tokens,
            "llm_usd": "unknown" if usd is None else usd,
        }


class LlmClient(Protocol):
    """Answers requests by one model of one provider. Use it as a context manager."""

    model: str
    provider: str
    json_schema_supported: bool

    def answer(
        self, requests: Sequence[LlmRequest], progress: OnProgress | None = None
    ) -> list[Answer]:
        """An answer for each request, in their order.

        Ask much at once: a list is answered concurrently (a local model loads once and batches),
        and each answer is kept the moment it arrives. Raises ProviderError for what would hit
        every request (a wrong key, an unknown model, nobody at base_url) and BudgetError before
        max_usd would be passed; what was paid for until then is cached. Raises ProviderError, too,
        once all else is answered, where some failed for a reason that may pass: the next run asks
        for those alone, and gets their failures where none of a few runs had an answer.
        """
        ...

    def estimate(self, requests: Sequence[LlmRequest]) -> Estimate:
        """What `answer` would cost; calls nobody."""
        ...

    def ledger(self) -> Ledger:
        """All that this client did since it was opened."""
        ...

    def warnings(self) -> list[str]:
        """What a person should know of how the server took the calls, each told once."""
        ...

    def close(self) -> None:
        """End a local model's process; harmless where there is none."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
