"""What a call costs, and the budget that no call may pass. US dollars throughout."""

from __future__ import annotations

from dataclasses import dataclass

from chatllama_pipeline.llm.client.requests import LlmRequest
from chatllama_pipeline.settings import Price
from chatllama_pipeline.settings.llm.provider import ModelPrice

OPENAI_TERMS = (
    "OpenAI's terms don't allow using its output to develop models that compete with OpenAI: "
    "read https://openai.com/policies before you train on it"
)
# Of the Batch API's price list.
BATCH_DISCOUNT = 0.5

_PROSE_BYTES_PER_TOKEN = 3
# A chat template's words around a conversation and around each of its messages.
_TOKENS_AROUND, _TOKENS_PER_MESSAGE = 64, 16
# Sums of floats may end a hair above the limit that they were held against.
_HAIR = 1e-9


def prompt_bytes(request: LlmRequest) -> int:
    """UTF-8 bytes of all that a request sends as text."""
    texts = [message.content for message in request.messages]
    return sum(len(text.encode("utf-8", "replace")) for text in [*texts, request.json_schema or ""])


def likely_prompt_tokens(request: LlmRequest) -> int:
    """One token per three bytes, more than common tokenizers make of prose."""
    return -(-prompt_bytes(request) // _PROSE_BYTES_PER_TOKEN) + 4 * len(request.messages)


def most_prompt_tokens(request: LlmRequest) -> int:
    """No byte-level tokenizer makes more tokens than there are bytes."""
    around = _TOKENS_AROUND + _TOKENS_PER_MESSAGE * len(request.messages)
    return prompt_bytes(request) + around


@dataclass(frozen=True)
class Tariff:
    """A model's price; `share` of it is charged (the Batch API charges half)."""

    price: ModelPrice
    share: float = 1.0

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What that many tokens cost; None where the price is unknown."""
        if isinstance(self.price, Price):
            dollars = prompt_tokens * self.price.input + completion_tokens * self.price.output
            return dollars * self.share / 1e6
        return 0.0 if self.price == "free" else None

    def most_usd(self, request: LlmRequest) -> float:
        """The most that a call may cost; 0 where the price is unknown and nothing can be held."""
        return self.usd(most_prompt_tokens(request), request.max_tokens) or 0.0


class Budget:
    """`max_usd` against what is paid and what is under way.

    A call's most possible price is reserved before it is sent and settled by its real one after,
    so that what is paid never passes the limit, however many calls are under way.
    """

    def __init__(self, max_usd: float, paid: float) -> None:
        self.max_usd = max_usd
        self.paid = paid
        self._reserved: dict[int, float] = {}
        self._next = 0

    @property
    def under_way(self) -> bool:
        return bool(self._reserved)

    def reserve(self, usd: float) -> int | None:
        """A ticket for `usd`, or None where paid and reserved would pass the limit."""
        return self.hold(usd) if self.fits(usd) else None

    def fits(self, usd: float) -> bool:
        """Whether `usd` more would keep within the limit."""
        return usd <= 0 or self.paid + sum(self._reserved.values()) + usd <= self.max_usd + _HAIR

    def hold(self, usd: float) -> int:
        """A ticket for what is under way already, whatever the limit."""
        self._next += 1
        self._reserved[self._next] = usd
        return self._next

    def settle(self, ticket: int, usd: float) -> None:
        """Put what was really paid in the place of a reservation."""
        del self._reserved[ticket]
        self.paid += usd
